"""The ``jeep`` command: run the service, use one from a terminal, work on models without one.

What belongs here: ``tree.py`` names every command with its one line of help, ``commands/`` holds
one module for each group, ``common.py`` and ``library.py`` what several of them share, and
``tables.py`` how answers look.  A command's module is imported when the command is run or asked
for its help, so ``jeep --help`` costs no more than drawing it.  Nothing here imports torch: what
needs it is a function of ``jeep_core.commands`` or of the worker and is imported when it runs.
"""

from __future__ import annotations

from service.cli.tree import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point."""
    app()
