"""A server of another project, as a process of its own on one port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx


class Program:
    """It can be stopped and started again; ``log`` is where it writes."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def run(
        self, command: Sequence[str], more: Mapping[str, str], ready: str, seconds: float
    ) -> float:
        """Start it on its port; the seconds until the path ``ready`` is answered.

        ``more`` are variables beside those of the environment.
        """
        began = time.monotonic()
        command = [*command, "--host", "127.0.0.1", "--port", str(self._port)]
        with self._log.open("a") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                env={**os.environ, **more},
                start_new_session=True,
            )
        while time.monotonic() < began + seconds and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}{ready}", timeout=5).is_success:
                    return time.monotonic() - began
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(self._log.read_text()[-4000:])

    def stop(self) -> None:
        """Kill it with all its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(60)
            self._process = None

    def complete(self, model: str, prompt: str, timeout: float = 120.0) -> str:
        """The greedy answer to a prompt, a few tokens long."""
        body: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": 6, "temperature": 0}
        answer = httpx.post(f"{self.url}/v1/completions", json=body, timeout=timeout)
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["text"])
