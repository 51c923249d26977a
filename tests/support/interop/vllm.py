"""A vLLM server as it is published, in an environment of its own (``make interop`` sets it up)."""

from __future__ import annotations

import os
import time
from pathlib import Path

from support import ROOT
from support.interop.program import Program

PYTHON = Path(os.environ.get("INTEROP_VLLM", ROOT / ".venv-vllm")) / "bin/python"
START_S, WARM_S = 1200.0, 600.0
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class Vllm(Program):
    """vLLM with a model.

    The first request compiles kernels, which takes minutes on a CPU: it is sent at the start.
    """

    def __init__(self, model: Path, folder: Path, name: str = "smol") -> None:
        super().__init__(folder / "vllm.log")
        self.model, self.name = model, name

    def start(self, max_rank: int = 64) -> float:
        """Start it; the seconds until it has answered."""
        began = time.monotonic()
        command = [
            str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.model),
            "--served-model-name", self.name, "--dtype", "float32", "--max-model-len", "512",
            "--max-num-seqs", "4", "--enforce-eager", "--enable-lora", "--max-loras", "4",
            "--max-lora-rank", str(max_rank),
        ]  # fmt: skip
        self.run(command, ENVIRONMENT, "/v1/models", START_S)
        self.complete(self.name, "Once", WARM_S)
        return time.monotonic() - began
