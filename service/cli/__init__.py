"""The ``jeep`` command: run the service, and use one from a terminal."""

from __future__ import annotations

from service.cli import client_commands, evaluate, probe, service_commands
from service.cli.common import app

__all__ = ["app", "client_commands", "evaluate", "main", "probe", "service_commands"]


def main() -> None:
    """Entry point."""
    app()
