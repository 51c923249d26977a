"""Who answers where another cannot, and what a worker says of itself meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, create_autospec

import pytest

from service.queue import Keys
from service.settings import EXIT_AGAIN, Settings
from service.worker.lanes.generation_lane import GenerationLane
from service.worker.lanes.request_lane import RequestLane
from service.worker.members import common
from service.worker.members.common import (
    Answering,
    Lanes,
    heartbeat,
    writer_answers,
    writer_measures,
)
from service.worker.members.follower import Follower
from service.worker.process import Worker, stopping

TAKES, ONLY_ANSWERS, DRAINS = (True, True), (True, False), (False, False)


@pytest.mark.parametrize(
    ("followers", "answers", "measures"),
    [
        ([], True, True),
        ([TAKES], False, False),
        ([ONLY_ANSWERS], False, True),
        ([DRAINS], True, True),
        ([DRAINS, TAKES], False, False),
    ],
)
def test_the_writer_stands_in_for_followers(
    followers: list[tuple[bool, bool]], answers: bool, measures: bool
) -> None:
    beats = [SimpleNamespace(takes=takes, jobs=jobs) for takes, jobs in followers]
    members: Any = SimpleNamespace(followers=lambda: beats)
    alone, always = Settings(), Settings(writer_answers="always")
    assert (writer_answers(alone, members), writer_measures(alone, members)) == (answers, measures)
    assert (writer_answers(always, members), writer_measures(always, members)) == (True, True)


STALL_S = 30.0


def answers_of(still_s: float = 0.0) -> Answering:
    """The lanes of a worker whose decoding has gone no further for so long."""
    generation = create_autospec(GenerationLane, instance=True)
    generation.still_s.return_value = generation.step_s.return_value = still_s
    events = {"drain": threading.Event(), "stop": threading.Event()}
    requests = create_autospec(RequestLane, instance=True, load=0, **events)
    return Answering(requests, generation, 1, STALL_S)


def test_a_worker_pauses_in_a_long_step_and_is_stuck_in_a_hang_alone() -> None:
    answers: Any = answers_of()
    answers.generation.step_s.return_value = STALL_S + 1
    assert (answers.pauses, answers.state(False)) == (True, "ready")
    answers.generation.still_s.return_value = STALL_S + 1
    assert (answers.pauses, answers.state(False)) == (True, "stuck")


def test_the_heart_says_what_a_worker_holds_and_how_long_it_has_not_gone_on() -> None:
    answers: Any = answers_of()
    answers.requests.load, answers.generation.silent_s.return_value = 3, 1.5
    views: Any = SimpleNamespace(loaded=lambda: ["v0"], damaged=list)
    base: Any = SimpleNamespace(name="m", layout="cpu")
    beat = heartbeat(Mock(), Keys("one"), base, views, answers, lambda: {"job": "job_1"})
    said = beat._describe()
    assert (said.load, said.still_s, said.job) == (3, 1.5, "job_1")


def of(another: bool, followers: list[Any] | None = None) -> Any:
    """The other workers; ``another``: one of them could answer."""
    return SimpleNamespace(
        is_another_for=lambda follower, pauses: another,
        is_follower_taking=lambda: another,
        followers=lambda: followers or [],
        writer=lambda: None,
    )


@pytest.mark.parametrize(
    ("still_s", "served", "another", "takes"),
    [
        (0.0, True, True, True),
        (2.0, True, True, True),
        (4.0, True, True, False),
        (4.0, True, False, True),
        (STALL_S + 1, True, False, False),
        (0.0, False, True, False),
        (0.0, False, False, True),
    ],
)
def test_a_follower_leaves_to_others_what_it_cannot_answer_soon(
    still_s: float, served: bool, another: bool, takes: bool
) -> None:
    follower = Follower(Settings(stall_s=STALL_S))
    follower._answering = answers_of(still_s)
    head: Any = SimpleNamespace(served=served, version="v1")
    assert follower._takes(of(another), head, "mine") == takes
    follower.stop.set()
    assert not follower._takes(of(another), head, "mine")


def test_so_does_the_writer_and_one_that_is_alone_goes_on() -> None:
    writer, long_step = Worker(Settings(stall_s=STALL_S)), answers_of(4.0)
    assert writer._takes(of(another=True), answers_of())
    assert not writer._takes(of(another=True), long_step)
    assert writer._takes(of(another=False), long_step)
    writer.stop.set()
    assert not writer._takes(of(another=False), answers_of())


def test_a_worker_says_that_it_hangs_or_drains() -> None:
    assert [answers_of(s).state(ending=False) for s in (0, STALL_S, STALL_S + 1)] == [
        "ready", "ready", "stuck"
    ]  # fmt: skip
    assert answers_of(STALL_S + 1).state(ending=True) == "draining"


class TestDraining:
    @pytest.fixture
    def lanes(self, tmp_path: Path) -> Lanes:
        return Lanes(threading.Event(), tmp_path)

    def drained(
        self,
        lanes: Lanes,
        monkeypatch: pytest.MonkeyPatch,
        *ends_at: float,
        hurried_at: float = 100,
        jobs: tuple[str, ...] = (),
    ) -> list[str]:
        """Threads that still run after 20 s of draining; they end after so many seconds.

        A second signal comes at ``hurried_at``.
        """
        at_once, self.drains_at = threading.Event(), list[float]()
        clock, names = [0.0], ["requests", "decoding", "reads"]
        ends = [threading.Event() for _ in names]
        lanes.threads = [
            threading.Thread(target=end.wait, name=name)
            for end, name in zip(ends, names, strict=True)
        ]
        for thread in lanes.threads:
            thread.start()

        def sleep(seconds: float) -> None:
            clock[0] += seconds
            if answers.requests.drain.is_set():
                self.drains_at.append(clock[0])
            if clock[0] >= hurried_at:
                at_once.set()
            for at, end, thread in zip(ends_at, ends, lanes.threads, strict=True):
                if at <= clock[0] and not end.is_set():
                    end.set()
                    thread.join()

        monkeypatch.setattr(
            common, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep)
        )
        answers = answers_of()
        answers.drain(lanes, 20, at_once, jobs)
        assert answers.requests.stop.is_set()
        left = [thread.name for thread in lanes.threads if thread.is_alive()]
        for end in ends:
            end.set()
        lanes.join()
        return left

    def test_what_was_taken_is_answered(
        self, lanes: Lanes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A job's thread, which may hang, is not waited for."""
        assert self.drained(lanes, monkeypatch, 3, 4, 30) == ["reads"]

    def test_for_some_time(self, lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.drained(lanes, monkeypatch, 30, 30, 30) == ["requests", "decoding", "reads"]

    def test_and_not_where_a_lane_has_failed(
        self, lanes: Lanes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lanes.failure = RuntimeError("no queue")
        assert self.drained(lanes, monkeypatch, 0, 0, 0) == ["requests", "decoding", "reads"]

    def test_a_second_signal_ends_it(self, lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
        left = self.drained(lanes, monkeypatch, 5, 5, 30, hurried_at=3)
        assert left == ["requests", "decoding", "reads"]

    def test_moves_of_head_are_taken_until_jobs_have_ended(
        self, lanes: Lanes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.drained(lanes, monkeypatch, 12, 12, 10, jobs=("reads",)) == []
        assert min(self.drains_at) == pytest.approx(10, abs=1)
        assert self.drained(lanes, monkeypatch, 12, 12, 30, jobs=("edits",)) == ["reads"]
        assert min(self.drains_at) < 1, "nothing else is waited for"

    @pytest.mark.parametrize("still_s", [0.0, STALL_S + 1])
    def test_decoding_that_hangs_ends_the_process_once_the_others_have_ended(
        self, lanes: Lanes, monkeypatch: pytest.MonkeyPatch, still_s: float
    ) -> None:
        end, codes = threading.Event(), list[int]()

        def exits(code: int) -> None:
            """In place of the process, what hangs ends."""
            codes.append(code)
            assert not edits.is_alive()
            end.set()
            decoding.join()

        edits = threading.Thread(target=str, name="edits")
        decoding = threading.Thread(target=end.wait, name="decoding")
        lanes.threads = [decoding, edits]
        for thread in lanes.threads:
            thread.start()
        if not still_s:
            end.set()
        monkeypatch.setattr(os, "_exit", exits)
        answers_of(still_s).join(lanes)
        assert codes == ([EXIT_AGAIN] if still_s else [])


@pytest.mark.parametrize("kind", [Worker, Follower])
def test_only_a_second_signal_is_a_hurry(kind: type[Worker | Follower]) -> None:
    """Whatever has stopped the worker before the first."""
    worker = kind(Settings())
    worker.stop.set()
    stop = stopping(worker)
    stop(signal.SIGTERM, None)
    assert not worker.at_once.is_set()
    stop(signal.SIGTERM, None)
    assert worker.at_once.is_set()
