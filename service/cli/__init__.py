"""The ``jeep`` command: run the service, and use one from a terminal."""

from __future__ import annotations

from service.cli import (
    backup_commands,
    client_commands,
    evaluate,
    hypernetworks,
    probe,
    service_commands,
    store_commands,
    version_commands,
)
from service.cli.common import app

__all__ = [
    "app",
    "backup_commands",
    "client_commands",
    "evaluate",
    "hypernetworks",
    "main",
    "probe",
    "service_commands",
    "store_commands",
    "version_commands",
]


def main() -> None:
    """Entry point."""
    app()
