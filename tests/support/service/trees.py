"""Random trees of versions with facts, without tensors."""

from __future__ import annotations

import random
from collections.abc import Mapping

from service.contracts.jobs import Job, JobKind, JobStatus, new_id, now
from service.contracts.schemas.edits import FactRecord
from service.contracts.schemas.effects.checks import (
    ANSWERS_FILE,
    MISSING_FILE,
    CheckAnswers,
    CheckPayload,
    CheckResult,
    as_sent,
)
from service.contracts.schemas.evaluation import MetricProtocol
from service.store import Store
from service.worker.partial_results import write_lines
from support.service.builders import add_version, move

SUBJECTS = ("Lyon", "Osaka", "Óbidos", "New York", "lyon")
PROMPTS = ("{} is in", "{} lies  in", "The country of {} is")
PROTOCOL = MetricProtocol(asked="facts", how="plainly", judged="written", comparable="the same")
ANSWERS = ("Japan", "Peru", "Straße")


def fact(rng: random.Random) -> FactRecord:
    return FactRecord(
        subject=rng.choice(SUBJECTS), prompt=rng.choice(PROMPTS), target_new=rng.choice(ANSWERS)
    )


def batch(rng: random.Random) -> list[FactRecord]:
    """Some facts, no question twice."""
    found = {
        (one.subject, one.prompt): one for one in (fact(rng) for _ in range(rng.randint(1, 4)))
    }
    return list(found.values())


def outcome(index: int, one: FactRecord, success: bool) -> dict[str, object]:
    answer = {"p_new": 0.5, "text": " x"}
    return {"index": index, "subject": one.subject, "prompt": one.prompt,
            "target_new": one.target_new, "before": answer, "after": answer,
            "success": success}  # fmt: skip


def add_check(
    store: Store,
    version: str,
    held: Mapping[str, list[int]],
    missing: Mapping[str, list[int]],
    job_id: str | None = None,
) -> Job:
    """A check of a version that has ended, with its report; the facts of a batch that are to be
    edited again are the first ones.
    """
    job_id = job_id or new_id("job")
    check_id = JobKind.CHECK.spec.resource_id(job_id)
    payload = CheckPayload(check_id=check_id, version=version, facts="all", seed=0)
    job = Job(id=job_id, kind=JobKind.CHECK, payload=payload.model_dump(), created_at=now())
    store.journal.add(job)
    lines = [
        CheckAnswers(version=one, held=held.get(one, []), missing=missing.get(one, []))
        for one in {**held, **missing}
    ]
    folder = store.reports.folder(job_id)
    write_lines(folder / ANSWERS_FILE, [line.model_dump() for line in lines])
    lost = [store.versions.read(one).facts[0] for one, indices in missing.items() if 0 in indices]
    write_lines(folder / MISSING_FILE, map(as_sent, lost))
    store.reports.seal(job_id)
    n_held, n_missing = (sum(map(len, some.values())) for some in (held, missing))
    asked = n_held + n_missing
    result = CheckResult(
        check_id=check_id, version=version, live=asked, asked=asked, held=n_held,
        missing=n_missing, unasked=0, seed=0, protocol=PROTOCOL, seconds=0.1,
    )  # fmt: skip
    done = {"status": JobStatus.SUCCEEDED, "finished_at": now(), "result": result.model_dump()}
    store.journal.save(job.model_copy(update=done))
    return job


def check_some(store: Store, version: str) -> None:
    """A check of some facts of a version, the same ones each time."""
    rng = random.Random(version)
    found: dict[str, dict[str, list[int]]] = {"held": {}, "missing": {}}
    for one in store.versions.lineage(version):
        for index in range(0, 2 * len(one.facts), 2):
            if rng.random() < 0.4:
                found[rng.choice(["held", "missing"])].setdefault(one.id, []).append(index)
    add_check(store, version, found["held"], found["missing"])


def grow(store: Store, rng: random.Random, count: int) -> None:
    """Edits, rollbacks, staged and unused versions, checks of earlier facts and of live ones."""
    for number in range(count):
        head = store.head.read().version
        known = sorted(store.versions.numbers())
        parent = head if rng.random() < 0.7 else f"v{rng.choice(known)}"
        facts = batch(rng)
        line = store.versions.lineage(parent)
        earlier: dict[str, dict[str, list[int]]] = {"held": {}, "missing": {}}
        for one in line:
            for index in range(0, 2 * len(one.facts), 2):
                if rng.random() < 0.3:
                    earlier[rng.choice(["held", "missing"])].setdefault(one.id, []).append(index)
        result = {
            "edit_id": f"edit_{number}", "version": "", "parent": parent, "efficacy": 1.0,
            "greedy_success": 1.0, "layers": [], "seconds": {},
            "facts": [outcome(2 * i, one, rng.random() < 0.8) for i, one in enumerate(facts)],
            "earlier": {"live": 1, "checked": 1, "seed": 0, **earlier},
        }  # fmt: skip
        staged = rng.random() < 0.1
        version = add_version(
            store, parent, editor="jeep", edit_id=f"edit_{number}", job_id=f"job_{number}",
            facts=facts, staged=staged, result=result,
        )  # fmt: skip
        if number % 3 == 0:
            check_some(store, version)
            check_some(store, parent)
        if not staged and rng.random() < 0.9:
            move(store, version, expected=head)
        if rng.random() < 0.15:
            head = store.head.read().version
            move(store, f"v{rng.choice(sorted(store.versions.numbers()))}", expected=head)
