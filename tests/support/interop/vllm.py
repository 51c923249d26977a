"""A vLLM server as it is published, in an environment of its own (``make interop`` sets it up)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from support import ROOT

PYTHON = Path(os.environ.get("INTEROP_VLLM", ROOT / ".venv-vllm")) / "bin/python"
START_S, WARM_S = 1200.0, 600.0


class Vllm:
    """vLLM with a model on one port; it can be stopped and started again.

    The first request compiles kernels, which takes minutes on a CPU: it is sent at the start.
    """

    def __init__(self, model: Path, folder: Path, name: str = "smol") -> None:
        self.model, self.name = model, name
        self._log = folder / "vllm.log"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self, max_rank: int = 64) -> float:
        """Start it; the seconds until it has answered."""
        began = time.monotonic()
        command = [
            str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.model),
            "--served-model-name", self.name, "--host", "127.0.0.1", "--port", str(self._port),
            "--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "4",
            "--enforce-eager", "--enable-lora", "--max-loras", "4",
            "--max-lora-rank", str(max_rank),
        ]  # fmt: skip
        environment = {
            **os.environ,
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        with self._log.open("a") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        self._wait(began)
        self.complete(self.name, "Once", WARM_S)
        return time.monotonic() - began

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

    def _wait(self, began: float) -> None:
        assert self._process is not None
        while time.monotonic() < began + START_S and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/v1/models", timeout=5).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise AssertionError(self._log.read_text()[-4000:])
