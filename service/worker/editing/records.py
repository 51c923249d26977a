"""Parts of the record that an edit leaves: outcomes, figures of the computation, hashes."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from typing import Any

from jeep_core.editing import EditResult as CoreResult
from jeep_core.evaluation import outcomes as measuring
from jeep_core.evaluation.protocols import EditSetting, edit_protocols
from jeep_core.spec.hparams import EditorHParams, contexts_of
from jeep_core.text.counting import counted
from service.contracts.schemas import (
    Answer,
    EditPayload,
    EditResult,
    FactOutcome,
    LayerReport,
    Manifest,
)
from service.contracts.schemas.base import MetricProtocol
from service.settings import Settings
from service.worker.editing.unrelated import unrelated_source

GUARDED = ("efficacy", "success", "locality", "perplexity", "drift", "ability")
"""Figures of guards that have a protocol each; what belongs to one has that one's."""


def of_computation(result: CoreResult, began: float) -> dict[str, Any]:
    """The fields of an edit's result that the editor has measured itself."""
    return {
        "layers": [LayerReport(**vars(layer)) for layer in result.layers],
        "seconds": {**result.seconds, "total": round(time.monotonic() - began, 4)},
        "peak_memory_mb": round(result.values.peak_bytes / 2**20, 1) if result.values else None,
    }


def recorded(source: Manifest) -> EditPayload:
    """The batch of a version as a request for the same edit again."""
    outcomes = source.result.facts if source.result else []
    return EditPayload(
        edit_id=str(source.edit_id),
        facts=source.facts,
        editor=str(source.editor),
        editor_reason=source.result.editor_reason if source.result else None,
        preset=source.preset,
        hparams=source.hparams,
        indices=[outcome.index for outcome in outcomes],
        duplicates=source.result.duplicates if source.result else [],
        check_earlier=0,
        mended=source.mended,
    )


def protocols_of(
    result: EditResult, hparams: EditorHParams, model: str, settings: Settings
) -> dict[str, MetricProtocol]:
    """How every figure of an edit's result came about."""
    names = ["probability", "efficacy", "greedy_success"]
    names += ["chat_efficacy"] if result.chat_efficacy is not None else []
    if any(one.target_probability is not None for one in result.facts):
        names.append("target_probability")
    names += ["earlier"] if result.earlier is not None else []
    if result.guards is not None:
        measured = result.guards.model_dump(exclude_none=True)
        names += [f"guards.{name}" for name in GUARDED if name in measured]
    text, known = unrelated_source(model, settings.perplexity_text)
    setting = EditSetting(
        contexts_of(hparams),
        measuring.ANSWER_TOKENS,
        measuring.NEIGHBOR_TOKENS,
        checked=_checked(result),
        read=f"the first {counted(settings.perplexity_tokens, 'token')} of {text}",
        known=known,
    )
    found = edit_protocols(names, setting)
    return {name: MetricProtocol(**asdict(one)) for name, one in found.items()}


def _checked(result: EditResult) -> str:
    """The earlier facts that were asked, in words."""
    if result.earlier is None:
        return ""
    live = f"{counted(result.earlier.live, 'live fact')} of earlier batches"
    if result.earlier.checked == result.earlier.live:
        return f"all {live}"
    return f"{result.earlier.checked} of {live}, drawn with seed {result.earlier.seed}"


def outcome(index: int, found: measuring.Outcome) -> FactOutcome:
    """An outcome as it is answered; the fact is fact ``index`` of the request."""
    fact = found.fact
    return FactOutcome(
        index=index,
        subject=fact.subject,
        prompt=fact.prompt,
        target_new=fact.target_new,
        target_true=fact.target_true,
        before=Answer(**vars(found.before)),
        after=Answer(**vars(found.after)),
        chat_before=Answer(**vars(found.chat_before)) if found.chat_before else None,
        chat_after=Answer(**vars(found.chat_after)) if found.chat_after else None,
        success=found.success,
        steps=found.steps,
        target_probability=found.target_probability,
    )


def sha256_of(value: Any) -> str:
    """The hash of a value's JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
