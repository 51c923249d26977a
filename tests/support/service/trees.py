"""Random trees of versions with facts, without tensors."""

from __future__ import annotations

import random

from service.contracts.schemas.edits import FactRecord
from service.store import Store
from support.service.builders import add_version, move

SUBJECTS = ("Lyon", "Osaka", "Óbidos", "New York", "lyon")
PROMPTS = ("{} is in", "{} lies  in", "The country of {} is")
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


def grow(store: Store, rng: random.Random, count: int) -> None:
    """Edits, rollbacks, staged and unused versions, checks of earlier facts."""
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
        if not staged and rng.random() < 0.9:
            move(store, version, expected=head)
        if rng.random() < 0.15:
            head = store.head.read().version
            move(store, f"v{rng.choice(sorted(store.versions.numbers()))}", expected=head)
