"""Revert jobs that are killed, cancelled, stopped or overtaken; only the computing is simulated."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import pytest
from redis import Redis
from support.service.played_worker.computing import Killed, bytes_of
from support.service.played_worker.jobs import edit_job, revert_job
from support.service.played_worker.worker import PlayedWorker

from service.contracts.jobs import Job, JobStatus, now
from service.queue import Keys
from service.store import Store
from service.store.maintenance.sweep import sweep
from service.worker.lanes.control import JobControl

Patch = Callable[[pytest.MonkeyPatch, PlayedWorker], None]


@pytest.fixture
def edits(client: Redis, based: Store) -> list[str]:
    """The ids of three committed edits, in versions v1, v2 and v3."""
    jobs = [edit_job(based) for _ in range(3)]
    PlayedWorker(client, based.root).work()
    assert based.head.read().version == "v3"
    return [job.payload["edit_id"] for job in jobs]


def reopened(store: Store) -> Store:
    return Store.open(store.root)


def assert_unchanged(store: Store) -> None:
    """Head, versions, drafts and tensors are those of the three edits."""
    store = reopened(store)
    assert store.head.read().version == "v3"
    assert [version.id for version in store.versions.all()] == ["v3", "v2", "v1", "v0"]
    assert list((store.root / "work").iterdir()) == []
    sweep(store)
    assert len(list((store.root / "tensors").glob("*/*.safetensors"))) == 3


def nth_call(part: str, name: str, number: int, after: bool) -> Patch:
    """Make the worker die in a certain call of this, before or after its effect."""

    def patch(monkeypatch: pytest.MonkeyPatch, worker: PlayedWorker) -> None:
        whole, calls = getattr(attrgetter(part)(worker), name), []

        def dying(*args: object, **more: object) -> object:
            calls.append(1)
            if len(calls) == number and not after:
                raise Killed
            made = whole(*args, **more)
            if len(calls) == number:
                raise Killed
            return made

        monkeypatch.setattr(attrgetter(part)(worker), name, dying)

    return patch


def between_head_and_reflog(monkeypatch: pytest.MonkeyPatch, worker: PlayedWorker) -> None:
    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("service.store.index.moves.append_line", die)


# how the worker dies, and how often the batches are computed by the next one
DEATHS: dict[str, tuple[Patch, int]] = {
    "before it begins": (nth_call("queue", "begin", 1, after=False), 2),
    "before the first draft is kept": (nth_call("store.drafts", "save", 1, after=False), 2),
    "behind the first draft": (nth_call("store.drafts", "save", 1, after=True), 1),
    "behind the second draft": (nth_call("store.drafts", "save", 2, after=True), 0),
    "before a version is written": (nth_call("store.versions", "write", 1, after=False), 0),
    "between the versions": (nth_call("store.versions", "write", 1, after=True), 0),
    "before head moves": (nth_call("store.head", "move", 1, after=False), 0),
    "between head and its reflog line": (between_head_and_reflog, 0),
    "before the version is named": (nth_call("store.names", "give", 1, after=False), 0),
    "before the job is saved": (nth_call("store.journal", "save", 1, after=False), 0),
    "before the drafts are dropped": (nth_call("store.drafts", "drop", 1, after=False), 0),
    "before the queue hears of the end": (nth_call("queue", "finish", 1, after=False), 0),
}


@pytest.mark.parametrize("redis", ["keeps all", "loses all"])
@pytest.mark.parametrize("when", DEATHS)
def test_a_killed_worker_s_revert_is_done_once(
    client: Redis,
    based: Store,
    edits: list[str],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    redis: str,
) -> None:
    patch, left = DEATHS[when]
    job = revert_job(based, edits[0], snapshot_name="clean")
    dying = PlayedWorker(client, based.root)
    with monkeypatch.context() as patched:
        patch(patched, dying)
        with pytest.raises(Killed):
            dying.work()
    if redis == "loses all":
        client.flushall()
    next_one = PlayedWorker(client, based.root).work()
    assert len(next_one.runner.parents) == left

    store = reopened(based)
    line = store.versions.lineage(store.head.read().version)
    assert [version.edit_id for version in line] == [None, *edits[1:]]
    assert [version.reapplied_from for version in line] == [None, "v2", "v3"]
    assert len(store.versions.all()) == 6
    assert [move.to for move in store.head.reflog()] == ["v0", "v1", "v2", "v3", line[-1].id]
    assert all(store.tensors.read(v.tensors[0]) == bytes_of(v.id) for v in line[1:])
    assert store.names.all() == {"clean": line[-1].id}
    ended = store.journal.read(job.id)
    assert (ended.status, ended.base_version) == (JobStatus.SUCCEEDED, "v3")
    assert ended.result is not None
    assert (ended.result["version"], ended.result["previous"]) == (line[-1].id, "v3")
    assert [one["version"] for one in ended.result["reapplied"]] == [v.id for v in line[1:]]
    assert store.journal.unfinished() == []
    assert list((store.root / "work").iterdir()) == []
    assert client.xlen(Keys(store.id).jobs) == 0


@pytest.mark.parametrize("redis", ["keeps all", "loses all"])
def test_a_revert_to_the_parent_is_done_once(
    client: Redis, based: Store, edits: list[str], monkeypatch: pytest.MonkeyPatch, redis: str
) -> None:
    """A rollback between the commit and the end of the job is not undone by the next worker."""
    job = revert_job(based, edits[2])
    dying = PlayedWorker(client, based.root)
    nth_call("store.head", "move", 1, after=True)(monkeypatch, dying)
    with pytest.raises(Killed):
        dying.work()
    based.head.move("v1", expected="v2", job_id=None, fence=99, who="api", why="rollback")
    if redis == "loses all":
        client.flushall()
    PlayedWorker(client, based.root).work()
    ended = reopened(based).journal.read(job.id)
    assert (ended.status, ended.base_version) == (JobStatus.SUCCEEDED, "v3")
    assert ended.result is not None
    assert (ended.result["version"], ended.result["reapplied"]) == ("v2", [])
    assert reopened(based).head.read().version == "v1"


class TestOvertaken:
    @pytest.mark.parametrize("batch", [1, 2])
    def test_a_rollback_during_a_revert_wins(
        self, client: Redis, based: Store, edits: list[str], batch: int
    ) -> None:
        calls = []

        def during(job: Job, control: JobControl) -> None:
            calls.append(1)
            if len(calls) == batch:
                fence = based.head.read().fence
                based.head.move("v2", expected="v3", job_id=None, fence=fence, who="api", why="")

        job = revert_job(based, edits[0])
        PlayedWorker(client, based.root, during).work()
        ended = based.journal.read(job.id)
        assert ended.error is not None
        assert (ended.status, ended.error.code) == (JobStatus.FAILED, "version_conflict")
        assert reopened(based).head.read().version == "v2"
        based.head.move("v3", expected="v2", job_id=None, fence=99, who="api", why="forward")
        assert_unchanged(based)

    def test_a_batch_that_a_rollback_has_taken_is_not_there_to_revert(
        self, client: Redis, based: Store, edits: list[str]
    ) -> None:
        job = revert_job(based, edits[2])
        fence = based.head.read().fence
        based.head.move("v2", expected="v3", job_id=None, fence=fence, who="api", why="")
        PlayedWorker(client, based.root).work()
        ended = based.journal.read(job.id)
        assert ended.error is not None
        assert (ended.status, ended.error.code) == (JobStatus.FAILED, "not_applied")
        assert reopened(based).head.read().version == "v2"

    def test_a_revert_starts_again_on_a_head_that_moved_without_a_worker(
        self, client: Redis, based: Store, edits: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The drafts that still fit are used, the others are not."""
        job = revert_job(based, edits[0])
        dying = PlayedWorker(client, based.root)
        nth_call("store.drafts", "save", 2, after=True)(monkeypatch, dying)
        with pytest.raises(Killed):
            dying.work()
        fence = based.head.read().fence
        based.head.move("v2", expected="v3", job_id=None, fence=fence, who="api", why="")
        next_one = PlayedWorker(client, based.root).work()
        assert next_one.runner.parents == []
        store = reopened(based)
        line = store.versions.lineage(store.head.read().version)
        assert [version.edit_id for version in line] == [None, edits[1]]
        ended = store.journal.read(job.id)
        assert (ended.status, ended.base_version) == (JobStatus.SUCCEEDED, "v2")
        assert len(store.versions.all()) == 5
        assert list((store.root / "work").iterdir()) == []


