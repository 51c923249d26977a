"""Played servers of other projects: they answer from a real model, as far as targets ask them.

`PlayedVllm` loads adapters as vLLM 0.32.0 was seen to: shapes that do not fit are accepted, the
rank is checked, a folder that is not there is a 404.  `PlayedSglang` records what it is asked and
reads whole checkpoints, by SGLang's documentation.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from jeep_core.models.families import is_transposed
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from service.worker.targets.proof import next_token

Reply = tuple[int, Any]


class Played:
    """A server on a port of the loopback interface; a test changes its behaviour while it runs.

    ``asked`` holds method, path, body and headers of every request.  ``broken``: the answer to
    every request instead of the right one; ``delay_s``: before each; ``moved``: where it redirects
    to; ``key``: what it wants to be shown; ``drips``: the part of its answers, headers or body, of
    which it sends a byte a moment.
    """

    def __init__(self, base: LoadedModel) -> None:
        self.base = base
        self.asked: list[tuple[str, str, Any, dict[str, str]]] = []
        self.broken: Reply | None = None
        self.delay_s = 0.0
        self.moved: str | None = None
        self.key: str | None = None
        self.drips: str | None = None
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        played = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                played._answer(self, None)

            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                played._answer(self, json.loads(self.rfile.read(size)))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def restart(self) -> None:
        """Start again with nothing but the base model."""
        self.stop()
        self.forget()
        self.start()

    def paths(self) -> list[str]:
        """What was asked for so far."""
        return [path for _, path, _, _ in self.asked]

    def forget(self) -> None:
        """Lose what a new process would not have."""
        raise NotImplementedError

    def reply(self, path: str, body: Any) -> Reply:
        """The right answer."""
        raise NotImplementedError

    def _answer(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        headers = dict(handler.headers.items())
        self.asked.append((handler.command, handler.path, body, headers))
        time.sleep(self.delay_s)
        if self.drips is not None:
            self._drip(handler)
            return
        if self.moved is not None:
            handler.send_response(307)
            handler.send_header("Location", self.moved + handler.path)
            handler.end_headers()
            return
        if self.key is not None and headers.get("Authorization") != f"Bearer {self.key}":
            given = headers.get("Authorization", "")
            status, answer = 401, {"error": {"message": f"no such key: {given}"}}
        elif self.broken is not None:
            status, answer = self.broken
        else:
            with self._lock:
                status, answer = self.reply(handler.path, body)
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _drip(self, handler: BaseHTTPRequestHandler) -> None:
        """Send a byte ten times a second for six seconds, or as long as somebody listens."""
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
        if self.drips == "body":
            handler.wfile.write(b"\r\n")
        with suppress(OSError):
            for _ in range(60):
                handler.wfile.write(b"x")
                time.sleep(0.1)


@contextmanager
def playing(played: Played) -> Iterator[Played]:
    played.start()
    try:
        yield played
    finally:
        played.stop()


def refused(status: int, message: str) -> Reply:
    """A refusal in vLLM's form."""
    return status, {"error": {"message": message, "type": "x", "param": None, "code": status}}


