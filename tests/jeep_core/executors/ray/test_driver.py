"""What the driver makes of actors that die or go on; Ray itself is not needed."""

from __future__ import annotations

import queue
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jeep_core.errors import WorkersLost
from jeep_core.executors.child import STOPPED
from jeep_core.executors.ray import driver as module
from jeep_core.executors.ray.driver import Driver, Seat
from jeep_core.executors.ray.terms import ClusterTerms
from jeep_core.executors.wire import pack, unpack

TERMS = ClusterTerms("10.0.0.1:6379", 2, 1.0, 0.0, 1, None, 300.0, "", {})


class Actors:
    """Ray as far as the driver uses it here: every call is a new reference."""

    def __init__(self) -> None:
        self.killed: list[Any] = []
        self.exceptions = SimpleNamespace(RayActorError=RuntimeError)

    def remote(self, cls: type) -> Any:
        return SimpleNamespace(options=lambda **more: SimpleNamespace(remote=lambda *_: actor()))

    def wait(self, refs: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], Any]:
        return [], refs

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


def actor() -> Any:
    call = SimpleNamespace(remote=lambda *_: object())
    return SimpleNamespace(ready=call, begin=call, work=call, stop=call)


@pytest.fixture
def driver() -> tuple[Driver, Connection]:
    ours, theirs = Pipe()
    found = Driver(Actors(), theirs, [0, 0], TERMS, None)
    found._fill()
    return found, ours


def prepares(driver: Driver, run: int, unit: int = 0) -> Seat:
    """Have the first actor prepared for a run."""
    driver._heard("begin", run, "task", None, "v1")
    driver._heard("unit", run, unit, "facts")
    driver._fill()
    seat = driver._seats[0]
    seat.is_ready = True
    driver._hand_out()
    assert seat.beginning is not None
    return seat


def said(pipe: Connection) -> list[Any]:
    found = []
    while pipe.poll():
        kind, *rest = unpack(pipe.recv_bytes())
        found += [] if kind == "begun" else [(kind, *rest)]
    return found


def test_actors_that_die_while_they_make_the_version_end_the_work(
    driver: tuple[Driver, Connection],
) -> None:
    """None has a unit then, so no unit is given up."""
    one, pipe = driver
    for _ in range(5):
        one._lost(prepares(one, 1), "out of memory")
    assert said(pipe) == []
    one._lost(prepares(one, 1), "out of memory")
    [(kind, error, run)] = said(pipe)
    assert (kind, run, type(error)) == ("refused", 1, WorkersLost)
    assert "6 workers of the Ray cluster at 10.0.0.1:6379" in str(error)


def test_one_that_is_prepared_shows_that_it_can_be_done(driver: tuple[Driver, Connection]) -> None:
    one, pipe = driver
    for _ in range(5):
        one._lost(prepares(one, 1), "out of memory")
    seat = prepares(one, 1)
    one._answered(seat, seat.beginning, pack([]))
    one._lost(seat, "its machine is gone")
    for _ in range(5):
        one._lost(prepares(one, 1), "out of memory")
    assert said(pipe) == []


@pytest.mark.parametrize("found", [MemoryError("the version of run 1"), ["a.weight"]])
def test_what_an_actor_says_of_a_run_that_was_given_up_is_not_of_the_next(
    driver: tuple[Driver, Connection], found: Any
) -> None:
    one, pipe = driver
    seat = prepares(one, 1)
    old = seat.beginning
    one._heard("begin", 2, "task", None, "v2")
    one._heard("unit", 2, 0, "facts")
    one._answered(seat, old, pack(found))
    assert said(pipe) == []
    one._hand_out()
    assert seat.begun == one._beginning
    one._answered(seat, seat.beginning, pack(MemoryError("of run 2")))
    [(kind, error, run)] = said(pipe)
    assert (kind, str(error), run) == ("refused", "of run 2", 2)


def turns(driver: Driver, count: int) -> None:
    """Let it go round so often, without hearing anything."""
    heard = iter(range(count))

    def get(timeout: float) -> None:
        for _ in heard:
            raise queue.Empty

    driver._inbox, driver._source = SimpleNamespace(get=get), cast(Any, "a model")
    driver.serve()


def given_up(driver: Driver) -> Seat:
    """An actor that works on a unit of a run that was given up."""
    seat = prepares(driver, 1)
    driver._answered(seat, seat.beginning, pack([]))
    driver._hand_out()
    assert seat.task == 0
    driver._flags[STOPPED] = 1
    driver._stop_if_asked()
    return seat


@pytest.mark.parametrize("late", [True, False])
def test_an_actor_that_goes_on_with_what_was_given_up_is_replaced(
    driver: tuple[Driver, Connection], monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    one, pipe = driver
    seat = given_up(one)
    monkeypatch.setattr(module, "STALE_S", -1.0 if late else 1000.0)
    turns(one, 2)
    assert (seat in one._seats, one._ray.killed) == (not late, [seat.actor] if late else [])
    assert len(one._seats) == TERMS.actors
    assert said(pipe) == [("stopped", 1, 0)], "it was told once, and is not lost"
    one._heard("begin", 2, "task", None, "v2")
    one._heard("unit", 2, 0, "facts")
    for other in one._seats:
        other.is_ready = True
    one._hand_out()
    assert [other.beginning is not None for other in one._seats] == [late, True]


def test_one_that_ends_in_time_works_on(
    driver: tuple[Driver, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = driver
    seat = given_up(one)
    one._answered(seat, seat.answer, pack(("done", "too late")))
    monkeypatch.setattr(module, "STALE_S", -1.0)
    turns(one, 2)
    assert seat in one._seats
    assert one._ray.killed == []