class TestInterruptions:
    def test_a_cancelled_revert_leaves_nothing(
        self, client: Redis, based: Store, edits: list[str]
    ) -> None:
        calls = []

        def during(job: Job, control: JobControl) -> None:
            calls.append(1)
            if len(calls) == 2:
                based.journal.request_cancel(job.id)

        job = revert_job(based, edits[0])
        PlayedWorker(client, based.root, during).work()
        assert based.journal.read(job.id).status is JobStatus.CANCELLED
        assert_unchanged(based)

    def test_a_revert_that_fails_leaves_nothing(
        self, client: Redis, based: Store, edits: list[str]
    ) -> None:
        calls = []

        def during(job: Job, control: JobControl) -> None:
            calls.append(1)
            if len(calls) == 2:
                raise RuntimeError("broken")

        job = revert_job(based, edits[0])
        PlayedWorker(client, based.root, during).work()
        assert based.journal.read(job.id).status is JobStatus.FAILED
        assert_unchanged(based)

    def test_a_stopped_worker_s_drafts_are_used_by_the_next_one(
        self, client: Redis, based: Store, edits: list[str]
    ) -> None:
        job = revert_job(based, edits[0])
        worker = PlayedWorker(client, based.root)
        calls = []

        def during(job: Job, control: JobControl) -> None:
            calls.append(1)
            if len(calls) == 2:
                worker.lane.stop.set()

        worker.runner.during = during
        worker.work()
        assert based.journal.read(job.id).status is JobStatus.QUEUED
        assert len(based.drafts.of_job(job.id)) == 1
        next_one = PlayedWorker(client, based.root).work()
        assert len(next_one.runner.parents) == 1
        ended = reopened(based).journal.read(job.id)
        assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)

    def test_a_revert_that_kills_every_worker_is_given_up(
        self, client: Redis, based: Store, edits: list[str]
    ) -> None:
        def die(*_: object) -> None:
            raise Killed

        job = revert_job(based, edits[0])
        for _ in range(3):
            with pytest.raises(Killed):
                PlayedWorker(client, based.root, die).work()
        PlayedWorker(client, based.root).work()
        ended = based.journal.read(job.id)
        assert ended.error is not None
        assert ended.error.code == "too_many_tries"
        assert_unchanged(based)

    def test_a_damaged_draft_is_computed_again(
        self, client: Redis, based: Store, edits: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = revert_job(based, edits[0])
        dying = PlayedWorker(client, based.root)
        nth_call("store.drafts", "save", 2, after=True)(monkeypatch, dying)
        with pytest.raises(Killed):
            dying.work()
        for path in (based.root / "work" / job.id / "drafts").iterdir():
            path.write_text("{")
        next_one = PlayedWorker(client, based.root).work()
        assert len(next_one.runner.parents) == 2
        assert reopened(based).journal.read(job.id).status is JobStatus.SUCCEEDED

    def test_what_a_lost_job_left_is_swept(self, based: Store, edits: list[str]) -> None:
        for status in (None, JobStatus.CANCELLED, JobStatus.QUEUED):
            job = revert_job(based, edits[0])
            draft = {"job_id": job.id, "id": based.versions.new_id(), "created_at": now()}
            based.drafts.save(based.versions.read("v3").model_copy(update=draft))
            if status is None:
                for path in (based.root / "jobs").glob(f"{job.id}.*"):
                    path.unlink()
            elif status is not JobStatus.QUEUED:
                based.journal.save(job.model_copy(update={"status": status}))
        sweep(based)
        assert [folder.name for folder in (based.root / "work").iterdir()] == [job.id]
        assert len(based.drafts.of_job(job.id)) == 1