class PlayedVllm(Played):
    """``runtime``: whether adapters can be loaded; ``garbled``: they are applied to other numbers;
    ``deaf``: they are said to be loaded, and are not.
    """

    def __init__(self, base: LoadedModel, max_rank: int = 64, name: str = "base") -> None:
        super().__init__(base)
        self.max_rank, self.name = max_rank, name
        self.runtime, self.garbled, self.deaf = True, False, False
        self.loaded: dict[str, tuple[str, ModelView]] = {}

    def forget(self) -> None:
        self.loaded = {}

    def reply(self, path: str, body: Any) -> Reply:
        if path == "/v1/models":
            base = {"id": self.name, "root": "/models/base", "parent": None}
            more = [
                {"id": name, "root": root, "parent": self.name}
                for name, (root, _) in self.loaded.items()
            ]
            return 200, {"object": "list", "data": [base, *more]}
        if path == "/v1/completions":
            return self._complete(body)
        if not self.runtime:
            return refused(404, "Not Found")
        if path == "/v1/load_lora_adapter":
            return self._load(body["lora_name"], body["lora_path"])
        if self.loaded.pop(body["lora_name"], None) is None:
            return refused(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        return 200, "Success: LoRA adapter removed successfully."

    def _complete(self, body: Any) -> Reply:
        model, prompts = body["model"], body["prompt"]
        largest = max(max(ids) for ids in prompts)
        if largest >= self.base.vocabulary:
            return refused(400, f"Token id {largest} is out of vocabulary")
        if model == self.name:
            view = ModelView(self.base)
        elif model in self.loaded:
            view = self.loaded[model][1]
        else:
            return refused(404, f"The model `{model}` does not exist.")
        choices = []
        for index, ids in enumerate(prompts):
            best = next_token(view, ids).topk(body["logprobs"])
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            top = {f"token_id:{token}": value for token, value in pairs}
            choices.append({"index": index, "logprobs": {"top_logprobs": [top]}})
        return 200, {"choices": choices[::-1]}

    def _load(self, name: str, folder: str) -> Reply:
        if name in self.loaded:
            return refused(400, f"The lora adapter '{name}' has already been loaded.")
        if not (Path(folder) / "adapter_config.json").exists():
            return refused(404, f"Loading lora {name} failed: No adapter found for <path>")
        rank = json.loads((Path(folder) / "adapter_config.json").read_text())["r"]
        if rank > self.max_rank:
            return refused(
                500,
                "Call to add_lora method failed: Worker failed with error 'LoRA rank "
                f"{rank} is greater than max_lora_rank {self.max_rank}.', please check",
            )
        if not self.deaf:
            self.loaded[name] = (folder, self._applied(Path(folder)))
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _applied(self, folder: Path) -> ModelView:
        found = load_file(folder / "adapter_model.safetensors")
        changed = {}
        for key in found:
            if not key.endswith(".lora_A.weight"):
                continue
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            delta = found[key.replace("lora_A", "lora_B")] @ found[key]
            if self.garbled:
                delta = 3 * delta.flip(0)
            if is_transposed(self.base.model.get_submodule(module)):
                delta = delta.T
            name = f"{module}.weight"
            changed[name] = (self.base.model.get_parameter(name) + delta).detach()
        return ModelView(self.base, changed)


class PlayedSglang(Played):
    """``path`` is the folder that its weights came from last."""

    def __init__(self, base: LoadedModel) -> None:
        super().__init__(base)
        self.forget()

    def forget(self) -> None:
        self.path, self.view = "/models/base", ModelView(self.base)
        self.version = "default"

    def reply(self, path: str, body: Any) -> Reply:
        if path == "/get_model_info":
            return 200, {"model_path": self.path, "weight_version": self.version}
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": "served"}]}
        if path == "/generate":
            return 200, [self._generated(ids, body) for ids in body["input_ids"]]
        folder = Path(body["model_path"])
        if not (folder / "config.json").exists():
            return 400, {"success": False, "message": f"Failed to load {folder}"}
        found: dict[str, torch.Tensor] = {}
        for file in folder.glob("*.safetensors"):
            found |= load_file(file)
        known = {name for name, _ in self.base.model.named_parameters()}
        given = {name: t.to(self.base.dtype) for name, t in found.items() if name in known}
        self.view = ModelView(self.base, given)
        self.path, self.version = str(folder), body["weight_version"]
        return 200, {"success": True, "message": "Succeeded to update model weights."}

    def _generated(self, ids: list[int], body: Any) -> Any:
        best = next_token(self.view, ids).topk(body["top_logprobs_num"])
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        top = [[value, token, None] for token, value in pairs]
        return {"text": "", "meta_info": {"output_top_logprobs": [top]}}
