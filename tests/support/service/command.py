"""The command ``jeep`` as a client of a running api."""

import os
import subprocess
import sys
from dataclasses import dataclass

from typer.testing import CliRunner

from service.cli import app

WIDE = {"COLUMNS": "200"}


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def jeep(url: str, *arguments: str, stdin: str = "") -> Ended:
    """Run a command in this process, which saves the seconds of a start."""
    shown = CliRunner().invoke(app, [*arguments, "--url", url], input=stdin, env=WIDE)
    if shown.exception is not None and not isinstance(shown.exception, SystemExit):
        raise shown.exception
    return Ended(shown.exit_code, shown.stdout, shown.stderr)


def jeep_process(url: str, *arguments: str, stdin: str = "") -> Ended:
    """Run a command as a shell does."""
    command = [sys.executable, "-m", "service.cli", *arguments, "--url", url]
    shown = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=60,
        env={**os.environ, **WIDE}, check=False,
    )  # fmt: skip
    return Ended(shown.returncode, shown.stdout, shown.stderr)
