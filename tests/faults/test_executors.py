"""Processes that do parts of an edit are killed in every phase of it, and while they work.

The job ends as without, with the same bytes; they end with the worker that has started them.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from support.faults.checks import assert_whole
from support.faults.halts import PHASES
from support.faults.harness import EVERYTHING, Service
from support.faults.processes import until
from support.faults.strikes import strike

from service.contracts.jobs import TERMINAL, JobStatus
from service.contracts.schemas import JobOut

FACTS = 70
"""More than are optimised in one piece: three pieces."""
KILLS = int(os.environ.get("FAULTS_KILLS") or (40 if EVERYTHING else 2))
SEED = int(os.environ.get("FAULTS_SEED") or 20)
IN_CI = ("optimise", "swap")
REACHED = [phase for phase in PHASES if phase != "moments"]
"""The edit that has started the processes has taken the moments, so later ones do not."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Service]:
    """A service whose worker has two processes beside it."""
    settings = {"JEEP_EXECUTOR": "processes", "JEEP_EXECUTOR_WORKERS": 2}
    with (
        TemporaryDirectory(prefix="faults-") as folder,
        Service(Path(folder), **settings) as service,
    ):
        yield service
        assert_whole(service)


@pytest.fixture
def service(shared: Service) -> Iterator[Service]:
    """The shared service, ready; a worker that goes on keeps its processes for the next case."""
    shared.wait_ready()
    yield shared
    assert_whole(shared, start_again=False)


@pytest.fixture
def processes(service: Service) -> list[int]:
    """Those that an edit before has left."""
    if len(started(service)) != 2:
        assert service.wait(service.edit(facts=FACTS).id).status is JobStatus.SUCCEEDED
    found = started(service)
    assert len(found) == 2
    return found


def started(service: Service) -> list[int]:
    """The ids of all processes that workers have started and that are still there."""
    log = service.worker.log.read_text()
    return [
        int(pid)
        for pid in re.findall(r"worker process (\d+) has started", log)
        if is_there(int(pid))
    ]


def is_there(pid: int) -> bool:
    try:
        return "forkserver" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def kill(pids: list[int]) -> None:
    """Kill processes, each of which must be there."""
    assert pids, "there is nobody to kill"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(is_there, pids)), "they are dead")


def weights(service: Service, job: JobOut) -> str:
    return service.store.versions.read(str(job.result["version"])).weights_sha256


@pytest.mark.parametrize(
    "phase",
    [pytest.param(p, marks=[] if p in IN_CI else [pytest.mark.thorough]) for p in REACHED],
)
def test_an_edit_goes_on_whatever_phase_its_processes_are_killed_in(
    service: Service, processes: list[int], phase: str
) -> None:
    halts = service.halt("worker", phase)
    job = service.edit(facts=FACTS)
    until(halts.reached, f"the worker reaches {phase!r}")
    kill(processes)
    halts.let_go()
    assert service.wait(job.id).status is JobStatus.SUCCEEDED


def test_processes_that_are_killed_at_work_leave_no_trace_in_the_bytes(
    service: Service, processes: list[int]
) -> None:
    """Each edit twice on the same version: with two kills at random moments, and without."""
    chance = random.Random(SEED)
    kills = at_work = 0
    took = 0.3
    edits = 0
    while kills < KILLS:
        edits += 1
        assert edits <= KILLS, "edits end before their processes can be killed"
        parent = str(service.store.head.read().version)
        facts = [service.fact() for _ in range(FACTS)]
        job = submitted(service, facts)
        for _ in range(2):
            time.sleep(chance.uniform(0, took))
            if not (alive := started(service)):
                continue  # the second one was killed as the edit ended
            kill(chance.sample(alive, 1))
            kills += 1
            at_work += service.client.job(job.id).status not in TERMINAL
        struck = service.wait(job.id)
        assert struck.status is JobStatus.SUCCEEDED
        service.rollback(parent)
        began = time.monotonic()
        again = service.wait(submitted(service, facts).id)
        took = time.monotonic() - began  # most of the next kills are to come before its edit ends
        assert weights(service, struck) == weights(service, again)
    print(f"FAULTS_SEED={SEED}: {kills} kills, {at_work} of them before the edit had ended")
    assert at_work


def submitted(service: Service, facts: list[dict[str, Any]]) -> JobOut:
    drawn = iter(facts)
    own, service.fact = service.fact, lambda: next(drawn)  # type: ignore[method-assign]
    try:
        return service.edit(facts=len(facts))
    finally:
        service.fact = own  # type: ignore[method-assign]


def test_processes_end_with_the_worker_that_has_started_them(
    service: Service, processes: list[int]
) -> None:
    halts = service.halt("worker", "optimise")
    job = service.edit(facts=FACTS)
    until(halts.reached, "the worker optimises values")
    strike(service, "worker", signal.SIGKILL)
    until(lambda: not any(map(is_there, processes)), "they have ended")
    assert service.wait(job.id).status is JobStatus.SUCCEEDED


def test_an_edit_that_is_cancelled_leaves_processes_that_work(
    service: Service, processes: list[int]
) -> None:
    halts = service.halt("worker", "optimise")
    job = service.edit(facts=FACTS)
    until(halts.reached, "the worker optimises values")
    service.cancel(job.id)
    halts.let_go()
    assert service.wait(job.id).status is JobStatus.CANCELLED
    assert service.wait(service.edit(facts=FACTS).id).status is JobStatus.SUCCEEDED
    assert started(service) == processes
