"""llama.cpp: a router, which loads a GGUF file per version as a model of its own.

The router is a ``llama-server`` that was started without a model; it reads the folder of the
artefacts (``--models-dir``) and answers from each model in a process of its own.  So every version
has a name, that of its artefact, and what was there before stays until it is unloaded.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from service.contracts.schemas.targets import TargetRecord
from service.worker.targets.connection import Answer, Connection, TargetFailed
from service.worker.targets.server import ARTEFACT, Offer, Seen, next_token

POLL_S = 0.2
"""Between two looks at a model that is being loaded."""


@dataclass(frozen=True)
class _Model:
    """A model as the router lists it: its status, and the folder of its file there.

    ``exit_code``: that of its process, where it has ended badly.
    """

    status: str
    folder: str
    exit_code: int | None

    @property
    def runs(self) -> bool:
        """Whether requests are answered from it; one that sleeps wakes up by itself."""
        return self.status in ("loaded", "sleeping")


class LlamaCpp:
    """A llama-server that was started without a model."""

    base_needs_artefact = True
    replaces = False

    def __init__(self, record: TargetRecord, connection: Connection) -> None:
        self._record, self._http = record, connection
        self.format = "gguf" if record.type is None else f"{record.type.lower()}.gguf"

    def look(self) -> Seen:
        """The artefacts that the router answers from; it has no base model of its own."""
        self._check_router()
        running = {name: one.folder for name, one in self._models().items() if one.runs}
        return Seen(None, {n: folder for n, folder in running.items() if ARTEFACT.fullmatch(n)})

    def name_of(self, version: str, artefact: str, seen: Seen) -> str:
        """That of the artefact, as the router calls a model by the name of its folder."""
        return artefact

    def load(self, name: str, offer: Offer, seen: Seen) -> None:
        """Have the router list the artefact and start a process with it."""
        found = self._models(reload=True).get(name)
        if found is None or found.folder != posixpath.normpath(offer.folder):
            raise _not_listed(posixpath.dirname(offer.folder), found)
        if found.runs:
            return
        answer = self._http.post("/models/load", {"model": name})
        if not answer.good and "already running" not in answer.message:
            raise _refusal(answer)
        self._await(name)

    def unload(self, name: str) -> None:
        """End the process of a model; answers that it is writing end with it."""
        answer = self._http.post("/models/unload", {"model": name})
        known = "not running", "not found"
        if not answer.good and not any(one in answer.message for one in known):
            raise answer.refusal()

    def top(self, model: str, prompts: Sequence[Sequence[int]]) -> Sequence[Mapping[int, float]]:
        """Log-probabilities of the most probable tokens after each prompt of tokens."""
        body = next_token(model, prompts, cache_prompt=False)
        answer = self._http.post("/v1/completions", body)
        try:
            choices = sorted(answer.json()["choices"], key=lambda one: int(one["index"]))
            found = [choice["logprobs"]["content"][0]["top_logprobs"] for choice in choices]
            return [{int(one["id"]): float(one["logprob"]) for one in top} for top in found]
        except (LookupError, TypeError, ValueError, OverflowError):
            raise answer.strange() from None

    def _check_router(self) -> None:
        """Check that models can be loaded while the server runs, two of them at least.

        Raises:
            TargetFailed: ``no_router``, ``too_few_models``.
        """
        answer = self._http.get("/props")
        found = answer.json() if answer.status != 404 else None
        if not isinstance(found, dict):
            raise answer.strange()
        if found.get("role") != "router":
            raise TargetFailed(
                "no_router",
                "the server was started with a model and can load no other: start llama-server "
                "without one, and with --models-dir and the folder targets/artefacts of the store",
                lasting=True,
            )
        if found.get("max_instances") == 1:
            raise TargetFailed(
                "too_few_models",
                "the server holds one model at a time, so a version would be gone before the next "
                "one is proved: start llama-server with --models-max 2 or more (0: no limit)",
                lasting=True,
            )

    def _models(self, *, reload: bool = False) -> dict[str, _Model]:
        """The models that the router lists; with ``reload`` it reads its folder again first."""
        if reload:
            answer = self._http.get("/models?reload=1", self._http.patience_s)
        else:
            answer = self._http.get("/models")
        found = answer.json()
        try:
            return {str(one["id"]): _model(one["status"]) for one in found["data"]}
        except (LookupError, TypeError, AttributeError):
            raise answer.strange() from None

    def _await(self, name: str) -> None:
        """Wait until a model answers.

        Raises:
            TargetFailed: ``refused``, its process has ended; ``slow``, it takes too long.
        """
        end = time.monotonic() + self._http.patience_s
        while time.monotonic() < end:
            found = self._models().get(name)
            if found is not None and found.runs:
                return
            if found is None or found.status == "unloaded":
                code = "" if found is None or found.exit_code is None else f" ({found.exit_code})"
                message = f"the process that the server started for {name} has ended{code}: "
                raise TargetFailed("refused", message + "the server's log says why")
            time.sleep(POLL_S)
        message = f"the server has not loaded {name} within {self._http.patience_s:g} s"
        raise TargetFailed("slow", message)


def _model(status: Mapping[str, Any]) -> _Model:
    arguments = [str(one) for one in status.get("args", ())]
    file = next((b for a, b in pairwise(arguments) if a in ("--model", "-m")), "")
    code = status.get("exit_code")
    return _Model(
        status=str(status["value"]),
        folder=posixpath.dirname(posixpath.normpath(file)),
        exit_code=code if isinstance(code, int) else None,
    )


def _not_listed(folder: str, found: _Model | None) -> TargetFailed:
    elsewhere = f" (but {found.folder})" if found is not None else ""
    return TargetFailed(
        "folder_not_found",
        f"the server does not list what is in {folder}{elsewhere}: start llama-server with "
        f"--models-dir {folder}, or say where that is for it, as folder",
        lasting=True,
    )


def _refusal(answer: Answer) -> TargetFailed:
    """The error for a model that the router does not start."""
    if "limit" in answer.message:
        message = (
            f"the server is busy with as many models as it may hold ({answer.message}): start "
            "llama-server with a larger --models-max"
        )
        return TargetFailed("busy", message)
    return answer.refusal()
