"""A running ``jeep serve`` for programs of others, which run in this environment, too."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

START_S = 300


@contextmanager
def serving(model: Path, folder: Path, **settings: str) -> Iterator[str]:
    """The address of a service with a model on a free port of the loopback interface."""
    log = folder / "service.log"
    command = [sys.executable, "-m", "service.cli", "serve", "--auth", "off", "--port", "0"]
    command += ["--store", str(folder / "store"), "--model", str(model)]
    environment = {**os.environ, "JEEP_GENERATE_TIMEOUT_S": "600", **settings}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        process.wait(60)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline, mark = time.monotonic() + START_S, "listening at "
    while time.monotonic() < deadline and process.poll() is None:
        _, found, rest = log.read_text().partition(mark)
        if found and rest.split():
            url = rest.split()[0]
            if httpx.get(f"{url}/readyz").is_success:
                return url
        time.sleep(0.2)
    raise AssertionError(log.read_text())
