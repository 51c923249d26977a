"""The command ``jeep`` in a process of its own, as a shell runs it, without the seconds of a start.

It has the environment of the test, and its own output, signals and exit code.  Distributions in
folders that ``PYTHONPATH`` names are found, too.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from support.forks import workers
from support.forks.context import forks
from support.service.command import Ended

PATIENCE_S = 60.0


class Running:
    """A command that was started, with what the tests use of `subprocess.Popen`."""

    def __init__(self, *arguments: str, out: Path, errors: Path) -> None:
        for path in (out, errors):
            path.touch()
        given = (arguments, dict(os.environ), out, errors)
        self._process = forks().Process(target=_jeep, args=given)
        self._process.start()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        self._process.join(0)
        return self._process.exitcode

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """Wait for its end; one that does not end is killed."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
            raise AssertionError(f"jeep did not end in {seconds:g} s")
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            assert self._process.pid is not None
            os.kill(self._process.pid, number)


def jeep(*arguments: str) -> Ended:
    """Run ``jeep`` to its end."""
    with TemporaryDirectory() as folder:
        out, errors = Path(folder) / "out", Path(folder) / "errors"
        code = Running(*arguments, out=out, errors=errors).wait()
        return Ended(code, out.read_text(), errors.read_text())


def _jeep(
    arguments: tuple[str, ...], environment: Mapping[str, str], out: Path, errors: Path
) -> None:
    from service.cli import main
    from service.ops.parent_death import death_signal

    death_signal(signal.SIGKILL)()
    for number, path in ((1, out), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [folder for folder in named if folder and folder not in sys.path]
    sys.argv = ["jeep", *arguments]
    if arguments[0] == "serve":
        workers.fork_them()
    main()
