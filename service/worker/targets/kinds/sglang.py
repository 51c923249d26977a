"""SGLang: the whole model is replaced from a merged checkpoint, by its documented interface.

Requests that are running end first, and its cache is emptied with the change.  There is one name,
the served model's, whichever version answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.contracts.schemas.targets import TargetRecord
from service.worker.targets.connection import Connection, TargetFailed
from service.worker.targets.server import TOP, Offer, Seen


class Sglang:
    """An SGLang server that was started with the base model or with an artefact."""

    format = "merged"
    base_needs_artefact = True
    replaces = True

    def __init__(self, record: TargetRecord, connection: Connection) -> None:
        self._record, self._http = record, connection

    def look(self) -> Seen:
        """The folder that the weights came from last, under the name of the served model."""
        answer = self._http.get("/get_model_info")
        try:
            path = str(answer.json()["model_path"])
        except (KeyError, TypeError):
            raise answer.strange() from None
        name = self._record.model or self._served()
        return Seen(name, {name: path})

    def name_of(self, version: str, artefact: str, seen: Seen) -> str:
        """The served model's, for every version."""
        [name] = seen.loaded
        return name

    def load(self, name: str, offer: Offer, seen: Seen) -> None:
        """Replace the weights; returns when the server answers from them."""
        body = {
            "model_path": offer.folder,
            "flush_cache": True,
            "abort_all_requests": False,
            "weight_version": offer.manifest.id,
        }
        answer = self._http.post("/update_weights_from_disk", body)
        if answer.status == 400:
            message = (
                f"the server did not take {offer.folder} ({answer.message}): let it read "
                "targets/artefacts of the store, and say where that is for it, as folder"
            )
            raise TargetFailed("refused", message)
        found = answer.json()
        if not isinstance(found, dict) or found.get("success") is not True:
            raise answer.strange()

    def unload(self, name: str) -> None:
        """Nothing: weights are only ever replaced."""

    def top(self, model: str, prompts: Sequence[Sequence[int]]) -> Sequence[Mapping[int, float]]:
        """Log-probabilities of the most probable tokens after each prompt of tokens."""
        body = {
            "input_ids": [list(ids) for ids in prompts],
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "top_logprobs_num": TOP,
        }
        answer = self._http.post("/generate", body)
        if answer.status == 400:
            message = (
                f"the server refuses tokens of this service's model ({answer.message}): it serves "
                "another base model"
            )
            raise TargetFailed("other_base", message, lasting=True)
        try:
            found = [one["meta_info"]["output_top_logprobs"][0] for one in answer.json()]
            return [{int(token): float(value) for value, token, *_ in top} for top in found]
        except (LookupError, TypeError, ValueError, OverflowError):
            raise answer.strange() from None

    def _served(self) -> str:
        answer = self._http.get("/v1/models")
        try:
            return str(answer.json()["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise answer.strange() from None
