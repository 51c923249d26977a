"""What becomes of actors that cannot be made ready, or do not end what they begin with."""

from __future__ import annotations

from itertools import pairwise
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import pytest
from support.played_ray import (
    RayActorError,
    prepares,
    said,
    turns,
    version,
)

from jeep_core.errors import UnsupportedModel
from jeep_core.executors.child import STOPPED
from jeep_core.executors.ray import driver as module
from jeep_core.executors.ray.beside import NOWHERE
from jeep_core.executors.ray.driver import Driver
from jeep_core.executors.ray.seats import LEFT_OUT_S, LONGEST_PAUSE_S, Place, Seat
from jeep_core.executors.wire import pack, unpack

Played = tuple[Driver, Connection]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which tests set."""
    found = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: found[0]))
    return found


def is_ready(driver: Driver, seat: Seat) -> None:
    driver._answered(seat, seat.ready, (7, pack(None), NOWHERE))
    assert seat.is_ready


def refuses(driver: Driver, seat: Seat, why: str = "there is no such folder") -> None:
    driver._answered(seat, seat.ready, (7, pack(UnsupportedModel(why)), NOWHERE))


def dies(driver: Driver, seat: Seat) -> None:
    driver._ray.failed[seat.ready] = RayActorError("its node is low on memory")
    driver._collect()


def loads(driver: Driver) -> list[Seat]:
    """The actors that are not ready yet."""
    return [seat for seat in driver._seats if not seat.is_ready]


# ------------------------------------------------------------------ actors that never are ready


def test_actors_that_die_while_they_load_are_left_out_beside_one_that_works(
    driver: Played, clock: list[float]
) -> None:
    one, pipe = driver
    is_ready(one, one._seats[0])
    said(pipe)
    for _ in range(200):
        clock[0] += 0.5
        one._fill()
        for seat in loads(one):
            dies(one, seat)
    assert len(one._ray.made) == 4, "one that works, and three that died within 100 s"
    warned = [text for kind, text in said(pipe) if kind == "warns"]
    assert ["another one is started" in text for text in warned] == [True, True, False]
    assert all("its node is low on memory" in text for text in warned)
    clock[0] += LEFT_OUT_S
    one._fill()
    [again] = loads(one)
    is_ready(one, again)
    assert not again.place.deaths, "it counts from its beginning"


def test_while_none_works_they_are_started_again_with_pauses(
    driver: Played, clock: list[float]
) -> None:
    """How long is waited for the first one is the caller's affair."""
    one, _ = driver
    begun = []
    for _ in range(100):
        one._fill()
        if loads(one):
            begun.append(clock[0])
        for seat in loads(one):
            dies(one, seat)
        clock[0] += 1
    pauses = [b - a for a, b in pairwise(begun)]
    assert pauses[:5] == [1, 2, 4, 8, LONGEST_PAUSE_S]
    assert {*pauses[5:]} == {LONGEST_PAUSE_S}


def test_a_machine_without_the_model_is_left_out_while_others_load_or_work(
    driver: Played, clock: list[float]
) -> None:
    one, pipe = driver
    first, other = one._seats
    refuses(one, first)
    [(kind, why)] = said(pipe)
    assert kind == "warns"
    assert "there is no such folder" in why
    assert one._ray.killed == [first.actor]
    clock[0] += 60
    one._fill()
    assert one._seats == [other], "it goes on loading, and nobody takes the place of the first"
    is_ready(one, other)
    assert said(pipe) == [("ready", 7)]
    clock[0] += LEFT_OUT_S
    one._fill()
    refuses(one, one._seats[1])
    assert said(pipe) == [], "it was said"
    assert one._seats == [other]


def test_an_exponent_has_its_end() -> None:
    place = Place()
    for _ in range(100_000):
        place.failed(0.0)
    assert place.may_start(LONGEST_PAUSE_S, others_work=False)


# ------------------------------------------------------------------ beginnings


