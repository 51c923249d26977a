"""Two workers, and two whole services, on one store."""

from __future__ import annotations

import signal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.faults.checks import assert_whole
from support.faults.harness import Service
from support.faults.processes import Part, until

from service.contracts.jobs import JobStatus

thorough = pytest.mark.thorough


def another_worker(service: Service) -> Part:
    folder = service.folder / "another"
    folder.mkdir(exist_ok=True)
    return Part("worker", folder, service.worker.environment)


def waits(worker: Part) -> bool:
    return (
        worker.log.exists() and "another worker already uses this store" in worker.log.read_text()
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=thorough)])
@pytest.mark.parametrize(
    "place", ["swap", *(pytest.param(p, marks=thorough) for p in ("optimise", "write", "record"))]
)
def test_a_second_worker_waits_and_takes_over(own, place: str, number: int) -> None:
    service = own()
    first, second = service.worker, another_worker(service)
    job, later = service.edit_halted(place), service.edit()
    second.start()
    until(lambda: waits(second), "the second worker waits")
    first.signal(number)
    first.halts.let_go()
    first.ended()
    service.worker = second
    service.wait_ready()
    for one in (job, later):
        assert service.wait(one.id).status is JobStatus.SUCCEEDED
    assert_whole(service)


@thorough
def test_two_services_on_one_store_take_jobs_and_one_works(own) -> None:
    """Each has its own queue; they share only the store."""
    one = own()
    with TemporaryDirectory(prefix="faults-") as folder:
        other = Service(Path(folder), JEEP_STORE=one.root)
        other.root = one.root
        other.server.start()
        other.worker.start()
        until(lambda: waits(other.worker), "its worker waits")
        other.connect()
        first = one.edited()
        second = other.edit()
        other.accepted[first.id] = first
        one.accepted[second.id] = second
        assert one.wait(second.id).status is JobStatus.SUCCEEDED
        job = other.edit()
        one.accepted[job.id] = job
        for part in (one.api, one.worker):
            part.stop()
        other.wait_ready()
        assert other.wait(job.id).status is JobStatus.SUCCEEDED
        assert_whole(other)
        other.close()
