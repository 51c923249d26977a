"""The ``jeep`` command: run the service, and use one from a terminal."""

from __future__ import annotations

from service.cli import audit_commands, client_commands, keys_commands, service_commands
from service.cli.common import app

__all__ = ["app", "audit_commands", "client_commands", "keys_commands", "main", "service_commands"]


def main() -> None:
    """Entry point."""
    app()
