"""The queue server is restarted, emptied, away, full or read-only while jobs wait and run.

The queue holds nothing that the store does not: every accepted job is done, whatever it loses.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from support.faults.harness import LEASE_S, Service
from support.faults.processes import until

from service.client import ApiError
from service.contracts.jobs import JobStatus

CLIENT_PATIENCE_S = 55.0
"""How long a worker's connection is tried again (``service.queue.connection``)."""
thorough = pytest.mark.thorough


def some(cases: dict[str, object], in_ci: str) -> list[object]:
    """Parameters of which only ``in_ci`` runs without ``FAULTS=all``."""
    return [
        pytest.param(case, id=name, marks=[] if name == in_ci else [thorough])
        for name, case in cases.items()
    ]


def all_done(service: Service, jobs: list[str]) -> None:
    """All succeeded, in the order in which they were accepted."""
    done = [service.wait(job_id) for job_id in jobs]
    assert [job.status for job in done] == [JobStatus.SUCCEEDED] * len(jobs), [
        job.error for job in done
    ]
    versions = [int(job.result["version"][1:]) for job in done if job.result]
    assert versions == sorted(versions)


# ---------------------------------------------------------------- emptied


def flush(service: Service) -> None:
    service.server.client.flushall()


def lose_everything(service: Service) -> None:
    """The server dies with its disk."""
    service.server.kill()
    for path in service.folder.joinpath("q").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    service.server.start()


@pytest.mark.parametrize("emptied", some({"flush": flush, "disk": lose_everything}, "flush"))
@pytest.mark.parametrize(
    "place", some({p: p for p in ("validate", "optimise", "swap", "record", "finish")}, "swap")
)
def test_an_emptied_queue_is_filled_again_in_order(
    service: Service, emptied: Callable[[Service], None], place: str
) -> None:
    halts = service.halt("worker", place)
    jobs = [service.edit().id for _ in range(3)]
    until(halts.reached, f"the worker reaches {place!r}")
    emptied(service)
    halts.let_go()
    all_done(service, [*jobs, service.edit().id])


# ---------------------------------------------------------------- away


@contextmanager
def killed(service: Service) -> Iterator[None]:
    service.server.kill()
    yield
    service.server.start()


@contextmanager
def hanging(service: Service) -> Iterator[None]:
    service.server.signal(signal.SIGSTOP)
    yield
    service.server.signal(signal.SIGCONT)


@pytest.mark.parametrize("away", some({"killed": killed, "hanging": hanging}, "killed"))
@pytest.mark.parametrize("place", some({p: p for p in ("optimise", "swap", "finish")}, "optimise"))
def test_jobs_survive_a_queue_away_for_longer_than_the_lease(
    service: Service, away: Callable[[Service], Iterator[None]], place: str
) -> None:
    halts = service.halt("worker", place)
    jobs = [service.edit().id]
    until(halts.reached, f"the worker reaches {place!r}")
    with away(service):
        halts.let_go()
        ended = time.monotonic() + 1.5 * LEASE_S
        jobs.append(service.edit().id)  # the store takes it, whether the queue is there or not
        assert service.answers()
        with pytest.raises(ApiError) as refused:
            service.client.generate("Lyon lies in")
        assert refused.value.problem.status == 503
        assert refused.value.problem.code == "no_queue"
        time.sleep(max(0.0, ended - time.monotonic()))
    all_done(service, [*jobs, service.edit().id])


@thorough
@pytest.mark.timeout(400)
def test_jobs_survive_a_queue_away_for_longer_than_anyone_waits(service: Service) -> None:
    """The worker ends, and is started again: the job was never its own."""
    halts = service.halt("worker", "optimise")
    job = service.edit().id
    until(halts.reached, "the worker is at work")
    service.server.kill()
    halts.let_go()
    assert service.worker.ended(CLIENT_PATIENCE_S * 2) == 1
    assert "Traceback" not in service.worker.log.read_text()[-2000:]
    service.worker.start()
    time.sleep(LEASE_S)
    service.server.start()
    all_done(service, [job, service.edit().id])


# ---------------------------------------------------------------- running, but read-only


@contextmanager
def full(service: Service) -> Iterator[None]:
    service.server.client.config_set("maxmemory", "1")
    yield
    service.server.client.config_set("maxmemory", "0")


@contextmanager
def read_only(service: Service) -> Iterator[None]:
    service.server.client.replicaof("127.0.0.1", "1")
    yield
    service.server.client.replicaof("NO", "ONE")


@pytest.mark.parametrize("refusing", some({"full": full, "read-only": read_only}, "full"))
@pytest.mark.parametrize(
    "place", some({p: p for p in ("validate", "optimise", "swap", "finish")}, "optimise")
)
def test_jobs_survive_a_queue_that_takes_no_writes(
    service: Service, refusing: Callable[[Service], Iterator[None]], place: str
) -> None:
    halts = service.halt("worker", place)
    jobs = [service.edit().id]
    until(halts.reached, f"the worker reaches {place!r}")
    later: list[str] = []
    with refusing(service):
        submitting = threading.Thread(target=lambda: later.append(service.edit().id))
        submitting.start()
        halts.let_go()
        with pytest.raises(ApiError) as refused:
            service.client.generate("Lyon lies in")
        assert refused.value.problem.status == 503
        end = time.monotonic() + LEASE_S
        while time.monotonic() < end:
            assert service.answers()
            service.revive()
            time.sleep(0.1)
    submitting.join()
    all_done(service, [*jobs, *later, service.edit().id])