@pytest.mark.parametrize("how", ["ended", "replaced by another"])
@pytest.mark.parametrize("late", [True, False])
def test_one_that_never_has_done_with_the_version_of_work_that_was_given_up_is_replaced(
    driver: Played, monkeypatch: pytest.MonkeyPatch, how: str, late: bool
) -> None:
    one, _ = driver
    seat = prepares(one, 1)
    monkeypatch.setattr(module, "PREPARED_S", -1.0 if late else 1000.0)
    monkeypatch.setattr(module, "STALE_S", -1.0)
    turns(one, 2)
    assert seat in one._seats, "nobody has given it up"
    if how == "ended":
        one._flags[STOPPED] = 1
    else:
        one._heard("begin", 2, "task", None, version("v2"))
    turns(one, 2)
    assert (seat in one._seats) != late


def test_one_that_makes_the_version_that_the_next_run_needs_goes_on(
    driver: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = driver
    seat = prepares(one, 1)
    monkeypatch.setattr(module, "PREPARED_S", 1000.0)
    one._flags[STOPPED] = 1
    turns(one, 2)
    assert seat.stale_since is not None
    one._heard("begin", 2, "task", None, seat.version)
    monkeypatch.setattr(module, "PREPARED_S", -1.0)
    turns(one, 2)
    assert seat in one._seats


def test_refusals_of_long_ago_do_not_fail_a_job(driver: Played, clock: list[float]) -> None:
    """A place is no machine: an actor may be placed where another one was refused."""
    one, pipe = driver
    first, other = one._seats
    refuses(one, first)
    is_ready(one, other)
    other.place.deaths = 0
    one._lost(other, "its machine was taken away")
    clock[0] += LONGEST_PAUSE_S
    one._fill()
    said(pipe)
    refuses(one, next(seat for seat in one._seats if seat.place is other.place))
    assert "refused" not in [kind for kind, *_ in said(pipe)]
    refuses(one, next(seat for seat in one._seats if seat.place is first.place))
    assert "refused" in [kind for kind, *_ in said(pipe)]


def test_one_that_has_done_with_it_in_time_has_as_much_time_for_a_unit(
    driver: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = driver
    seat = prepares(one, 1)
    one._flags[STOPPED] = 1
    one._end_stale()
    assert seat.stale_since is not None
    one._answered(seat, seat.beginning, pack([]))
    monkeypatch.setattr(module, "STALE_S", -1.0)
    one._end_stale()
    assert seat in one._seats


# ------------------------------------------------------------------ versions


def begins(driver: Driver, run: int, what: Any) -> list[tuple[Any, Any]]:
    """What actors are sent for a run with a unit for each: the key, and the version or None."""
    driver._heard("begin", run, "task", None, what)
    for number in range(2):
        driver._heard("unit", run, number, "facts")
    for seat in driver._seats:
        seat.is_ready = True
    before = [len(seat.actor.sent) for seat in driver._seats]
    driver._hand_out()
    sent = [
        message
        for seat, n in zip(driver._seats, before, strict=True)
        for message in seat.actor.sent[n:]
    ]
    return [(unpack(message)[2], driver._ray.put_in.get(ref)) for message, ref in sent]


def ends(driver: Driver, unlike: Any = ()) -> None:
    for seat in driver._seats:
        driver._answered(seat, seat.beginning, pack(list(unlike)))
    driver._waiting.clear()


def test_a_version_is_put_into_ray_s_store_once_and_each_actor_is_given_it_once(
    driver: Played,
) -> None:
    one, _ = driver
    whole = pack(version("v1"))
    assert begins(one, 1, version("v1")) == [("v1", whole)] * 2
    ends(one)
    for run in (2, 3):
        assert begins(one, run, "v1") == [("v1", None)] * 2
        ends(one)
    assert len(one._ray.put_in) == 1
    one._lost(one._seats[0], "its machine is gone")
    one._fill()
    assert begins(one, 4, "v1") == [("v1", None), ("v1", whole)], "a new one has nothing"
    ends(one)
    assert begins(one, 5, version("v2")) == [("v2", pack(version("v2")))] * 2


def test_one_that_could_not_make_it_is_given_it_again(driver: Played) -> None:
    one, _ = driver
    begins(one, 1, version("v1"))
    ends(one, ["a.weight"])
    whole = pack(version("v1"))
    assert begins(one, 1, version("v1")) == [("v1", whole)] * 2
    for seat in one._seats:
        one._answered(seat, seat.beginning, pack(MemoryError("no room")))
    assert begins(one, 2, "v1") == [("v1", whole)] * 2
