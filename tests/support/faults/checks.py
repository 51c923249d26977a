"""Invariants that must hold after every fault."""

from __future__ import annotations

import os
import time
from collections import Counter
from functools import cache
from pathlib import Path

from jeep_core.decoding.generation import complete
from jeep_core.models.loading import LoadedModel, combined_sha256, load
from jeep_core.models.views import ModelView
from service.contracts.jobs import TERMINAL, Job, JobKind, JobStatus, Lane
from service.contracts.schemas import Manifest
from service.queue import Keys
from service.store import Store
from service.store.files import TEMPORARY
from service.store.maintenance.retention import referenced_tensors
from service.store.maintenance.verify import verify
from service.store.reports import HASHES
from service.worker.versions.tensors import get_all
from support.faults.harness import MODEL, Service
from support.faults.processes import PATIENCE_S, until

MOVING = [kind for kind in JobKind if kind.lane is Lane.WRITE]
REPORTING = [kind for kind in JobKind if kind.spec.reports]
PROMPTS = ("Town 1 lies in", "Lyon lies in")
TOKENS = 6


def assert_whole(service: Service, start_again: bool = True) -> None:
    """Wait until every accepted job has ended, start the worker once more, check everything.

    ``start_again``: False where no worker was struck that writes; a module's last check does.
    """
    for part in (service.worker, service.api, *service.followers):
        part.halts.let_go()
    service.wait_ready()
    for job_id in service.accepted:
        service.wait(job_id)
    _age(service.root)
    if start_again:
        service.restart("worker")
    store = service.store
    assert_jobs(service, store)
    assert_chain(store)
    assert_head(service, store)
    assert_nothing_left(store)
    until(lambda: _queue_is_empty(service, store), "the queue is empty")


@cache
def base() -> LoadedModel:
    """The unedited model, as the worker loads it."""
    return load(str(MODEL), "cpu")


def assert_jobs(service: Service, store: Store) -> None:
    """Every accepted job ended once, with its result or the reason; there are no others."""
    jobs = {job.id: job for job in store.journal.all()}
    assert jobs.keys() == service.accepted.keys()
    assert all(service.client.job(job_id).status is jobs[job_id].status for job_id in jobs)
    moves = Counter(move.job_id for move in store.head.reflog() if move.job_id)
    assert set(moves.values()) <= {1}
    line_up = {}
    for version in store.versions.all():
        line_up.setdefault(version.job_id, []).append(version)
    for job in jobs.values():
        _assert_ended(job, moves[job.id], line_up.get(job.id, []), service)
    _assert_heard_once(service, store)


def _assert_ended(job: Job, moves: int, made: list[Manifest], service: Service) -> None:
    assert job.status in TERMINAL
    assert job.finished_at is not None
    if job.status is JobStatus.SUCCEEDED:
        assert job.result is not None
        assert job.error is None
        assert moves == (job.kind in MOVING and job.result.get("activated", True))
        if job.kind is JobKind.EDIT:
            assert job.result["version"] in [version.id for version in made]
        if job.kind in REPORTING:
            assert (service.root / "reports" / job.id / HASHES).exists()
        return
    assert moves == 0, f"{job.id} {job.status}, and yet it moved head: {job.error}"
    if job.status is JobStatus.FAILED:
        assert job.error is not None
        assert job.error.message
        assert job.error.code != "internal_error", job.error
    else:
        assert job.id in service.cancelled


def _assert_heard_once(service: Service, store: Store) -> None:
    """No job has published two ends."""
    keys = Keys(store.id)
    for job_id in service.accepted:
        events = service.server.client.xrange(keys.events(job_id))
        ends = [data for _, data in events if '"error"' in data["data"]]
        ended = [data for data in ends if any(f'"{end}"' in data["data"] for end in TERMINAL)]
        assert len(ended) <= 1, ended


def assert_chain(store: Store) -> None:
    """Every file can be read and has its hash, head's history has no gap."""
    assert verify(store).findings == []
    moves = store.head.reflog()
    assert moves[0].previous is None
    assert [move.previous for move in moves[1:]] == [move.to for move in moves[:-1]]
    assert moves[-1] == store.head.read().move
    assert moves[-1].to == store.head.read().version
    for name in store.names.all():
        store.names.resolve(name)


def assert_head(service: Service, store: Store) -> None:
    """Head's weights have the hash of its manifest, and answers come from them."""
    head = store.versions.read(store.head.read().version)
    stored = get_all(store, head.tensors)
    changed = {ref.name: ref.sha256 for ref in head.tensors}
    assert combined_sha256({**base().tensor_hashes, **changed}) == head.weights_sha256
    view = ModelView(base(), stored)
    for prompt in PROMPTS:
        [answer] = service.client.generate(prompt, max_new_tokens=TOKENS).results
        assert answer.version == head.id
        assert answer.text == complete(view, prompt, TOKENS)


def assert_nothing_left(store: Store) -> None:
    """No file that nothing refers to, no mark of a job that has ended.

    Temporary files of the worker's retention are gone a moment later.
    """
    end = time.monotonic() + PATIENCE_S
    while left := _left(store):
        print(f"left: {[str(path) for path in left]}", flush=True)
        assert time.monotonic() < end, f"nothing refers to {left}"
        time.sleep(0.2)


def _left(store: Store) -> list[Path]:
    left = [*store.root.rglob(f".*{TEMPORARY}"), *store.root.rglob(".*.partial")]
    left += (store.root / "exports").glob("*.partial")
    for folder in ("staging", "work"):
        left += (store.root / folder).iterdir()
    reports = (store.root / "reports").iterdir()
    left += [path for path in reports if not _succeeded(store, path.name)]
    left += [store.exports.path(job) for job in store.exports.all() if not _succeeded(store, job)]
    for marks in ("open/*", "*.open", "*.cancel", "*.claim"):
        left += (store.root / "jobs").glob(marks)
    return left + sorted(
        set((store.root / "tensors").glob("*/*"))
        - {store.tensors.path(ref.sha256) for ref in referenced_tensors(store)}
    )


def _succeeded(store: Store, job_id: str) -> bool:
    return store.journal.read(job_id).status is JobStatus.SUCCEEDED


def _queue_is_empty(service: Service, store: Store) -> bool:
    keys, redis = Keys(store.id), service.server.client
    payloads = [key for key in redis.scan_iter(keys.job("*")) if redis.hexists(key, "job")]
    return not payloads and all(
        redis.xlen(stream) == 0 for lane in Lane for stream in keys.lane(lane)
    )


def _age(root: Path) -> None:
    """Make what a killed process has left unfinished as old as it must be to be removed."""
    past = time.time() - 7200
    for path in (*root.rglob(f".*{TEMPORARY}"), *root.rglob(".*.partial")):
        os.utime(path, (past, past))
    for path in (root / "jobs" / "open").iterdir():
        os.utime(path, (past, past))
