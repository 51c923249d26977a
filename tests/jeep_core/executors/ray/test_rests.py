"""Actors on the caller's device rest while it is made to wait; those elsewhere work on."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.library.shared_work import edited
from support.played_ray import prepares, turns

from jeep_core.errors import Cancelled
from jeep_core.executors import crew as crew_module
from jeep_core.executors.child import HELD, PAUSE, STOPPED
from jeep_core.executors.processes import Processes
from jeep_core.executors.ray import actor as actor_module
from jeep_core.executors.ray import beside as beside_module
from jeep_core.executors.ray import driver as driver_module
from jeep_core.executors.ray.actor import Actor
from jeep_core.executors.ray.beside import NOWHERE, beside, where
from jeep_core.executors.ray.driver import REST_S, Driver
from jeep_core.executors.ray.seats import Seat
from jeep_core.executors.version import source_of
from jeep_core.executors.wire import pack
from jeep_core.models.loading import LoadedModel
from jeep_core.moments.cache import Moments
from jeep_core.monitor import Monitor

MS = 1_000_000
HERE = ("this machine", frozenset({"cpu"}))


# ------------------------------------------------------------------ the driver


class Told:
    """An actor's call that notes what it is given."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def remote(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The driver's clock in nanoseconds, which tests set."""
    found = [5 * MS]
    played = SimpleNamespace(monotonic_ns=lambda: found[0], monotonic=lambda: found[0] / 1e9)
    monkeypatch.setattr(driver_module, "time", played)
    return found


def works(driver: Driver, place: Any) -> tuple[Seat, Told]:
    """The first actor, at work somewhere."""
    seat = prepares(driver, 1)
    driver._terms = SimpleNamespace(**{**vars(driver._terms), "where": HERE})  # type: ignore[assignment]
    driver._answered(seat, seat.ready, (7, pack(None), place))
    driver._answered(seat, seat.beginning, pack([]))
    driver._hand_out()
    assert seat.task == 0
    seat.actor.rest = Told()
    return seat, seat.actor.rest


def test_one_beside_the_caller_rests_for_as_long_as_that_was_made_to_wait(
    driver: tuple[Driver, Connection], clock: list[int]
) -> None:
    one, _ = driver
    _, told = works(one, HERE)
    one._flags[HELD] = 40 * MS
    one._make_way()
    one._make_way()
    assert told.seconds == [pytest.approx(0.040)], "once"
    one._flags[HELD] += int(REST_S * 1e9) - MS
    one._make_way()
    assert len(told.seconds) == 1, "what is not worth a message is kept for the next"
    one._flags[HELD] += 2 * MS
    one._make_way()
    assert told.seconds[1:] == [pytest.approx(REST_S + 0.001)]


def test_a_wait_that_goes_on_is_told_while_it_does(
    driver: tuple[Driver, Connection], clock: list[int]
) -> None:
    one, _ = driver
    _, told = works(one, HERE)
    one._flags[PAUSE] = clock[0]
    for _ in range(3):
        clock[0] += 100 * MS
        one._make_way()
    assert told.seconds == [pytest.approx(0.1)] * 3
    one._flags[PAUSE], one._flags[HELD] = 0, 320 * MS
    one._make_way()
    assert told.seconds[3:] == [pytest.approx(0.020)], "the rest of it"


class EndsBetween(list[int]):
    """Flags of a wait that ends as soon as one of them was read."""

    ends_after = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        if self.ends_after:
            self[PAUSE], self[HELD], self.ends_after = 0, self.ends_after, 0
        return found


def test_a_wait_that_ends_while_the_driver_looks_counts_once(
    driver: tuple[Driver, Connection], clock: list[int]
) -> None:
    one, _ = driver
    _, told = works(one, HERE)
    one._flags = flags = EndsBetween(one._flags)
    flags[PAUSE] = clock[0]
    clock[0] += 100 * MS
    flags.ends_after = 100 * MS
    one._make_way()
    one._make_way()
    assert told.seconds == [pytest.approx(0.1)]


@pytest.mark.parametrize(
    "place", [("another", frozenset({"cpu"})), ("this machine", frozenset({"GPU-2"})), NOWHERE]
)
def test_one_elsewhere_works_on(
    driver: tuple[Driver, Connection], clock: list[int], place: Any
) -> None:
    one, _ = driver
    _, told = works(one, place)
    one._flags[HELD] = 40 * MS
    one._make_way()
    assert told.seconds == []


def test_one_without_work_is_told_nothing(
    driver: tuple[Driver, Connection], clock: list[int]
) -> None:
    one, _ = driver
    seat, told = works(one, HERE)
    seat.task = None
    one._flags[HELD] = 40 * MS
    one._make_way()
    assert told.seconds == []
    seat.task = 1
    one._make_way()
    assert told.seconds == [], "nor of waits before its unit"


def test_it_is_asked_in_every_turn(driver: tuple[Driver, Connection]) -> None:
    one, _ = driver
    asked: list[int] = []
    one._make_way = lambda: asked.append(1)  # type: ignore[method-assign]
    turns(one, 3)
    assert asked == [1, 1, 1]


# ------------------------------------------------------------------ where they compute


def test_two_processes_of_one_machine_and_device_are_beside_one_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = where([torch.device("cpu")])
    assert beside(cpu, where([torch.device("cpu")]))
    assert not beside(NOWHERE, NOWHERE)
    gpus = {0: SimpleNamespace(uuid="GPU-a"), 1: SimpleNamespace(uuid="GPU-b")}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpus[device.index])
    first, second = (where([torch.device(name)]) for name in ("cuda:0", "cuda:1"))
    both = where([torch.device("cuda:0"), torch.device("cuda:1")])
    assert not beside(first, second)
    assert beside(first, both)
    assert not beside(first, cpu)


def test_a_machine_without_its_id_has_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(beside_module, "BOOT_ID", tmp_path / "none")
    machine, _ = where([torch.device("cpu")])
    assert machine.startswith(beside_module.platform.node())


# ------------------------------------------------------------------ the actor


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that naps alone move: how long each was."""
    now, found = [100.0], list[float]()

    def sleep(seconds: float) -> None:
        found.append(seconds)
        now[0] += seconds

    played = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(actor_module, "time", played)
    return found


