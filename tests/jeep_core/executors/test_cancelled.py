"""How much is still begun after a cancel: counted in matrices, units and turns, not in seconds.

The second that is promised is what the pauses between two looks come to.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import pytest
from support.executors.kinds_of_work import CASES
from support.library.shared_work import edited

from jeep_core.errors import Cancelled
from jeep_core.evaluation.units import TASK as MEASURE
from jeep_core.executors import crew as crew_module
from jeep_core.executors.child import STOPPED, Line
from jeep_core.executors.crew import CHECK_S, TURN_S, Run
from jeep_core.executors.processes import Processes
from jeep_core.executors.ray.actor import NAP_S, Actor
from jeep_core.executors.ray.driver import LOOK_S
from jeep_core.executors.version import source_of, version_of
from jeep_core.executors.wire import pack, unpack
from jeep_core.executors.work import Bench, Work, keep_nothing
from jeep_core.executors.workshop import Workshop
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.monitor import Monitor
from jeep_core.suites import Style


class Counted:
    """A caller that counts the matrices of the work, and cancels it at one of them.

    ``gap``: the most matrices between two looks.
    """

    def __init__(self, at: int = -1, polite: bool = False) -> None:
        self.at, self._polite = at, polite
        self.matrices = self.gap = self.looks = self._since = 0

    @property
    def after(self) -> int:
        """Matrices that were begun after the cancel."""
        return self.matrices - self.at

    def check(self) -> None:
        self.looks += 1
        self.gap, self._since = max(self.gap, self._since), 0
        if 0 <= self.at <= self.matrices:
            raise Cancelled("enough")

    def give_way(self) -> None:
        if self._polite:
            self.check()
        self.matrices += 1
        self._since += 1

    @property
    def monitor(self) -> Monitor:
        return Monitor(check=self.check, give_way=self.give_way)


def test_here_no_more_is_begun_than_between_two_looks(model: LoadedModel, moments: Moments) -> None:
    whole = Counted()
    edited(model, moments, "memit", monitor=whole.monitor)
    print(whole.looks, whole.gap, whole.matrices)
    assert whole.looks > 10
    assert whole.gap * 4 < whole.matrices, "a step of a unit, not a unit"
    for at in (1, whole.matrices // 3, 2 * whole.matrices // 3):
        cancelled = Counted(at)
        with pytest.raises(Cancelled):
            edited(model, moments, "memit", monitor=cancelled.monitor)
        assert cancelled.after <= whole.gap


def test_here_nothing_is_begun_where_the_caller_looks_when_it_is_given_way(
    model: LoadedModel, moments: Moments
) -> None:
    """As the lanes of the service do."""
    for at in (1, 50, 200):
        cancelled = Counted(at, polite=True)
        with pytest.raises(Cancelled):
            edited(model, moments, "memit", monitor=cancelled.monitor)
        assert cancelled.after == 0


def stopping(monitor: Monitor, at: int, stop: Callable[[], object]) -> tuple[Monitor, list[int]]:
    """A worker's caller that gives the run up at a matrix, and those that were begun."""
    begun: list[int] = []

    def give_way() -> None:
        monitor.give_way()
        begun.append(len(begun) + 1)
        if len(begun) == at:
            stop()

    return Monitor(monitor.report, monitor.check, give_way), begun


@pytest.mark.parametrize("at", [1, 7])
def test_a_process_begins_no_other_matrix(model: LoadedModel, at: int) -> None:
    _, theirs = Pipe()
    flags = [0, 0, 0]
    shop = Workshop(model)
    shop.begin(MEASURE, Style.CONTRAST, version_of(ModelView(model)))
    given = Line(theirs, flags).monitor(run=1, number=0)
    monitor, begun = stopping(given, at, lambda: flags.__setitem__(STOPPED, 1))
    with pytest.raises(Cancelled):
        shop.work(CASES[:2], monitor)
    assert begun == list(range(1, at + 1))


