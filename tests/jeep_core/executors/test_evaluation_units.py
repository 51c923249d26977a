"""An evaluation has the same figures with any executor, and keeps what is done in order."""

from __future__ import annotations

from typing import Any

import pytest
from support.library.closed_form import MEMIT, PREFIXES
from support.library.shared_work import CITIES, edited

from jeep_core.errors import JeepError
from jeep_core.evaluation import units
from jeep_core.evaluation.metrics import Summary, measure
from jeep_core.evaluation.trials import Trials
from jeep_core.evaluation.units import measure_apart
from jeep_core.executors.here import HERE
from jeep_core.executors.processes import Processes
from jeep_core.executors.work import Executor
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.monitor import Monitor
from jeep_core.suites import Case, Style

CASES = [
    Case(
        city,
        "{} is a city in the country of",
        "Peru",
        target_true="old",
        paraphrase_prompts=(f"{city} lies in",),
        neighborhood_prompts=("Lima lies in", f"{city} and Lima lie in"),
    )
    for city in CITIES
]


@pytest.fixture(autouse=True)
def _three_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "CASES_TOGETHER", 3)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_records_are_the_same_with_any_number_of_workers(
    model: LoadedModel, moments: Moments, crews: dict[int, Processes], count: int
) -> None:
    for view in (ModelView(model), edited(model, moments, "memit").view):
        expected = measure_apart(view, CASES, Style.CONTRAST)
        assert measure_apart(view, CASES, Style.CONTRAST, executor=crews[count]) == expected
        apart = [r for i in (0, 3, 6) for r in measure(view, CASES[i : i + 3], Style.CONTRAST)]
        assert expected == apart


def test_what_is_done_is_kept_in_order_and_counted_in_cases(
    model: LoadedModel, crews: dict[int, Processes]
) -> None:
    kept: list[str] = []
    said: list[tuple[int, int]] = []
    found = measure_apart(
        ModelView(model),
        CASES,
        Style.CONTRAST,
        executor=crews[2],
        monitor=Monitor(lambda phase, done, total: said.append((done, total))),
        keep=lambda number, records: kept.extend(record.subject for record in records),
    )
    assert kept == list(CITIES) == [record.subject for record in found]
    assert (said[0], said[-1]) == ((0, 8), (8, 8))
    assert said == sorted(said)


def test_what_was_done_before_an_error_is_kept(
    model: LoadedModel, crews: dict[int, Processes]
) -> None:
    kept: list[Any] = []
    wrong = [*CASES[:5], Case("Oslo", "{} is", "Peru " * 200, target_true="old")]
    with pytest.raises(JeepError) as there:
        measure_apart(
            ModelView(model),
            wrong,
            Style.CONTRAST,
            executor=crews[2],
            keep=lambda number, records: kept.append(number),
        )
    with pytest.raises(JeepError) as here:
        measure_apart(ModelView(model), wrong, Style.CONTRAST)
    assert str(there.value) == str(here.value)
    assert kept in ([], [0])


def test_a_trial_has_the_same_figures(
    model: LoadedModel, moments: Moments, crews: dict[int, Processes]
) -> None:
    def summary(executor: Executor) -> Summary:
        trials = Trials(model, CASES, moments, PREFIXES, executor=executor)
        return trials.run("memit", MEMIT, range(len(CASES)))

    assert summary(crews[2]) == summary(HERE)
