"""The store's disk, a small tmpfs, is full at every write of worker and api.  Needs root."""

from __future__ import annotations

import contextlib
import errno
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import pytest
from support.faults.checks import assert_whole
from support.faults.halts import (
    ACCEPTING,
    CONVERTING,
    DROPPING,
    EXPORTING,
    MOVING,
    PHASES,
    READING,
    STEPS,
)
from support.faults.harness import HPARAMS, READ_JOBS, Service
from support.faults.processes import until

from service.client import ApiError
from service.contracts.jobs import JobStatus
from service.contracts.schemas import JobOut

pytestmark = pytest.mark.thorough
MEGABYTES = 24
FULL_S = 1.5
CODES = ("disk_full",)


@pytest.fixture(scope="module")
def cramped() -> Iterator[Service]:
    """A service whose store is on a disk of its own."""
    with TemporaryDirectory(prefix="faults-") as folder:
        store = Path(folder) / "store"
        store.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "faults", str(store)]
        subprocess.run(mount, check=True)
        try:
            with Service(Path(folder), JEEP_KEEP_VERSIONS=1, JEEP_KEEP_EXPORTS=1) as service:
                service.edited()
                yield service
        finally:
            subprocess.run(["umount", "--lazy", str(store)], check=True)


@contextlib.contextmanager
def full(service: Service) -> Iterator[None]:
    """Fill the disk completely."""
    ballast = service.root / "training" / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    try:
        yield
    finally:
        ballast.unlink()


def submit(service: Service) -> JobOut:
    """Submit an edit once."""
    return service.client.edit([service.fact()], editor="memit", hparams=dict(HPARAMS))


def asked(call: Callable[[], object]) -> Callable[[], Any]:
    """Make a call in a thread; return a function that waits for its answer or problem."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except ApiError as error:
            outcome.append(error.problem)

    asking = Thread(target=run)
    asking.start()

    def answer() -> object:
        asking.join()
        return outcome[0]

    return answer


def wait_while_full(service: Service) -> None:
    """The api answers all the time; parts that die are started again."""
    end = time.monotonic() + FULL_S
    while time.monotonic() < end:
        service.revive()
        until(service.answers, "the api answers")
        time.sleep(0.05)


@pytest.mark.parametrize("place", [*PHASES, *STEPS])
def test_a_job_that_finds_the_disk_full_is_done_or_fails_whole(
    cramped: Service, place: str
) -> None:
    if place == "moments":
        cramped.forget_moments()
    before = cramped.store.head.read().version
    job = cramped.edit_halted(place)
    with full(cramped):
        with pytest.raises(ApiError) as refused:
            submit(cramped)
        assert refused.value.problem.status == 507
        cramped.worker.halts.let_go()
        wait_while_full(cramped)
    ended = cramped.wait(job.id)
    if ended.status is JobStatus.FAILED:
        assert ended.error.code in CODES
        assert "space" in ended.error.message or "disk" in ended.error.message
        assert cramped.store.head.read().version == before
    else:
        assert ended.status is JobStatus.SUCCEEDED
    cramped.edited()
    assert_whole(cramped)


@pytest.mark.parametrize("step", ACCEPTING)
def test_an_api_that_finds_the_disk_full_takes_a_job_or_not(cramped: Service, step: str) -> None:
    halts = cramped.halt("api", step)
    answer = asked(lambda: submit(cramped))
    until(halts.reached, f"the api reaches {step!r}")
    with full(cramped):
        halts.let_go()
        found = answer()
    if hasattr(found, "code"):
        assert (found.status, found.code) == (507, "disk_full")
    else:
        cramped.accepted[found.id] = found
    cramped.edited()
    assert_whole(cramped)


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        *product(READ_JOBS, READING),
        *(("export", step) for step in EXPORTING),
        *(("gguf export", step) for step in CONVERTING),
    ],
)
def test_a_job_that_writes_no_version_is_done_or_fails_whole(
    cramped: Service, kind: str, step: str
) -> None:
    cramped.add_cases()
    cramped.play_llama_cpp()
    halts = cramped.halt("worker", step)
    job = cramped.read_job(kind)
    cramped.wait_halted(halts, step)
    with full(cramped):
        halts.let_go()
        wait_while_full(cramped)
    ended = cramped.wait(job.id)
    if ended.status is JobStatus.FAILED:
        assert ended.error.code in CODES, ended.error
    else:
        assert ended.status is JobStatus.SUCCEEDED
    assert_whole(cramped)


@pytest.mark.parametrize("step", MOVING)
def test_a_rollback_that_finds_the_disk_full_is_done_or_not(cramped: Service, step: str) -> None:
    cramped.edited()
    before = cramped.store.head.read().version
    halts = cramped.halt("worker", step)
    answer = asked(lambda: cramped.client.rollback("base"))
    until(halts.reached, f"the worker reaches {step!r}")
    with full(cramped):
        halts.let_go()
        found = answer()
    if hasattr(found, "code"):
        assert (found.status, found.code) == (507, "disk_full")
        assert cramped.store.head.read().version == before
    else:
        assert cramped.store.head.read().version == "v0"
    assert_whole(cramped)
    cramped.rollback(before)
    assert_whole(cramped)


@pytest.mark.parametrize("step", DROPPING)
def test_retention_that_finds_the_disk_full_drops_nothing_or_all(
    cramped: Service, step: str
) -> None:
    """Dropped tensors are rebuilt bit for bit."""
    for _ in range(3):
        cramped.edited()
    cramped.worker.stop()  # else the old versions are in memory, and stay
    halts = cramped.halt("worker", step)
    cramped.worker.start()
    until(halts.reached, f"the worker reaches {step!r}")
    with full(cramped):
        halts.let_go()
        wait_while_full(cramped)
    for version in cramped.store.versions.all():
        [answer] = cramped.client.generate("Lyon lies in", version.id).results
        assert answer.version == version.id
    assert_whole(cramped)


def test_a_name_and_a_suite_are_refused_whole(cramped: Service, tmp_path: Path) -> None:
    suite = tmp_path / "suite.jsonl"
    record = {"subject": "Lima", "prompt": "{} lies in", "target_new": "Peru"}
    suite.write_text(f"{json.dumps(record)}\n" * 1000)
    calls: dict[str, Callable[[], object]] = {
        "name": lambda: cramped.client.name_snapshot("mine", "base"),
        "suite": lambda: cramped.client.add_suite("mine", suite),
    }
    with full(cramped):
        for call in calls.values():
            with pytest.raises(ApiError) as refused:
                call()
            assert (refused.value.problem.status, refused.value.problem.code) == (507, "disk_full")
    assert cramped.store.names.all() == {}
    assert "mine" not in [suite.name for suite in cramped.client.suites()]
    assert_whole(cramped)
    for call in calls.values():
        call()
    assert cramped.store.names.all() == {"mine": "v0"}


def test_a_start_on_a_full_disk_waits_for_room(cramped: Service) -> None:
    job = cramped.edit_halted("optimise")
    cramped.worker.kill()
    with full(cramped):
        wait_while_full(cramped)
    assert cramped.wait(job.id).status in (JobStatus.SUCCEEDED, JobStatus.FAILED)
    assert_whole(cramped)


def test_writes_fail_while_the_disk_is_full(cramped: Service) -> None:
    """The helpers of this file work."""
    with full(cramped), pytest.raises(OSError, match="No space") as found:
        (cramped.root / "training" / "one").write_bytes(bytes(2**16))
    assert found.value.errno == errno.ENOSPC
    (cramped.root / "training" / "one").unlink(missing_ok=True)
