"""A worker killed at any step of a commit: the next one completes it, once, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import pytest
from redis import Redis
from support.service.played_worker.computing import Killed, bytes_of
from support.service.played_worker.jobs import edit_job
from support.service.played_worker.worker import PlayedWorker

from service.contracts.jobs import JobStatus
from service.queue import Keys
from service.store import Store

Patch = Callable[[pytest.MonkeyPatch, PlayedWorker], None]


def before(part: str, name: str) -> Patch:
    """Make the worker die when it is about to call this."""

    def patch(monkeypatch: pytest.MonkeyPatch, worker: PlayedWorker) -> None:
        def die(*_: object, **__: object) -> None:
            raise Killed

        monkeypatch.setattr(attrgetter(part)(worker), name, die)

    return patch


def after(part: str, name: str) -> Patch:
    """Make the worker die when this has returned."""

    def patch(monkeypatch: pytest.MonkeyPatch, worker: PlayedWorker) -> None:
        whole = getattr(attrgetter(part)(worker), name)

        def die(*args: object, **more: object) -> None:
            whole(*args, **more)
            raise Killed

        monkeypatch.setattr(attrgetter(part)(worker), name, die)

    return patch


def between_head_and_reflog(monkeypatch: pytest.MonkeyPatch, worker: PlayedWorker) -> None:
    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("service.store.index.moves.append_line", die)


DEATHS: dict[str, tuple[Patch, int]] = {
    "before the job begins": (before("queue", "begin"), 0),
    "when the job has begun": (after("queue", "begin"), 0),
    "before the version is written": (before("store.versions", "write"), 1),
    "before head moves": (before("store.head", "move"), 1),
    "between head and its reflog line": (between_head_and_reflog, 1),
    "before the version is named": (before("store.names", "give"), 1),
    "before the job is saved": (before("store.journal", "save"), 1),
    "before the queue hears of the end": (before("queue", "finish"), 1),
    "when the queue has heard of the end": (after("queue", "finish"), 1),
}
UNWRITTEN = {"before the version is written"}


@pytest.mark.parametrize("redis", ["keeps all", "loses all"])
@pytest.mark.parametrize("when", DEATHS)
def test_a_killed_worker_s_job_is_done_once(
    client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch, when: str, redis: str
) -> None:
    patch, runs = DEATHS[when]
    first, second = edit_job(based, snapshot_name="mine"), edit_job(based)
    dying = PlayedWorker(client, based.root)
    with monkeypatch.context() as patched:
        patch(patched, dying)
        with pytest.raises(Killed):
            dying.work()
    assert len(dying.runner.parents) == runs
    if redis == "loses all":
        client.flushall()

    next_one = PlayedWorker(client, based.root).work()
    store = Store.open(based.root)
    line = store.versions.lineage(store.head.read().version)
    assert [version.job_id for version in line] == [None, first.id, second.id]
    assert {version.id for version in store.versions.all()} == {version.id for version in line}
    assert [move.to for move in store.head.reflog()] == [version.id for version in line]
    assert all(
        store.tensors.read(version.tensors[0]) == bytes_of(version.id) for version in line[1:]
    )
    assert store.names.all() == {"mine": line[1].id}
    for job, parent, version in ((first, *line[:2]), (second, *line[1:])):
        ended = store.journal.read(job.id)
        assert (ended.status, ended.base_version) == (JobStatus.SUCCEEDED, parent.id)
        assert ended.result is not None
        assert ended.result["version"] == version.id
    assert store.journal.unfinished() == []
    assert client.xlen(Keys(store.id).jobs) == 0
    runs_of_first = runs + next_one.runner.parents.count("v0")
    assert runs_of_first == (2 if when in UNWRITTEN else 1)
