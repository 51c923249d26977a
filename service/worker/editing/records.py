"""Parts of the record that an edit leaves: outcomes, figures of the computation, hashes."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from jeep_core.editing import EditResult as CoreResult
from jeep_core.evaluation import outcomes as measuring
from service.contracts.schemas import Answer, EditPayload, FactOutcome, LayerReport, Manifest


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
