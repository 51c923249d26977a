"""Staged versions inside the worker: their jobs, and the moves of head that activate them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis
from support.service.builders import add_version, move
from support.service.played_worker.computing import Killed
from support.service.played_worker.jobs import edit_job
from support.service.played_worker.worker import PlayedWorker

from service.contracts.jobs import JobStatus, new_id
from service.contracts.schemas import WorkerReply, WorkerRequest
from service.queue import Keys, RequestQueue
from service.store import Store
from service.worker.gate import Gate
from service.worker.lanes.generation_lane import GenerationLane
from service.worker.lanes.request_lane import RequestLane
from service.worker.versions.requests import VersionRequests


class TestJobs:
    def test_a_staged_edit_leaves_head_where_it_is(self, client: Redis, based: Store) -> None:
        job = edit_job(based, activate=False, snapshot_name="mine")
        PlayedWorker(client, based.root).work()
        ended = based.journal.read(job.id)
        assert ended.status is JobStatus.SUCCEEDED
        assert ended.result is not None
        assert (ended.result["activated"], ended.result["version"]) == (False, "v1")
        assert based.names.all() == {"mine": "v1"}
        assert based.head.read().version == "v0"
        assert len(based.head.reflog()) == 1

    @pytest.mark.parametrize("step", ["versions.write", "journal.save"])
    def test_a_worker_killed_after_the_version_writes_no_second_one(
        self, client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        job = edit_job(based, activate=False)
        dying = PlayedWorker(client, based.root)
        part, name = step.split(".")
        owner: Any = getattr(dying.store, part)
        whole = getattr(owner, name)

        def die(*args: Any) -> None:
            whole(*args)
            raise Killed

        monkeypatch.setattr(owner, name, die)
        with pytest.raises(Killed):
            dying.work()
        PlayedWorker(client, based.root).work()
        ended = based.journal.read(job.id)
        assert (ended.status, ended.base_version) == (JobStatus.SUCCEEDED, "v0")
        assert [version.id for version in based.versions.all()] == ["v1", "v0"]
        assert based.head.read().version == "v0"


class TestActivation:
    @pytest.fixture
    def staged(self, based: Store) -> str:
        return add_version(based, staged=True, edit_id="edit_1")

    @pytest.fixture
    def loaded(self) -> list[str]:
        return []

    @pytest.fixture
    def lane(self, client: Redis, based: Store, loaded: list[str]) -> Iterator[RequestLane]:
        lease: Any = SimpleNamespace(fence=1)
        views: Any = SimpleNamespace(get=loaded.append)
        requests = RequestQueue(client, Keys(based.id))
        generation = GenerationLane(requests, views, Gate(0.5))
        lane = RequestLane(requests, generation, VersionRequests(based, lease, views), views)
        thread = threading.Thread(target=lane.run)
        thread.start()
        yield lane
        lane.stop.set()
        thread.join(10)

    def ask(self, client: Redis, store: Store, version: str, **body: str) -> WorkerReply:
        keys = Keys(store.id)
        request = WorkerRequest(
            id=new_id("ask"),
            kind="activate",
            deadline=time.time() + 60,
            versions=[version],
            body=body,
        )
        client.xadd(keys.requests, {"request": request.model_dump_json()})
        last_id = "0"
        while True:  # what says that it was taken comes first
            entries: Any = client.xread({keys.reply(request.id): last_id}, block=10_000)
            for last_id, fields in entries[0][1]:  # noqa: B007
                reply = WorkerReply.model_validate_json(fields["reply"])
                if reply.event in ("result", "error"):
                    return reply

    def test_head_moves_from_the_parent_when_the_version_is_in_memory(
        self, client: Redis, based: Store, lane: RequestLane, staged: str, loaded: list[str]
    ) -> None:
        assert based.head.committed() == {"v0"}
        for _ in range(2):  # a repeated request changes nothing more
            reply = self.ask(client, based, staged)
            assert (reply.event, reply.data["previous"]) == ("result", "v0")
        assert loaded[0] == staged
        assert based.head.read().version == staged
        assert [move.why for move in based.head.reflog()] == ["base", "activate edit_1"]
        assert based.head.committed() == {"v0", staged}

    def test_another_head_is_a_conflict(
        self, client: Redis, based: Store, lane: RequestLane, staged: str
    ) -> None:
        other = add_version(based)
        move(based, other, expected="v0")
        reply = self.ask(client, based, staged)
        assert (reply.event, reply.data["code"]) == ("error", "version_conflict")
        assert reply.data["message"].startswith(f"head is {other}, not v0")
        assert based.head.read().version == other


class TestCommitted:
    def test_committed_versions_are_those_that_were_head_and_their_ancestors(
        self, based: Store
    ) -> None:
        between = add_version(based)
        tip = add_version(based, between)
        aside = add_version(based, tip)
        move(based, tip, expected="v0")
        move(based, "v0", expected=tip)
        assert based.head.committed() == {"v0", between, tip}
        assert aside not in based.head.committed()
