"""A worker that is suspended for longer than its lease, and then continues."""

from __future__ import annotations

import signal
import time

import pytest
from support.faults.checks import assert_whole
from support.faults.harness import LEASE_S, Service
from support.faults.processes import Part, until

from service.contracts.jobs import JobStatus

thorough = pytest.mark.thorough
PLACES = ("validate", "optimise", "tensors", "write", "rename", "swap", "record", "finish")


def lease_over(service: Service) -> bool:
    [keys] = list(service.server.client.scan_iter("jeep:*:fence"))
    return not service.server.client.exists(keys.replace(":fence", ":lease"))


@thorough
@pytest.mark.parametrize("place", PLACES)
def test_a_worker_that_was_not_replaced_goes_on(service: Service, place: str) -> None:
    halts = service.halt("worker", place)
    job = service.edit()
    until(halts.reached, f"the worker reaches {place!r}")
    service.worker.signal(signal.SIGSTOP)
    halts.let_go()
    until(lambda: lease_over(service), "the lease is over")
    service.worker.signal(signal.SIGCONT)
    assert service.wait(job.id).status is JobStatus.SUCCEEDED


def on_another_host(service: Service) -> Part:
    """A second worker on the store, as if over a network disk that does not support locks.

    It reaches the store by another path, so its lease has another owner, and the lock file that
    the first one holds is gone.
    """
    path = service.folder / "mounted"
    path.symlink_to(service.root)
    (service.root / "locks" / "worker").unlink()
    folder = service.folder / "second"
    folder.mkdir()
    return Part("worker", folder, {**service.worker.environment, "JEEP_STORE": path})


@pytest.mark.parametrize(
    "place", [pytest.param(p, marks=[] if p == "tensors" else [thorough]) for p in PLACES]
)
def test_the_work_of_a_replaced_worker_is_thrown_away(own, place: str) -> None:
    """The second one is at the same place of the same job when the first one resumes."""
    service = own()
    service.edited()
    first, job = service.worker, service.edit_halted(place)
    first.signal(signal.SIGSTOP)
    second = on_another_host(service)
    second.halts.want("optimise")
    service.worker = second
    try:
        second.start()
        if place in ("validate", "optimise", "tensors"):
            until(second.halts.reached, "the second worker is at the same job", 6 * LEASE_S)
        else:  # the version is written or about to be: the second one ends the job
            service.wait_ready()
        first.halts.let_go()
        first.signal(signal.SIGCONT)
        assert first.ended(5 * LEASE_S) == 1
        assert "lease" in first.log.read_text()[-1500:]
        second.halts.let_go()
        assert service.wait(job.id).status is JobStatus.SUCCEEDED
        assert_whole(service)
    finally:
        first.kill()


@thorough
def test_an_api_that_stands_still_keeps_accepted_jobs(service: Service) -> None:
    job = service.edit()
    service.api.signal(signal.SIGSTOP)
    time.sleep(LEASE_S)
    service.api.signal(signal.SIGCONT)
    assert service.wait(job.id).status is JobStatus.SUCCEEDED
