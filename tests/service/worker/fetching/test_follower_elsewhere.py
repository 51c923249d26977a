"""A whole follower without the store's disk: it answers from versions that it has fetched."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from support.service.thin_versions import add_edit

from jeep_core.models.loading import LoadedModel
from service.client import ApiError, Client
from service.contracts.jobs import now
from service.contracts.schemas.access import Scope
from service.contracts.schemas.worker import WorkerOut
from service.ops.health import check_worker
from service.queue import WorkerBeat
from service.settings import EXIT_CONFIG, Settings
from service.store import Store
from service.worker.members import follower as member
from service.worker.members.follower import Follower
from service.worker.process import Worker

MakeSettings = Callable[..., Settings]


@pytest.fixture
def client(url: str, published: Store) -> Iterator[Client]:
    _, token = published.keys.create("me", [Scope.READ, Scope.GENERATE])
    with Client(url, api_key=token) as made:
        yield made


@contextmanager
def working(settings: Settings) -> Iterator[Follower]:
    """A follower in this process."""
    follower, codes = Follower(settings), list[int]()
    thread = threading.Thread(target=lambda: codes.append(follower.run()))
    thread.start()
    try:
        yield follower
    finally:
        follower.stop.set()
        thread.join(30)
    assert codes == [0]


def heard(client: Client, head: str) -> WorkerOut:
    """The follower, once it has followed head there."""
    for _ in range(1500):
        for one in client.workers():
            if one.head == head:
                return one
        threading.Event().wait(0.02)
    raise AssertionError(f"it has not followed head to {head} within 30 s")


def test_it_answers_from_head_and_from_other_versions(
    following: MakeSettings, client: Client, published: Store, base: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(member, "load_base", lambda settings: base)
    settings = following(drain_s=1)
    with working(settings):
        one = heard(client, "v1")
        assert (one.role, one.takes, one.jobs) == ("follower", True, False)
        assert one.fetching is not None
        assert one.fetching.away_s is None
        assert one.fetching.cached_bytes > 0
        check_worker(settings)
        later = add_edit(base, published)
        assert heard(client, later).head == later
        named = client.generate("Lyon lies in", ["base", "v1", "head"], max_new_tokens=2)
        assert [answer.version for answer in named.results] == ["v0", "v1", later]
        head = client.generate("Lyon lies in", min_version=later, max_new_tokens=2)
        assert head.results[0].version == later
        ref = published.versions.read("v1").tensors[0]
        staged = add_edit(base, published, commit=False)
        for part in published.versions.read(staged).tensors:
            path = published.tensors.path(part.sha256)
            path.write_bytes(path.read_bytes()[:-1] + b"?")
        with pytest.raises(ApiError) as refused:
            client.generate("Lyon lies in", staged, max_new_tokens=2)
        assert refused.value.code == "version_not_fetched"
        assert ref.name in refused.value.detail


def test_it_says_why_it_cannot_join(
    following: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert Follower(following(store_key=None)).run() == EXIT_CONFIG
    assert "this follower cannot join: JEEP_STORE_KEY" in caplog.text


@pytest.mark.parametrize(
    ("away_s", "head_there", "takes"),
    [(None, "v2", True), (3.0, "v1", True), (3.0, "v2", False), (3.0, None, True)],
)
def test_while_head_cannot_be_followed_others_are_asked(
    away_s: float | None, head_there: str | None, takes: bool
) -> None:
    follower = Follower(Settings())
    elsewhere: Any = SimpleNamespace(link=SimpleNamespace(away_s=away_s))
    beat = WorkerBeat(instance="w", pid=1, model="m", started_at=now(), head=head_there)
    members: Any = SimpleNamespace(writer=lambda: beat)
    head: Any = SimpleNamespace(version="v1")
    assert not follower._left_behind(members, head)
    follower._elsewhere = elsewhere
    assert follower._left_behind(members, head) != takes


def test_only_followers_fetch(caplog: pytest.LogCaptureFixture) -> None:
    assert Worker(Settings(store_url="http://127.0.0.1:8000")).run() == EXIT_CONFIG
    assert "JEEP_STORE_URL: only a follower" in caplog.text
