"""A follower joins a writer that it fits to, and says why where it does not."""

from __future__ import annotations

import logging
import shutil
import threading
from errno import ENOMEM
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch
from support import TINY_GPTJ
from support.service.builders import add_version, move

from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from service.settings import EXIT_AGAIN, EXIT_CONFIG, Settings
from service.store import CorruptTensor, Store
from service.store.maintenance.backup import back_up, restore
from service.worker.lanes.generation_lane import GenerationLane
from service.worker.lanes.read_lane import ReadLane
from service.worker.lanes.request_lane import RequestLane
from service.worker.members import head as head_module
from service.worker.members import joining
from service.worker.members.common import Answering
from service.worker.members.follower import JOB_STALLS, Follower
from service.worker.members.head import FollowedHead
from service.worker.members.joining import differences, measuring
from service.worker.members.publishing import prepare
from service.worker.versions.views import VersionViews

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load(str(TINY_GPTJ), "cpu")


@pytest.fixture
def published(store: Store, base: LoadedModel) -> Store:
    """A store whose writer has published the tiny model."""
    prepare(store, base, Settings(store=store.root))
    return store


def said(settings: Settings, caplog: pytest.LogCaptureFixture) -> str:
    """The sentence with which a follower refuses to join."""
    with caplog.at_level(logging.ERROR):
        assert Follower(settings).run() == EXIT_CONFIG
    [line] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    return line.getMessage()


def following(store: Store, **more: object) -> Settings:
    given = {"store": store.root, "model": str(TINY_GPTJ), "role": "follower", "redis_url": NOWHERE}
    return Settings.model_validate({**given, **more})


