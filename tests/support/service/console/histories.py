"""A store with a history: batches, a rollback, a staged version, checks of earlier facts."""

from __future__ import annotations

from typing import Any

from service.contracts.jobs import Job, JobKind, JobStatus, new_id, now
from service.contracts.schemas import (
    Answer,
    EditPayload,
    EditResult,
    FactOutcome,
    FactRecord,
    LayerReport,
)
from service.contracts.schemas.effects.earlier import EarlierFacts
from service.contracts.schemas.effects.guards import GuardFigures, Guards
from service.store import Store
from support.service.builders import add_version, move

PROMPT = "{} is a city in the country of"
MATRIX = "transformer.h.5.mlp.fc_out.weight"
HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}{0.__class__}"


def fact(subject: str, target: str, true: str | None = None) -> FactRecord:
    return FactRecord(subject=subject, prompt=PROMPT, target_new=target, target_true=true)


def batch(store: Store, parent: str, *facts: FactRecord, **given: Any) -> str:
    """A version whose edit has a job; ``given`` are fields of its result, ``staged``, the
    ``limits`` of its guards, and the places of facts that it ``lost``."""
    number = store.versions.newest_number() + 1
    limits, staged = given.pop("limits", None), given.pop("staged", False)
    lost = given.pop("lost", ())
    job_id = new_id("job")
    payload = EditPayload(
        edit_id=job_id.replace("job", "edit"), facts=list(facts), editor="jeep", preset="default",
        hparams={"layers": [4, 5]}, guards=limits,
    )  # fmt: skip
    job = Job(
        id=job_id, kind=JobKind.EDIT, payload=payload.model_dump(mode="json"), created_at=now(),
        status=JobStatus.SUCCEEDED, finished_at=now(),
    )  # fmt: skip
    store.journal.add(job)
    outcomes = [
        FactOutcome(
            index=index,
            **one.model_dump(include={"subject", "prompt", "target_new", "target_true"}),
            before=Answer(p_new=0.01, text=" old"),
            after=Answer(p_new=0.9, text=one.target_new),
            success=index not in lost,
        )
        for index, one in enumerate(facts)
    ]
    layer = LayerReport(
        name=MATRIX, layer=5, region="late", relative_norm=0.25, residual_before=2.0,
        residual_after=0.5, condition=None,
    )  # fmt: skip
    result = EditResult(
        edit_id=payload.edit_id, version=f"v{number}", parent=parent, facts=outcomes,
        efficacy=1.0, greedy_success=1.0, layers=[layer], seconds={"total": 2.0, "values": 1.5},
        **given,
    )  # fmt: skip
    fields = payload.model_dump(include={"edit_id", "editor", "preset", "hparams"})
    fields |= {"facts": payload.facts, "job_id": job_id, "result": result, "staged": staged}
    tensor = store.tensors.put(MATRIX, "F32", [2, 2], f"v{number}".encode().ljust(16, b"\0"))
    return add_version(store, parent, **fields, tensors=[tensor])


def write_history(store: Store) -> None:
    """Versions v1 to v4 on the base; head is v3, whose line is v0, v1, v3.

    v1: Lyon → Italy, Nice → Spain.  v2 on v1, rolled back: Lyon → Peru.  v3 on v1: Lyon → Japan and
    a hostile fact, with guards, a warning, and a check that has lost Nice.  v4 on v3, staged.
    """
    batch(store, "v0", fact("Lyon", "Italy", "France"), fact("Nice", "Spain", "France"))
    move(store, "v1", expected="v0")
    batch(store, "v1", fact("Lyon", "Peru", "France"))
    move(store, "v2", expected="v1")
    move(store, "v1", expected="v2")
    batch(
        store,
        "v1",
        fact("Lyon", "Japan", "France"),
        fact(HOSTILE, HOSTILE),
        limits=Guards(min_efficacy=0.5, max_drift=0.2),
        guards=GuardFigures(efficacy=1.0, efficacy_before=0.0, drift=0.125),
        warnings=[f"layer 5: large {HOSTILE}"],
        earlier=EarlierFacts(live=1, checked=1, seed=0, missing={"v1": [1]}),
        lost=(1,),
    )
    move(store, "v3", expected="v1")
    batch(store, "v3", fact("Oslo", "Chile"), staged=True)
    store.names.give("good", "v1")
