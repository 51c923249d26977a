"""The programs of llama.cpp: where they are, and running one to its end."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from jeep_core.errors import MissingProgram, NotExportable
from jeep_core.monitor import NOTHING, Monitor

CONVERTER, QUANTIZER, SERVER = "convert_hf_to_gguf.py", "llama-quantize", "llama-server"
_PLACES = (".", "bin", "build/bin")
"""Where the programs lie in a folder of llama.cpp: installed, or built there."""
_INSTALL = (
    "install llama.cpp (its source has the converter, cmake builds the other programs: "
    "docs/exports-gguf.md) and name its folder in JEEP_LLAMA_CPP"
)
_LOOK_AGAIN = 0.1
"""Seconds between two looks at a program that runs."""
_FULL = 2**20
"""Bytes of a disk that has no room for a file."""
_SHOWN = 300
"""Characters of a program's last line that an error repeats."""


@dataclass(frozen=True)
class LlamaCpp:
    """The programs of llama.cpp that were found; a path is None where one was not.

    ``at_start`` is called in each child before the program begins.
    """

    converter: Path | None = None
    quantizer: Path | None = None
    server: Path | None = None
    at_start: Callable[[], object] | None = field(default=None, compare=False)

    @classmethod
    def find(
        cls, folder: Path | None = None, at_start: Callable[[], object] | None = None
    ) -> LlamaCpp:
        """Look in a folder of llama.cpp, if one is given, and on the search path."""
        return cls(
            _found(CONVERTER, folder), _found(QUANTIZER, folder), _found(SERVER, folder), at_start
        )

    def needed(self, name: str) -> Path:
        """The path of the program with this name.

        Raises:
            MissingProgram: it was not found; says how it is installed.
        """
        known = {CONVERTER: self.converter, QUANTIZER: self.quantizer, SERVER: self.server}
        found = known[name]
        if found is None:
            raise MissingProgram(f"{name} of llama.cpp was not found: {_INSTALL}", name)
        return found

    def run(
        self,
        name: str,
        arguments: Sequence[str],
        log: Path,
        monitor: Monitor = NOTHING,
    ) -> None:
        """Run a program to its end; what it prints goes to ``log``.

        Raises:
            MissingProgram: it was not found, or is not a program.
            NotExportable: it ended with an error; repeats its last line.
            OSError: it ended with an error on a disk that is full (ENOSPC).
            Whatever ``monitor.check`` raises; the program is ended before.
        """
        path = self.needed(name)
        command = [str(path), *arguments]
        if name == CONVERTER:
            command.insert(0, sys.executable)
        with log.open("wb") as out:
            process = started(command, out, self.at_start, name, child_environment())
            try:
                while process.poll() is None:
                    monitor.check()
                    time.sleep(_LOOK_AGAIN)
            finally:
                process.kill()
                process.wait()
        if process.returncode != 0:
            # the programs say no more than that they could not write
            if shutil.disk_usage(log.parent).free < _FULL:
                raise OSError(errno.ENOSPC, f"No space left for what {name} writes", str(log))
            raise NotExportable(
                f"{name} of llama.cpp ended with {process.returncode}: {last_line(log)}"
            )


def child_environment(**more: str) -> dict[str, str]:
    """The environment of a child: this process's without the service's settings, and ``more``.

    Passwords are among the settings, and no hub is asked for anything.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("JEEP_")}
    return {**own, "HF_HUB_OFFLINE": "1", **more}


def started(
    command: Sequence[str],
    out: BinaryIO,
    at_start: Callable[[], object] | None,
    name: str,
    environment: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """A running child that reads nothing and prints into a file.

    Raises:
        MissingProgram: what was found is not a program of this machine.
    """
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            preexec_fn=at_start,
            env=environment,
        )
    except OSError as error:
        raise MissingProgram(
            f"{command[0]} cannot be started ({error.strerror}): {_INSTALL}", name
        ) from None


def last_line(log: Path) -> str:
    """The last line that a program printed, shortened."""
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines()]
    said = [line for line in lines if line]
    return said[-1][:_SHOWN] if said else "it printed nothing"


def _found(name: str, folder: Path | None) -> Path | None:
    for place in _PLACES if folder is not None else ():
        assert folder is not None
        path = folder / place / name
        if path.is_file():
            return path.resolve()
    on_path = shutil.which(name)
    return None if on_path is None else Path(on_path)
