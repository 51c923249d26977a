"""The device's memory runs out in the edit lane: that job fails, everything else continues."""

from __future__ import annotations

import pytest
from support.faults.harness import Service
from support.faults.processes import until

from service.contracts.jobs import JobStatus


@pytest.mark.parametrize(
    "place",
    ["optimise", *(pytest.param(p, marks=pytest.mark.thorough) for p in ("moments", "solve"))],
)
def test_an_edit_without_memory_fails_alone(service: Service, place: str) -> None:
    if place == "moments":
        service.forget_moments()
    head, worker = service.store.head.read(), service.worker.pid
    halts = service.halt("worker", place)
    halts.exhaust(place)
    without, queued = service.edit(), service.edit()
    until(halts.reached, f"the worker reaches {place!r}")
    assert service.client.generate("Lyon lies in").results[0].version == head.version
    halts.let_go()
    failed, done = service.wait(without.id), service.wait(queued.id)
    assert (failed.status, failed.error.code) == (JobStatus.FAILED, "out_of_memory")
    assert done.status is JobStatus.SUCCEEDED
    assert service.store.versions.read(done.result["version"]).parent == head.version
    assert service.client.generate("Lyon lies in").results[0].version == done.result["version"]
    assert service.worker.pid == worker, "the same process went on"
