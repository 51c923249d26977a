"""vLLM: a LoRA adapter per version, loaded and unloaded while the server runs.

Every version has a name and a folder of its own.  The same path with other weights would be
answered from the keys and values of the old ones, and loading in place changes answers that are
being written; unloading lets them run to their end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from service.contracts.schemas.targets import TargetRecord
from service.worker.targets.connection import Answer, Connection, TargetFailed
from service.worker.targets.server import ARTEFACT, Offer, Seen, next_token

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` may be."""
_RANK = re.compile(r"LoRA rank (\d+) is greater than max_lora_rank (\d+)")
_TOKEN = re.compile(r"token_id:(\d+)")


class Vllm:
    """A vLLM server that was started with ``--enable-lora``."""

    format = "peft"
    base_needs_artefact = False
    replaces = False

    def __init__(self, record: TargetRecord, connection: Connection) -> None:
        self._record, self._http = record, connection
        self._ours = re.compile(re.escape(record.name) + "@v[0-9]+")

    def look(self) -> Seen:
        """The base model, and the adapters whose names are this target's."""
        answer = self._http.get("/v1/models")
        try:
            models = [(str(m["id"]), str(m.get("root")), m.get("parent")) for m in _data(answer)]
        except (KeyError, TypeError, AttributeError):
            raise answer.strange() from None
        bases = [name for name, _, parent in models if parent is None]
        base = self._base(bases)
        loaded = {name: root for name, root, _ in models if self._is_ours(name)}
        for name in [one for one in loaded if one in bases or self._is_foreign(one, loaded[one])]:
            if not self._record.removed:
                raise _in_use(name, name == self._record.alias)
            del loaded[name]
        return Seen(base, loaded)

    def name_of(self, version: str, artefact: str, seen: Seen) -> str:
        """``<target>@v12``."""
        return f"{self._record.name}@{version}"

    def load(self, name: str, offer: Offer, seen: Seen) -> None:
        """Load an adapter under a name, which is free afterwards if that fails."""
        if name in seen.loaded:  # from another folder
            self.unload(name)
        body = {"lora_name": name, "lora_path": offer.folder}
        answer = self._http.post("/v1/load_lora_adapter", body)
        if not answer.good:
            raise self._refusal(answer, offer)

    def unload(self, name: str) -> None:
        """Unload an adapter; answers that are being written with it run to their end."""
        answer = self._http.post("/v1/unload_lora_adapter", {"lora_name": name})
        if not answer.good and answer.status != 404:
            raise answer.refusal()

    def top(self, model: str, prompts: Sequence[Sequence[int]]) -> Sequence[Mapping[int, float]]:
        """Log-probabilities of the most probable tokens after each prompt of tokens."""
        body = next_token(model, prompts, return_tokens_as_token_ids=True)
        answer = self._http.post("/v1/completions", body)
        if answer.status == 400:
            raise _other_base(answer.message)
        try:
            choices = sorted(answer.json()["choices"], key=lambda one: int(one["index"]))
            found = [choice["logprobs"]["top_logprobs"][0] for choice in choices]
            return [_by_id(one) for one in found]
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            raise answer.strange() from None

    def _is_ours(self, name: str) -> bool:
        return name == self._record.alias or self._ours.fullmatch(name) is not None

    def _is_foreign(self, name: str, root: str) -> bool:
        """Whether the alias was given to an adapter that is no artefact of a store."""
        return name == self._record.alias and not ARTEFACT.fullmatch(PurePosixPath(root).name)

    def _base(self, bases: Sequence[str]) -> str:
        wanted = self._record.model
        if wanted is None and len(bases) == 1:
            return bases[0]
        if wanted in bases:
            return str(wanted)
        known = ", ".join(bases) or "none"
        if wanted is None:
            message = f"the server has several names for base models ({known}): say which, as model"
        else:
            message = f"the server serves no model {wanted!r} (it has: {known}): register it anew"
        raise TargetFailed("no_such_model", message, lasting=True)

    def _refusal(self, answer: Answer, offer: Offer) -> TargetFailed:
        """The error for an adapter that was not loaded."""
        message, version = answer.message, offer.manifest.id
        too_large = _RANK.search(message)
        if too_large:
            return _rank_too_large(version, offer.rank, int(too_large.group(2)))
        if answer.status == 404 and "adapter" in message.lower():
            return TargetFailed(
                "folder_not_found",
                f"the server does not find {offer.folder}: let it read targets/artefacts of the "
                "store, and say where that is for it, as folder",
                lasting=True,
            )
        if (
            answer.status in (404, 405)
            or "enable-lora" in message
            or "LoRA is not enabled" in message
        ):
            return TargetFailed(
                "no_runtime_adapters",
                "the server loads no adapters while it runs: start vLLM with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
                lasting=True,
            )
        return answer.refusal()


def _by_id(found: Mapping[str, float]) -> dict[int, float]:
    pairs = ((_TOKEN.fullmatch(token), value) for token, value in found.items())
    return {int(match.group(1)): float(value) for match, value in pairs if match}


def _data(answer: Answer) -> Sequence[Mapping[str, Any]]:
    found = answer.json()
    data = found["data"] if isinstance(found, dict) else None
    if not isinstance(data, list):
        raise answer.strange()
    return data


def _in_use(name: str, is_alias: bool) -> TargetFailed:
    what = "alias" if is_alias else "name"
    return TargetFailed(
        "name_in_use",
        f"the server has a model of its own that is called {name!r}, which stays as it is: remove "
        f"this target and register it with another {what}",
        lasting=True,
    )


def _rank_too_large(version: str, rank: int, most: int) -> TargetFailed:
    enough = next((one for one in RANKS if one >= rank), None)
    if enough is None:
        advice = f"vLLM takes no more than {RANKS[-1]}: export {version} as merged and serve that"
    else:
        advice = f"start vLLM with --max-lora-rank {enough}"
    return TargetFailed(
        "rank_too_large",
        f"{version} needs rank {rank}, the server takes adapters up to {most}: {advice}",
        lasting=True,
    )


def _other_base(said: str) -> TargetFailed:
    return TargetFailed(
        "other_base",
        f"the server refuses tokens of this service's model ({said}): it serves another base model",
        lasting=True,
    )
