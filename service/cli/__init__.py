"""The ``jeep`` command: run the service, and use one from a terminal."""

from __future__ import annotations

from service.cli import (
    audit_commands,
    backup_commands,
    client_commands,
    evaluate,
    hypernetworks,
    keys_commands,
    models,
    probe,
    service_commands,
    store_commands,
    version_commands,
)
from service.cli.common import app

__all__ = [
    "app",
    "audit_commands",
    "backup_commands",
    "client_commands",
    "evaluate",
    "hypernetworks",
    "keys_commands",
    "main",
    "models",
    "probe",
    "service_commands",
    "store_commands",
    "version_commands",
]


def main() -> None:
    """Entry point."""
    app()
