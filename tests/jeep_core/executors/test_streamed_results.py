"""Results that are too large to be held: given on in order, few ahead, none kept."""

from __future__ import annotations

from typing import Any

import pytest
from support.library import tiny

from jeep_core.executors.here import HERE
from jeep_core.executors.ledger import Ledger
from jeep_core.executors.work import Bench, Work
from jeep_core.models.views import ModelView
from jeep_core.moments import sums

TASK = "jeep_core.moments.sums:block_unit"


def work(units: int, streamed: bool) -> Work:
    return Work(TASK, "count", None, list(range(1, units + 1)), [1] * units, streamed)


def test_few_units_are_begun_before_those_in_front_of_them_are_done() -> None:
    kept: list[Any] = []
    ledger = Ledger(work(6, streamed=True), lambda number, found: kept.append(found), ahead=2)
    assert [ledger.next() for _ in range(4)] == [0, 1, 2, None]
    ledger.done(2, "c")
    ledger.done(1, "b")
    assert ledger.next() is None, "the first one's result is awaited"
    assert kept == []
    ledger.done(0, "a")
    assert kept == ["a", "b", "c"]
    assert [ledger.next() for _ in range(4)] == [3, 4, 5, None]
    for number in (3, 4, 5):
        ledger.done(number, "d")
    assert ledger.finished
    assert ledger.left == []
    assert ledger.results() == [None] * 6


def test_a_unit_that_is_given_back_is_the_next_one() -> None:
    ledger = Ledger(work(6, streamed=True), lambda *_: None, ahead=1)
    assert [ledger.next(), ledger.next()] == [0, 1]
    ledger.done(1, "b")
    ledger.back(0)
    assert ledger.next() == 0


def test_other_results_are_held_and_begun_at_will() -> None:
    ledger = Ledger(work(6, streamed=False), lambda *_: None, ahead=2)
    assert [ledger.next() for _ in range(7)] == [0, 1, 2, 3, 4, 5, None]
    for number in range(6):
        ledger.done(number, number)
    assert ledger.results() == list(range(6))


def test_this_process_holds_none_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "block_unit", lambda bench, common, unit: unit * 10)
    bench = Bench(ModelView(tiny.random_model("llama")))
    kept: list[Any] = []
    for streamed, results in ((True, [None, None]), (False, [10, 20])):
        assert HERE.run(work(2, streamed), bench, lambda _, found: kept.append(found)) == results
    assert kept == [10, 20, 10, 20]
