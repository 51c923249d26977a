"""A played router of llama.cpp (a llama-server without a model), which reads real GGUF files.

It does as llama-server 0.5.0-dev (ggml 0.25.3) was seen to: it lists folders of its folder when
it is told to, loads in the background, and starts by itself what is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jeep_core.models.gguf.convert import convert, prepare
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from service.worker.targets.proof import next_token
from support.service.outward.played_targets import Played, Reply


@dataclass
class PlayedModel:
    """A listed file; ``looks``: how often it is still said to be loading."""

    file: Path
    status: str = "unloaded"
    looks: int = 0
    exit_code: int | None = None
    view: ModelView | None = field(default=None, repr=False)

    @property
    def listed(self) -> dict[str, Any]:
        """Its status as the router shows it."""
        arguments = ["/bin/llama-server", "--port", "0", "--model", str(self.file), "--threads"]
        shown: dict[str, Any] = {"value": self.status, "args": [*arguments, "1"]}
        if self.exit_code is not None:
            shown |= {"exit_code": self.exit_code, "failed": True}
        return shown


class PlayedRouter(Played):
    """``role``: what it says that it is; ``most``: models at a time; ``slow``: looks that loading
    takes; ``hangs``: nothing is ever loaded; ``garbled``: it answers from other numbers; ``seen``:
    the folder by the name that it has there; ``others``: models that it has from elsewhere.
    """

    def __init__(self, base: LoadedModel, folder: Path, seen: Path | None = None) -> None:
        super().__init__(base)
        self.folder, self.seen = folder, seen or folder
        self.role: str | None = "router"
        self.most, self.slow = 4, 2
        self.hangs = self.garbled = False
        self.models: dict[str, PlayedModel] = {}
        self.others: set[str] = set()
        self.forget()

    def forget(self) -> None:
        self.models = {}
        self._list()

    @property
    def running(self) -> set[str]:
        """What it answers from."""
        return {name for name, one in self.models.items() if one.status == "loaded"}

    def reply(self, path: str, body: Any) -> Reply:
        path, _, query = path.partition("?")
        if path == "/props":
            role = {"role": self.role, "max_instances": self.most} if self.role else {}
            return 200, {**role, "model_path": "none"}
        if path == "/models":
            if query:
                self._list()
            for one in self.models.values():
                self._go_on(one)
            listed = [{"id": n, "status": one.listed} for n, one in self.models.items()]
            return 200, {"object": "list", "data": listed}
        name = body["model"]
        if path == "/models/load":
            return self._load(name)
        if name not in self.models:
            return _wrong(f"model '{name}' not found")
        if path == "/models/unload":
            if self.models[name].status == "unloaded":
                return _wrong("model is not running")
            self.models[name].status = "unloaded"
            return 200, {"success": True}
        return self._complete(name, body)

    def _list(self) -> None:
        """Read the folder: what is new is listed, what is gone is ended."""
        found = {one.parent.name: one for one in self.folder.glob("*/*.gguf")}
        for name in self.models.keys() - found.keys() - self.others:
            del self.models[name]
        for name, file in found.items():
            shown = self.seen / file.relative_to(self.folder)
            known = self.models.setdefault(name, PlayedModel(shown))
            known.exit_code = None

    def _load(self, name: str) -> Reply:
        if name not in self.models:
            return 404, {"error": {"message": "File Not Found", "code": 404}}
        one = self.models[name]
        if one.status != "unloaded":
            return _wrong("model is already running")
        if len(self.running) >= self.most:
            return 500, {"error": {"message": "model limit reached, try again later", "code": 500}}
        one.status, one.looks = "loading", self.slow
        return 200, {"success": True}

    def _go_on(self, one: PlayedModel) -> None:
        if one.status != "loading" or self.hangs:
            return
        one.looks -= 1
        if one.looks > 0:
            return
        try:
            one.view = self._read(self.folder / one.file.relative_to(self.seen))
            one.status = "loaded"
        except Exception:
            one.status, one.exit_code = "unloaded", 1

    def _read(self, file: Path) -> ModelView:
        with TemporaryDirectory() as folder:
            convert(prepare(file, "float32"), Path(folder), lambda *_: None)
            view = ModelView(load(folder, device="cpu", dtype="float32"))
        if self.garbled:
            name = view.base.family.weight_name(0)
            view.replace(name, -5 * view.base.model.get_parameter(name).detach())
        return view

    def _complete(self, name: str, body: Any) -> Reply:
        one = self.models[name]
        if one.view is None or one.status == "unloaded":
            one.status, one.view = "loaded", self._read(one.file)
        choices = []
        for index, ids in enumerate(body["prompt"]):
            best = next_token(one.view, ids).topk(body["logprobs"])
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            top = [{"id": token, "token": "?", "logprob": value} for token, value in pairs]
            content = [{**top[0], "top_logprobs": top}]
            choices.append({"index": index, "text": "?", "logprobs": {"content": content}})
        return 200, {"object": "text_completion", "choices": choices[::-1]}


def _wrong(message: str) -> Reply:
    return 400, {"error": {"code": 400, "message": message, "type": "invalid_request_error"}}