@pytest.fixture
def actor(model: LoadedModel) -> Actor:
    return Actor(source_of(model), 1, None)


def test_it_rests_before_its_next_matrix_and_then_goes_on(actor: Actor, naps: list[float]) -> None:
    monitor = actor._monitor(1)
    monitor.give_way()
    assert naps == []
    actor.rest(0.012)
    actor.rest(0.010)
    monitor.give_way()
    assert sum(naps) == pytest.approx(0.022), "one after the other"
    monitor.give_way()
    assert sum(naps) == pytest.approx(0.022)


def test_one_that_rests_ends_a_run_that_is_given_up(
    actor: Actor, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    actor.rest(60.0)
    slept = actor_module.time.sleep

    def sleep(seconds: float) -> None:
        slept(seconds)
        if len(naps) == 3:
            actor.stop(1)

    monkeypatch.setattr(actor_module.time, "sleep", sleep)
    with pytest.raises(Cancelled):
        actor._monitor(1).give_way()
    assert len(naps) == 3


def test_it_says_where_it_computes(actor: Actor, model: LoadedModel) -> None:
    assert actor.ready()[2] == where(model.devices)


# ------------------------------------------------------------------ the caller


def test_what_the_caller_waits_is_counted_also_where_that_ends_the_work(
    model: LoadedModel,
    moments: Moments,
    crews: dict[int, Processes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crew, waits = crews[2], list[int]()
    before = crew._flags[HELD]
    clock: Callable[[], int] = crew_module.time.monotonic_ns

    def give_way() -> None:
        assert crew._flags[PAUSE]
        waits.append(clock())
        while clock() < waits[-1] + MS:
            pass
        if len(waits) == 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        edited(model, moments, "memit", crew, monitor=Monitor(give_way=give_way))
    assert crew._flags[HELD] - before >= 3 * MS
    assert (crew._flags[PAUSE], crew._flags[STOPPED]) == (0, crew._number)
