"""Drift jobs: a version against another one on unrelated texts, and the facts that moved it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

from jeep_core.evaluation.drift import (
    CONTEXT,
    Passage,
    Spot,
    divergence,
    drift,
    figures,
    next_token,
)
from jeep_core.evaluation.explanation import Attribution
from jeep_core.evaluation.protocols import PROMPTS
from jeep_core.models.giving_way import giving_way
from jeep_core.models.views import ModelView
from service.contracts.schemas.base import MetricProtocol
from service.contracts.schemas.effects.drift import (
    DriftFact,
    DriftFigures,
    DriftPayload,
    DriftPlace,
    DriftResult,
    LikelyToken,
)
from service.contracts.schemas.evaluation import MetricInterval
from service.store.versions import BASE
from service.worker.editing.unrelated import unrelated_facts, unrelated_text
from service.worker.failures import Refused
from service.worker.lanes.read_lane import Task
from service.worker.versions.causes import NOT_EXPLAINABLE, Causes, causes_of

FACTS = 3
"""Facts that a place is explained by."""


def run(task: Task) -> DriftResult:
    """Compare two versions, and explain the places that moved most.

    Raises:
        Refused: there is no text and no prompt to compare them on.
        NumericalError: a probability is not finite.
        Whatever the task's control raises.
    """
    began = time.monotonic()
    payload = DriftPayload.model_validate(task.job.payload)
    passages, texts, prompts = _passages(task, payload)
    if not passages:
        message = "there is no text and no prompt: give some, or leave both fields out"
        raise Refused("no_cases", message)
    before, after = task.view(payload.against), task.view(payload.version)
    monitor = task.control.monitor
    with giving_way(before, monitor), giving_way(after, monitor):
        found = drift(
            before,
            after,
            passages,
            max_tokens=payload.max_tokens,
            worst=payload.worst,
            monitor=monitor,
        )
        if not found.tokens:
            message = "no text has a token to predict: give longer ones"
            raise Refused("no_cases", message)
        places = [_place(task, passages, spot) for spot in found.worst]
        not_explained = _explain(task, payload, before, found.worst, places)
    return DriftResult(
        drift_id=payload.drift_id,
        version=payload.version,
        against=payload.against,
        texts=texts,
        prompts=prompts,
        figures=[
            DriftFigures(
                kind=kind,
                **{
                    **asdict(one),
                    "kl": MetricInterval(**asdict(one.kl)),
                    "changed": MetricInterval(**asdict(one.changed)),
                },
            )
            for kind, one in figures(found.passages, payload.seed).items()
        ],
        worst=places,
        not_explained=not_explained,
        protocol=_protocol(payload, texts, prompts),
        seconds=round(time.monotonic() - began, 3),
    )


def _passages(task: Task, payload: DriftPayload) -> tuple[list[Passage], str, str]:
    """Texts and prompts, and where each came from."""
    if payload.texts is None:
        documents, texts = unrelated_text(task.base.name, task.settings.perplexity_text)
        passages = [Passage(document) for document in documents]
    else:
        texts = "texts of the request" if payload.texts else "none"
        passages = [Passage(one.text, one.kind) for one in payload.texts]
    if payload.prompts is None:
        # the other version may have edits of its own: it can be on another branch, or above
        lines = map(task.store.versions.lineage, (payload.version, payload.against))
        subjects = {fact.subject for line in lines for one in line for fact in one.facts}
        facts, prompts = unrelated_facts(task.base.name, subjects)
        asked = [fact.text for fact in facts]
    else:
        prompts = "prompts of the request" if payload.prompts else "none"
        asked = payload.prompts
    # before the texts, which may be cut
    return [*(Passage(one, PROMPTS, prompt=True) for one in asked), *passages], texts, prompts


def _place(task: Task, passages: Sequence[Passage], spot: Spot) -> DriftPlace:
    decode = task.base.tokenizer.decode
    return DriftPlace(
        kind=passages[spot.passage].kind,
        passage=spot.passage,
        context=decode(list(spot.ids), skip_special_tokens=False)[-CONTEXT:],
        kl=spot.kl,
        before=[LikelyToken(text=decode([i]), probability=p) for i, p in spot.before],
        after=[LikelyToken(text=decode([i]), probability=p) for i, p in spot.after],
    )


def _explain(
    task: Task,
    payload: DriftPayload,
    before: ModelView,
    spots: Sequence[Spot],
    places: Sequence[DriftPlace],
) -> str | None:
    """Give the first places their facts; why not, where they can have none."""
    if not payload.explained or not spots:
        return None
    line = {manifest.id for manifest in task.store.versions.lineage(payload.version)}
    if payload.against not in line:
        return (
            f"{payload.version} is not built on {payload.against}: only a version that is compared "
            f"with one below it, such as {BASE}, can be explained by its facts"
        )
    try:
        causes = causes_of(task.base, task.store, task.views, payload.version, payload.against)
    except Refused as refusal:
        if refusal.code != NOT_EXPLAINABLE:
            raise
        return str(refusal)
    chosen = list(zip(spots, places, strict=True))[: payload.explained]
    with giving_way(causes.attribution.view, task.control.monitor):
        for done, (spot, place) in enumerate(chosen):
            task.control.progress("explain", done, len(chosen))
            task.control.pause()
            place.facts = _facts(causes, before, spot)
    return None


def _facts(causes: Causes, before: ModelView, spot: Spot) -> list[DriftFact]:
    """The facts with the largest shares at a place, each with the KL without it."""
    attribution: Attribution = causes.attribution
    _, shares = attribution.apart(*attribution.inputs(spot.ids), top=1)
    old, found = next_token(before, spot.ids), []
    for share in shares[:FACTS]:
        with attribution.without(share.cause):
            left = divergence(old, next_token(attribution.view, spot.ids))
        described = causes.described(share.cause, share.share).model_dump()
        found.append(DriftFact(**described, kl_without=max(0.0, left)))
    return found


def _protocol(payload: DriftPayload, texts: str, prompts: str) -> MetricProtocol:
    return MetricProtocol(
        asked=f"{texts}, the first {payload.max_tokens} tokens; prompts: {prompts}",
        how="every token after its own text, of prompts the one that follows, as plain text",
        judged=f"KL({payload.against} ‖ {payload.version}) in nats per token, and the most "
        "probable token; perplexities of the texts as they stand",
        comparable="the same texts, prompts, tokenizer and number of tokens",
    )
