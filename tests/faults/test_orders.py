"""A rollback, a cancel and a new edit, in every order, while an edit is in any phase."""

from __future__ import annotations

from itertools import permutations

import pytest
from support.faults.harness import Service

from service.client import ApiError
from service.contracts.jobs import JobStatus

ACTIONS = ("rollback", "cancel", "edit")
BEFORE_COMMIT = ("validate", "optimise", "tensors", "write", "swap")
AFTER_COMMIT = ("record", "finish")
CAN_BE_CANCELLED = ("validate", "optimise", "tensors")
thorough = pytest.mark.thorough


def orders(places: tuple[str, ...], in_ci: str | None = None) -> list[object]:
    first = (in_ci, ACTIONS)
    return [
        pytest.param(p, o, marks=[] if (p, o) == first else [thorough], id=f"{p}-{'-'.join(o)}")
        for p in places
        for o in permutations(ACTIONS)
    ]


def act(service: Service, order: tuple[str, ...], job_id: str) -> str:
    """Do the three things; the job of the new edit."""
    new = ""
    for action in order:
        if action == "rollback":
            service.rollback("base")
        elif action == "cancel":
            service.cancel(job_id)
        else:
            new = service.edit().id
    return new


@pytest.mark.parametrize(("place", "order"), orders(BEFORE_COMMIT, "optimise"))
def test_an_edit_that_was_overtaken_leaves_no_trace(
    service: Service, place: str, order: tuple[str, ...]
) -> None:
    before = service.edited().result["version"]
    running = service.edit_halted(place)
    new = act(service, order, running.id)
    service.worker.halts.let_go()
    ended, after = service.wait(running.id), service.wait(new)
    if place in CAN_BE_CANCELLED:
        assert ended.status is JobStatus.CANCELLED
    else:
        assert (ended.status, ended.error.code) == (JobStatus.FAILED, "version_conflict")
    assert after.status is JobStatus.SUCCEEDED
    store = service.store
    line = [version.id for version in store.versions.lineage(store.head.read().version)]
    assert line == ["v0", after.result["version"]]
    assert [move.to for move in store.head.reflog()[-3:]] == [before, "v0", after.result["version"]]


@pytest.mark.parametrize(("place", "order"), orders(AFTER_COMMIT))
def test_an_edit_that_was_committed_stands_and_can_be_left(
    service: Service, place: str, order: tuple[str, ...]
) -> None:
    running = service.edit_halted(place)
    new = act(service, order, running.id)
    service.worker.halts.let_go()
    ended, after = service.wait(running.id), service.wait(new)
    assert [ended.status, after.status] == [JobStatus.SUCCEEDED] * 2
    store = service.store
    line = [version.id for version in store.versions.lineage(store.head.read().version)]
    assert line == ["v0", after.result["version"]]
    moves = [move.to for move in store.head.reflog()[-3:]]
    assert moves == [ended.result["version"], "v0", after.result["version"]]


@thorough
@pytest.mark.parametrize("order", list(permutations(("revert", "rollback", "edit"))))
def test_a_revert_among_edits_is_done_in_order(service: Service, order: tuple[str, ...]) -> None:
    """Waiting jobs run in the order in which they were accepted, each on the head it finds.

    A revert of a batch that a rollback has already left is refused; one that was waiting fails.
    """
    service.rollback("base")
    first, second = service.edited(), service.edited()
    running = service.edit_halted("optimise")
    jobs = {}
    for action in order:
        if action == "rollback":
            service.rollback(first.result["version"])
        elif action == "revert" and "rollback" in order[: order.index(action)]:
            with pytest.raises(ApiError, match="not_applied"):
                service.client.revert(second.edit_id)
        elif action == "revert":
            jobs["revert"] = service.revert(second.edit_id).id
        else:
            jobs["edit"] = service.edit().id
    service.worker.halts.let_go()
    assert service.wait(running.id).error.code == "version_conflict"
    edited = service.wait(jobs["edit"])
    if "revert" in jobs:
        assert service.wait(jobs["revert"]).error.code == "not_applied"
    assert edited.status is JobStatus.SUCCEEDED
    store = service.store
    line = [version.id for version in store.versions.lineage(store.head.read().version)]
    assert line == ["v0", first.result["version"], edited.result["version"]]
