"""llama.cpp's server as it is built (``make interop``): as a router, or with a model of its own."""

from __future__ import annotations

import os
from pathlib import Path

import httpx

from jeep_core.exports.gguf.tools import LlamaCpp
from support.interop.program import Program

START_S = 120.0


class Router(Program):
    """llama-server without a model."""

    def __init__(self, folder: Path, logs: Path) -> None:
        super().__init__(logs / "llama-server.log")
        found = LlamaCpp.find(Path(os.environ["JEEP_LLAMA_CPP"])).server
        assert found is not None, "JEEP_LLAMA_CPP has no llama-server"
        self.program, self.folder, self._cache = found, folder, logs / "cache"

    def start(self, *more: str) -> float:
        """Start it; the seconds until it has answered.  ``more`` instead of the folder."""
        given = more or ("--models-dir", str(self.folder))
        command = [str(self.program), *given, "--threads", "1", "--ctx-size", "1024", "--offline"]
        return self.run(command, {"LLAMA_CACHE": str(self._cache)}, "/health", START_S)

    def running(self) -> list[str]:
        """The models that it answers from."""
        listed = httpx.get(f"{self.url}/models").json()["data"]
        return sorted(one["id"] for one in listed if one["status"]["value"] == "loaded")