@pytest.mark.parametrize("at", [1, 7])
def test_an_actor_begins_no_other_matrix(
    model: LoadedModel, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = Actor(source_of(model), 1, None)
    version = version_of(ModelView(model))
    assert unpack(actor.begin(pack((MEASURE, Style.CONTRAST, version.key)), pack(version))) == []
    made, begun = actor._monitor, list[list[int]]()

    def monitored(run: int) -> Monitor:
        monitor, found = stopping(made(run), at, lambda: actor.stop(run))
        begun.append(found)
        return monitor

    monkeypatch.setattr(actor, "_monitor", monitored)
    assert unpack(actor.work(1, pack(CASES[:2]))) == ("stopped", None)
    assert begun == [list(range(1, at + 1))]
    assert unpack(actor.work(1, pack(CASES[:2]))) == ("stopped", None), "nor of another unit"
    assert begun[1] == []


@pytest.mark.parametrize("polite", [True, False])
def test_whoever_hands_units_out_looks_ten_times_a_second(
    monkeypatch: pytest.MonkeyPatch, polite: bool
) -> None:
    """Whatever its workers do: here they say nothing at all.  Its clock goes while it listens."""
    now, cancelled_at, turns = [1000.0], list[float](), list[float]()
    played = SimpleNamespace(monotonic=lambda: now[0], monotonic_ns=lambda: int(now[0] * 1e9))
    monkeypatch.setattr(crew_module, "time", played)
    crew = Processes(1)
    monkeypatch.setattr(crew, "_tend", lambda run: None)

    def listen(run: Run, seconds: float) -> None:
        now[0] += seconds
        turns.append(seconds)
        if len(turns) == 33:
            cancelled_at.append(now[0])

    def check() -> None:
        if cancelled_at:
            raise Cancelled("enough")

    monkeypatch.setattr(crew, "_listen", listen)
    monitor = Monitor(check=check, give_way=lambda: None) if polite else Monitor(check=check)
    bench = Bench.__new__(Bench)
    object.__setattr__(bench, "monitor", monitor)
    work = Work("jeep_core.values.units:unit", "values", None, [1, 2], [9, 9])
    with pytest.raises(Cancelled):
        crew._work(Run(crew, work, bench, keep_nothing, 1))
    assert now[0] - cancelled_at[0] <= CHECK_S + TURN_S + 1e-6


def test_all_looks_on_the_way_to_a_worker_are_well_within_a_second() -> None:
    """The caller's; the driver's, which waits for a message or an answer; a nap of an actor."""
    assert CHECK_S + TURN_S + 2 * LOOK_S + NAP_S <= 0.5


def test_processes_are_given_nothing_after_a_cancel_and_stop_in_their_unit(
    model: LoadedModel,
    moments: Moments,
    crews: dict[int, Processes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crew, begun, sent = crews[2], list[int](), list[tuple[int, Any]]()
    edited(model, moments, "memit", crew)
    monkeypatch.setattr(crew_module, "pack", lambda message: noted(message, sent))

    def check() -> None:
        if begun:
            raise Cancelled("enough")

    def report(phase: str, done: int, total: int) -> None:
        if phase == "optimise" and sent:
            begun.append(done)

    with pytest.raises(Cancelled):
        edited(model, moments, "memit", crew, monitor=Monitor(report, check))
    run = crew._number
    units = [message for message in sent if message[0] == "unit"]
    assert len(units) <= crew.workers + len({*begun}), "one each, and one for each that was done"
    ended: list[str] = []
    told = crew._told

    def hear(of: Run, link: Any, kind: str, *rest: Any) -> None:
        if kind in ("done", "stopped") and rest[0] == run:
            ended.append(kind)
        told(of, link, kind, *rest)

    monkeypatch.setattr(crew, "_told", hear)
    edited(model, moments, "memit", crew)
    assert len(ended) <= crew.workers, "what they had, and nothing that was begun since"
    assert {message[1] for message in sent if message[0] == "unit"} == {run, crew._number}


def noted(message: Any, sent: list[Any]) -> bytes:
    sent.append(message)
    return pack(message)
