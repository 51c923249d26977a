"""``POST /explain``: which facts moved an answer of a version, and where."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from jeep_core.decoding.generation import shared
from jeep_core.evaluation.explanation import Cause, Explanation, Part
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.text.encoding import encode
from jeep_core.text.joining import joined
from service.contracts.schemas import WorkerRequest
from service.contracts.schemas.effects.explanation import (
    ExplainAsk,
    ExplainedLayer,
    ExplainedMatrix,
    ExplainedPart,
    ExplainedPlace,
    ExplainResult,
)
from service.store import Store
from service.worker.failures import Refused
from service.worker.versions.causes import Causes, causes_of
from service.worker.versions.views import VersionViews

GiveWay = Callable[[Callable[[], None]], None]


class Explanations:
    """Answers requests for explanations.  For one thread.

    ``give_way`` lets decoding run first, and calls what it is given while it waits.
    """

    def __init__(
        self, base: LoadedModel, store: Store, views: VersionViews, give_way: GiveWay
    ) -> None:
        self._base, self._store, self._views, self._give_way = base, store, views, give_way

    def explain(self, request: WorkerRequest) -> ExplainResult:
        """Explain one answer of one version.

        Raises:
            Refused: no edit of the version can be taken apart by facts, the prompt leaves no room
                for the answer, or nobody waits any more.
            StoreError: there is no such version, or it is damaged.
            NumericalError: a probability is not finite.
        """
        [version] = request.versions
        ask = ExplainAsk.model_validate(request.body)

        def check() -> None:
            if time.time() > request.deadline:
                raise Refused("worker_timeout", "the explanation took longer than anybody waited")

        def give_way() -> None:
            check()
            self._give_way(check)

        causes = causes_of(self._base, self._store, self._views, version)
        view, monitor = causes.attribution.view, Monitor(check=check, give_way=give_way)
        with giving_way(view, monitor):
            ids, start = self._tokens(ask, view)
            found = causes.attribution.explain(ids, start, ask.top, monitor)
        decode = self._base.tokenizer.decode
        return ExplainResult(
            version=version,
            prompt=ask.prompt,
            answer=decode(ids[start:], skip_special_tokens=False) if ask.answer is None
            else ask.answer,
            tokens=[decode([one], skip_special_tokens=False) for one in ids],
            answer_at=start,
            warnings=causes.warnings,
            **_figures(causes, found),
        )  # fmt: skip

    def _tokens(self, ask: ExplainAsk, view: ModelView) -> tuple[list[int], int]:
        """Tokens of prompt and answer, and where the answer begins."""
        tokenizer, limit = self._base.tokenizer, self._base.max_positions
        ids = list(encode(tokenizer, ask.prompt).ids)
        if not ids:
            raise Refused("empty", "the prompt has no tokens")
        if ask.answer is None:
            whole, start = [*ids, _most_probable(view, ids[:limit])], len(ids)
        else:
            whole = list(encode(tokenizer, joined(ask.prompt, ask.answer, ask.join)).ids)
            start = shared(ids, whole)
        if not 0 < start < len(whole):
            raise Refused("invalid_request", "the answer adds no token to the prompt")
        if len(whole) > limit:
            raise Refused("too_long", f"{len(whole)} tokens with the answer; {limit} fit")
        return whole, start


def _figures(causes: Causes, found: Explanation) -> dict[str, Any]:
    """The figures of an answer: every fact that is named at a place is in the list of facts."""
    shares = {share.cause: share for share in found.shares}
    named = dict.fromkeys(
        [share.cause for share in found.shares if share.without is not None]
        + [part.cause for place in found.places for part in place.parts]
    )
    ordered = sorted(named, key=lambda cause: -abs(shares[cause].share) if cause in shares else 0.0)
    number = {cause: i for i, cause in enumerate(ordered)}
    layer_of = causes.attribution.layer_of
    matrices = [
        ExplainedMatrix(
            layer=layer_of[name],
            name=name,
            places=[
                ExplainedPlace(
                    position=place.position,
                    norm=place.norm,
                    relative=place.relative,
                    facts=_parts(place.parts, number),
                )
                for place in found.places
                if place.name == name
            ],
        )
        for name in causes.attribution.names
    ]
    before, layers = found.base, []
    for step in found.steps:
        layers.append(
            ExplainedLayer(
                layer=step.layer, probability=step.probability, change=step.probability - before
            )
        )
        before = step.probability
    facts = []
    for cause in ordered:
        share = shares.get(cause)
        without = None if share is None else share.without
        facts.append(causes.described(cause, share.share if share else 0.0, without))
    return {
        "base_probability": found.base,
        "probability": found.probability,
        "layers": layers,
        "facts": facts,
        "matrices": matrices,
    }


def _parts(parts: Sequence[Part], number: Mapping[Cause, int]) -> list[ExplainedPart]:
    return [ExplainedPart(fact=number[one.cause], norm=one.norm, share=one.share) for one in parts]


@torch.no_grad()
def _most_probable(view: ModelView, ids: list[int]) -> int:
    """The version's most probable token after a prompt."""
    base = view.base
    tokens = torch.tensor([ids], device=base.device)
    hidden = base.family.backbone_of(view.model)(input_ids=tokens, use_cache=False)
    logits = base.family.logits_of(view.model, hidden.last_hidden_state[:, -1])
    return int(logits.float().argmax())
