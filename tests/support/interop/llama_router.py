"""llama.cpp's server as it is built (``make interop``): as a router, or with a model of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from jeep_core.exports.gguf.tools import LlamaCpp

START_S = 120.0


class Router:
    """llama-server without a model, on one port; it can be stopped and started again."""

    def __init__(self, folder: Path, logs: Path) -> None:
        found = LlamaCpp.find(Path(os.environ["JEEP_LLAMA_CPP"])).server
        assert found is not None, "JEEP_LLAMA_CPP has no llama-server"
        self.program, self.folder = found, folder
        self._log = logs / "llama-server.log"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self, *more: str) -> float:
        """Start it; the seconds until it has answered.  ``more`` instead of the folder."""
        began = time.monotonic()
        given = more or ("--models-dir", str(self.folder))
        command = [
            str(self.program), *given, "--host", "127.0.0.1", "--port", str(self._port),
            "--threads", "1", "--ctx-size", "1024", "--offline",
        ]  # fmt: skip
        environment = {**os.environ, "LLAMA_CACHE": str(self._log.parent / "cache")}
        with self._log.open("a") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        while time.monotonic() < began + START_S and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).is_success:
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

    def running(self) -> list[str]:
        """The models that it answers from."""
        listed = httpx.get(f"{self.url}/models").json()["data"]
        return sorted(one["id"] for one in listed if one["status"]["value"] == "loaded")

    def complete(self, model: str, prompt: str) -> str:
        """The greedy answer to a prompt, a few tokens long."""
        body: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": 6, "temperature": 0}
        answer = httpx.post(f"{self.url}/v1/completions", json=body, timeout=120)
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["text"])
