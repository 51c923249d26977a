"""What the driver makes of actors that die or go on; Ray itself is not needed."""

from __future__ import annotations

from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any, Literal, get_args

import pytest
from support.played_ray import (
    TERMS,
    LocalRayletDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    TaskMemoryError,
    prepares,
    said,
    turns,
)

from jeep_core.errors import WorkersLost
from jeep_core.executors.child import STOPPED
from jeep_core.executors.ray import driver as module
from jeep_core.executors.ray.beside import NOWHERE
from jeep_core.executors.ray.driver import Driver
from jeep_core.executors.ray.seats import Place, Seat
from jeep_core.executors.wire import pack


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


def given_up(driver: Driver) -> Seat:
    """An actor that works on a unit of a run that was given up."""
    seat = prepares(driver, 1)
    driver._answered(seat, seat.beginning, pack([]))
    driver._hand_out()
    assert seat.task == 0
    driver._flags[STOPPED] = 1
    driver._stop_if_asked()
    return seat


def test_after_a_cancel_actors_are_told_in_the_next_turn_and_given_nothing(
    driver: tuple[Driver, Connection],
) -> None:
    one, pipe = driver
    seat = prepares(one, 1)
    one._answered(seat, seat.beginning, pack([]))
    one._hand_out()
    for number in (1, 2):
        one._heard("unit", 1, number, "facts")
    told: list[int] = []
    seat.actor.stop, seat.actor.work = SimpleNamespace(remote=told.append), None
    one._flags[STOPPED] = 1
    turns(one, 1)
    assert told == [1]
    assert [m for m in said(pipe) if m[0] != "waits"] == [("stopped", 1, n) for n in (1, 2, 0)]
    one._answered(seat, seat.answer, pack(("stopped", None)))
    turns(one, 1)
    assert seat.task is None


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
    of_it = [message for message in said(pipe) if message[0] != "waits"]
    assert of_it == [("stopped", 1, 0)], "it was told once, and is not lost"
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


@pytest.mark.parametrize("awaited", [True, False])
def test_it_looks_for_nothing_more_often_than_ten_times_a_second(
    driver: tuple[Driver, Connection], awaited: bool
) -> None:
    """It waits in Ray for an answer, and for a message where none is awaited."""
    one, _ = driver
    if awaited:
        prepares(one, 1)
    for seat in one._seats:
        seat.is_ready = True
    listened = turns(one, 3)
    waits = [a + b for a, b in zip(listened, one._ray.waited or [0.0] * 3, strict=True)]
    assert waits == [module.LOOK_S] * 3
    assert module.LOOK_S >= 0.1
    assert bool(one._ray.waited) == awaited


Stage = Literal["ready", "beginning", "answer", "asked"]


def reaches(driver: Driver, stage: Stage) -> tuple[Seat, Any]:
    """An actor of which something is awaited, and the reference to that."""
    if stage == "ready":
        return driver._seats[0], driver._seats[0].ready
    seat = prepares(driver, 1)
    if stage != "beginning":
        driver._answered(seat, seat.beginning, pack([]))
        driver._hand_out()
        driver._ask()
    found = getattr(seat, stage)
    assert found is not None
    return seat, found


@pytest.mark.parametrize("error", [RayActorError, OutOfMemoryError, ObjectLostError])
@pytest.mark.parametrize("stage", get_args(Stage))
def test_an_actor_that_is_gone_for_any_reason_is_replaced_and_no_other(
    driver: tuple[Driver, Connection],
    monkeypatch: pytest.MonkeyPatch,
    stage: Stage,
    error: type[Exception],
) -> None:
    one, pipe = driver
    seat, ref = reaches(one, stage)
    others = [other for other in one._seats if other is not seat]
    one._ray.failed[ref] = error("the node is low on memory")
    one._collect()
    assert one._seats == others
    has_a_unit = stage in ("answer", "asked")
    of_it = [message for message in said(pipe) if message[0] != "warns"]
    assert of_it == ([("lost", 1, 0, "the node is low on memory")] if has_a_unit else [])
    monkeypatch.setattr(Place, "may_start", lambda *_: True)
    one._fill()
    assert len(one._seats) == TERMS.actors


@pytest.mark.parametrize("error", [RaySystemError, LocalRayletDiedError, TaskMemoryError])
def test_what_is_not_of_one_actor_ends_the_work_of_all(
    driver: tuple[Driver, Connection], error: type[Exception]
) -> None:
    one, _ = driver
    _, ref = reaches(one, "answer")
    one._ray.failed[ref] = error("there is no more of it")
    with pytest.raises(error):
        one._collect()


def test_while_no_actor_is_ready_the_caller_is_told_what_is_lacking(
    driver: tuple[Driver, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, pipe = driver
    monkeypatch.setattr(module, "ASK_S", -1.0)
    one._say_if_none_is_ready()
    lacking = "each needs 1 CPUs and 0 GPUs, and the cluster has {'CPU': 1.0}"
    where = "the Ray cluster at 10.0.0.1:6379 has no worker that is ready"
    assert said(pipe) == [("waits", f"{where}: {lacking}")]
    seat = one._seats[0]
    seat.is_ready = True
    one._say_if_none_is_ready()
    assert said(pipe) == []
    one._lost(seat, "it was low on memory")
    one._say_if_none_is_ready()
    last = "the last one has ended (it was low on memory)"
    assert said(pipe) == [("waits", f"{where}: {lacking}; {last}")]


def test_actors_none_of_which_can_work_say_so_once(driver: tuple[Driver, Connection]) -> None:
    one, pipe = driver
    for seat in [*one._seats]:
        one._answered(seat, seat.ready, (7, pack(MemoryError("the model is too large")), NOWHERE))
    _, (kind, error) = said(pipe)
    assert (kind, str(error)) == ("refused", "the model is too large")
    assert one._awaited() == {}