class TestJoining:
    def test_another_model_is_refused(
        self, published: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        message = said(following(published, model="atlas-gptj"), caplog)
        assert message.startswith("this follower cannot join: ")
        assert "(JEEP_MODEL, JEEP_DTYPE)" in message

    def test_another_release_is_refused(
        self, published: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(joining, "program_version", lambda: "9.9.9")
        message = said(following(published), caplog)
        assert "this follower 9.9.9: install the same version on both" in message

    def test_a_folder_that_is_no_store_is_refused(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = Settings(store=tmp_path / "none", role="follower", redis_url=NOWHERE)
        assert "is no store" in said(settings, caplog)

    def test_without_a_queue_there_is_nothing_to_follow(
        self, published: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert "JEEP_REDIS_URL" in said(following(published, redis_url=None), caplog)

    def test_it_waits_for_a_writer(self, store: Store) -> None:
        follower = Follower(following(store))
        thread = threading.Thread(target=follower.run)
        thread.start()
        follower.stop.set()
        thread.join(10)
        assert not thread.is_alive()

    def test_settings_that_figures_depend_on_are_named(
        self, published: Store, tmp_path: Path
    ) -> None:
        info = published.base.info()
        assert info is not None
        assert differences(info, following(published)) == []
        text = tmp_path / "text"
        text.write_text("Another text.\n")
        other = following(published, perplexity_text=text, perplexity_tokens=7)
        found = differences(info, other)
        assert found == ["JEEP_PERPLEXITY_TEXT", "JEEP_PERPLEXITY_TOKENS"]
        copy = tmp_path / "copy"
        copy.write_text("Another text.\n")
        assert measuring(following(published, perplexity_text=copy, perplexity_tokens=7)) == (
            measuring(other)
        )

    def test_a_judge_that_only_the_writer_can_ask_is_one(self, published: Store) -> None:
        judge = {"judge_address": "http://127.0.0.1:9/v1", "judge_key": "sk-secret"}
        writer = Settings.model_validate({"store": published.root, **judge})
        info = published.base.info()
        assert info is not None
        asked = info.model_copy(update={"measuring": measuring(writer)})
        assert "secret" not in str(measuring(writer)), "it is published"
        other = following(published, **{**judge, "judge_key": "sk-another"})
        assert differences(asked, other) == []
        without = following(published, judge_address=judge["judge_address"])
        assert differences(asked, without) == ["JEEP_JUDGE_KEY"]
        narrow = following(published, **judge, targets_allow="::1")
        assert differences(asked, narrow) == ["JEEP_TARGETS_ALLOW"]
        same = following(published, **judge, targets_allow="::1, 127.0.0.0/8")
        assert differences(asked, same) == []


class TestHead:
    def test_it_is_followed_there_and_back(self, published: Store, base: LoadedModel) -> None:
        store = Store.open(published.root, following=True)
        views = VersionViews(base, store)
        head = FollowedHead(store, views)
        head.look()
        assert head.version == "v0"
        made = add_version(published, weights_sha256=base.weights_sha256)
        head.look()
        assert head.version == "v0"
        move(published, made, expected="v0")
        head.look()
        assert (head.version, made in views.loaded()) == (made, True)
        move(published, "v0", expected=made)
        head.look()
        assert head.version == "v0"

    def test_one_look_after_a_commit_sees_it_and_there_are_several_each_second(
        self, published: Store, base: LoadedModel
    ) -> None:
        """So head is followed within a second, but for the time that a version takes to load."""
        head = FollowedHead(
            Store.open(published.root, following=True), VersionViews(base, published)
        )
        head.look()
        made, waits = add_version(published, weights_sha256=base.weights_sha256), list[float]()

        class OneLook(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                assert timeout is not None
                waits.append(timeout)
                if len(waits) == 1:  # committed just after the last look
                    move(published, made, expected="v0")
                return len(waits) > 1

        head.stop = OneLook()
        head.run()
        assert head.version == made
        assert sum(waits) < 1, "the looks before and after the commit"

    def test_a_damaged_head_is_tried_again(self, published: Store, base: LoadedModel) -> None:
        made = add_version(published, weights_sha256=base.weights_sha256)
        store = Store.open(published.root, following=True)
        head = FollowedHead(store, VersionViews(base, store))
        manifest = published.root / "versions" / made / "manifest.json"
        whole = manifest.read_bytes()
        manifest.write_bytes(b"{")
        published.head.claim(1)
        move(Store.open(published.root), "v0", expected="v0")
        head.look()
        assert head.version == "v0"
        manifest.write_bytes(whole)
        move(Store.open(published.root), made, expected="v0")
        manifest.write_bytes(b"{")
        head.look()
        assert head.version is None
        manifest.write_bytes(whole)
        head.look(again=False)
        assert head.version is None
        head.look()
        assert head.version == made

    def test_a_damaged_head_is_not_read_all_the_time(
        self, published: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each try reads it whole, which may take longer than the time between two."""
        clock, tries = [0.0], list[float]()
        monkeypatch.setattr(head_module.time, "monotonic", lambda: clock[0])

        class Damaged(VersionViews):
            def __init__(self) -> None:
                """Nothing is loaded."""

            def get(self, version: str) -> ModelView:
                tries.append(clock[0])
                clock[0] += 10
                raise CorruptTensor(f"{version} is damaged")

        class Minutes(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                clock[0] += timeout or 0
                return clock[0] > 1000

        head = FollowedHead(Store.open(published.root, following=True), Damaged())
        head.stop = Minutes()
        head.run()
        assert len(tries) in range(9, 13)

    @pytest.mark.parametrize(
        "error",
        [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), OSError(ENOMEM, "no memory")],
    )
    def test_without_enough_memory_it_is_tried_again(
        self, published: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        """The follower answers nothing from head meanwhile, and does not end."""
        views = create_autospec(VersionViews, instance=True)
        views.get.side_effect, views.damaged.return_value = [error, None], []
        head, looks = (
            FollowedHead(Store.open(published.root, following=True), views),
            iter(range(6)),
        )
        head.look(again=False)
        assert (head.version, head.served) == (None, False)
        head.stop = create_autospec(threading.Event, instance=True)
        head.stop.wait.side_effect = lambda _: next(looks) == head_module.AGAIN
        head.run()
        assert (head.version, head.served) == ("v0", True)

    def test_another_error_is_one_of_the_program(self, published: Store) -> None:
        views = create_autospec(VersionViews, instance=True)
        views.get.side_effect = RuntimeError("nobody has foreseen it")
        with pytest.raises(RuntimeError, match="foreseen"):
            FollowedHead(Store.open(published.root, following=True), views).look()

    def test_one_that_was_damaged_after_it_was_followed_is_not_served(
        self, published: Store
    ) -> None:
        """It may have made way for others in memory, and is read again when it is asked for."""
        views = create_autospec(VersionViews, instance=True)
        views.damaged.return_value = []
        head = FollowedHead(Store.open(published.root, following=True), views)
        head.look()
        assert head.served
        views.damaged.return_value = ["v0"]
        assert not head.served
        views.get.reset_mock()
        head.look(again=False)
        views.get.assert_not_called()
        head.look()
        views.get.assert_called_once_with("v0")

    def test_a_writer_that_starts_again_is_looked_at_again(
        self, published: Store, base: LoadedModel
    ) -> None:
        store, seen = Store.open(published.root, following=True), threading.Event()
        head = FollowedHead(store, VersionViews(base, store), seen.set)
        thread = threading.Thread(target=head.run)
        thread.start()
        prepare(published, base, Settings(store=published.root))
        assert seen.wait(10)
        head.stop.set()
        thread.join(10)


class TestStandstill:
    """A job's thread cannot be asked to end, so the process ends: another worker has the job."""

    def looked(self, store: Store, still_s: float, doing: str | None = "job_1") -> Follower:
        follower = Follower(following(store, stall_s=2))
        generation = create_autospec(GenerationLane, instance=True)
        generation.still_s.return_value = 0.0
        requests = create_autospec(RequestLane, instance=True)
        follower._answering = Answering(requests, generation, 1, follower.settings.stall_s)
        reads = create_autospec(ReadLane, instance=True, doing=doing)
        reads.still_s.return_value = still_s
        follower._end_if_stuck(reads)
        return follower

    def test_a_job_that_hangs_ends_the_follower(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        follower = self.looked(store, 2 * JOB_STALLS + 1)
        assert (follower._code, follower.stop.is_set()) == (EXIT_AGAIN, True)
        assert "job_1 has gone no further for 20 times JEEP_STALL_S" in caplog.text
        assert follower._state == "draining", "what was asked is answered first"

    def test_a_slow_step_does_not(self, store: Store) -> None:
        assert not self.looked(store, 2 * JOB_STALLS - 1).stop.is_set()
        assert not self.looked(store, 1000, doing=None).stop.is_set()


class TestWriterThatComesBack:
    """A follower outlives its writer, and the next one need not be the same."""

    @pytest.fixture
    def follower(self, published: Store) -> Follower:
        return Follower(following(published))

    @pytest.fixture
    def followed(self, published: Store) -> Store:
        return Store.open(published.root, following=True)

    def test_the_same_one_is_followed_on(
        self, follower: Follower, followed: Store, published: Store, base: LoadedModel
    ) -> None:
        prepare(Store.open(published.root), base, Settings(store=published.root))
        follower._check_again(followed, base)
        assert not follower.stop.is_set()
        assert follower._jobs

    def test_of_one_with_other_settings_no_jobs_are_taken(
        self, follower: Follower, followed: Store, published: Store, base: LoadedModel
    ) -> None:
        for tokens, takes in ((7, False), (None, True)):
            more = {} if tokens is None else {"perplexity_tokens": tokens}
            prepare(published, base, Settings.model_validate({"store": published.root, **more}))
            follower._check_again(followed, base)
            assert (follower._jobs, follower.stop.is_set()) == (takes, False)

    def test_in_a_restored_store_versions_are_others(
        self, follower: Follower, followed: Store, published: Store, base: LoadedModel,
        tmp_path: Path, caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        """Numbers given out since the backup are given out again."""
        assert followed.id
        back_up(published, tmp_path / "backup")
        shutil.rmtree(published.root)
        restore(tmp_path / "backup", published.root)
        prepare(Store.open(published.root), base, Settings(store=published.root))
        follower._check_again(followed, base)
        assert (follower._code, follower.stop.is_set()) == (EXIT_AGAIN, True)
        assert "another store now" in caplog.text

    def test_one_with_another_model_is_not_followed(
        self, follower: Follower, followed: Store, base: LoadedModel,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        assert followed.id
        (followed.root / "model.json").unlink()
        Store.open(followed.root).bind_model("0" * 64)
        follower._check_again(followed, base)
        assert (follower._code, follower.stop.is_set()) == (EXIT_CONFIG, True)
        assert "(JEEP_MODEL, JEEP_DTYPE)" in caplog.text
