"""The command ``jeep`` in a process of its own, as a shell runs it, without the seconds of a start.

It has the environment of the test, and its own input, output, signals and exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from support.forks.context import forks
from support.service.command import Ended

PATIENCE_S = 60.0


def start(*arguments: str, out: Path, errors: Path) -> BaseProcess:
    """Start ``jeep`` with these arguments; what it prints goes to two files."""
    for path in (out, errors):
        path.touch()
    process = forks().Process(target=_jeep, args=(arguments, dict(os.environ), out, errors))
    process.start()
    return process


def jeep(*arguments: str) -> Ended:
    """Run ``jeep`` to its end."""
    with TemporaryDirectory() as folder:
        out, errors = Path(folder) / "out", Path(folder) / "errors"
        process = start(*arguments, out=out, errors=errors)
        process.join(PATIENCE_S)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
            raise AssertionError(f"jeep {arguments} did not end: {errors.read_text()}")
        return Ended(code, out.read_text(), errors.read_text())


def _jeep(
    arguments: tuple[str, ...], environment: Mapping[str, str], out: Path, errors: Path
) -> None:
    from service.cli import main

    for number, path in ((1, out), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["jeep", *arguments]
    main()
