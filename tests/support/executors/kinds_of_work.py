"""Every kind of work that is divided, on a tiny model: each cut into several units."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jeep_core.evaluation import free_answers
from jeep_core.evaluation import units as evaluation_units
from jeep_core.evaluation.free_answers import measure_freely
from jeep_core.evaluation.trials import Trials
from jeep_core.evaluation.units import asked_apart, measure_apart
from jeep_core.executors.work import Executor
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments import cache as moments_cache
from jeep_core.moments import sums as moment_sums
from jeep_core.moments.cache import Moments
from jeep_core.monitor import Monitor
from jeep_core.probe import readings
from jeep_core.probe.prompts import prepare
from jeep_core.probe.word_sets import Documents, FactTable, word_sets
from jeep_core.reproduce.runs import UNEDITED, Lab, Run, Setting
from jeep_core.reproduce.work import work_through
from jeep_core.spec.matrices import GradientOf
from jeep_core.suites import Case, Style, Suite
from jeep_core.values.cache import ValueCache
from support.library import tiny
from support.library.closed_form import JEEP, MEMIT, PREFIXES
from support.library.shared_work import CITIES, FACTS

CASES = [
    Case(
        city,
        "{} is a city in the country of",
        "Peru",
        target_true="old",
        neighborhood_prompts=("Lima lies in", f"{city} and Lima lie in"),
    )
    for city in CITIES
]


def cut_into_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few facts, cases and texts be several units."""
    monkeypatch.setattr(moments_cache, "BATCH_TOKENS", 60)
    monkeypatch.setattr(moments_cache, "GRADIENT_TOKENS", 40)
    monkeypatch.setattr(moments_cache, "GRADIENT_LOGITS", 1)
    monkeypatch.setattr(moment_sums, "BLOCK_TOKENS", 100)
    monkeypatch.setattr(readings, "READ_TOKENS", 40)
    monkeypatch.setattr(free_answers, "CASES_TOGETHER", 3)
    monkeypatch.setattr(evaluation_units, "CASES_TOGETHER", 3)
    monkeypatch.setattr(evaluation_units, "FACTS_TOGETHER", 2)


def keys(model: LoadedModel, executor: Executor, monitor: Monitor, folder: Path) -> Any:
    return sums(model, [0, 2], executor, monitor)


def gradients(model: LoadedModel, executor: Executor, monitor: Monitor, folder: Path) -> Any:
    return sums(model, [GradientOf(1)], executor, monitor)


def sums(model: LoadedModel, places: Any, executor: Executor, monitor: Monitor) -> Any:
    found = Moments(model, tiny.TEXTS, 900).sums(places, monitor=monitor, executor=executor)
    return found.count, [tensor.numpy().tobytes() for tensor in found.sums.values()]


def readings_of_a_probe(
    model: LoadedModel, executor: Executor, monitor: Monitor, folder: Path
) -> Any:
    view = another(model)
    prompts = prepare(view, FACTS).prompts
    sets = word_sets(model.tokenizer, prompts, Documents(tiny.TEXTS), FactTable([]))
    found = readings.read(view, prompts, sets, monitor, executor=executor)
    assert found.words is not None
    return [t.numpy().tobytes() for t in (found.probability, found.rank, found.words)]


def free(model: LoadedModel, executor: Executor, monitor: Monitor, folder: Path) -> Any:
    return measure_freely(another(model), CASES, tokens=4, monitor=monitor, executor=executor)


def cases(model: LoadedModel, executor: Executor, monitor: Monitor, folder: Path) -> Any:
    return measure_apart(another(model), CASES, Style.CONTRAST, monitor=monitor, executor=executor)


def asked(model: LoadedModel, executor: Executor, monitor: Monitor, folder: Path) -> Any:
    facts = [("plain", fact) for fact in FACTS]
    return asked_apart(another(model), facts, monitor=monitor, executor=executor)


def runs(model: LoadedModel, executor: Executor, monitor: Monitor, folder: Path) -> Any:
    suite = Suite("s", tuple(CASES), Style.CONTRAST)
    lab = Lab(
        model,
        {"s": suite},
        4,
        Moments(model, tiny.TEXTS, folder=folder),
        PREFIXES,
        folder,
        monitor=monitor,
    )
    settings = [UNEDITED, Setting("memit", MEMIT), Setting("jeep", JEEP)]
    wanted = [Run("s", 0, one, range(4)) for one in settings]
    return work_through(
        lab, wanted, lambda run, done, total: monitor.report("runs", done, total), executor
    )


def settings(model: LoadedModel, executor: Executor, monitor: Monitor, folder: Path) -> Any:
    trials = Trials(
        model,
        CASES[:4],
        Moments(model, tiny.TEXTS, folder=folder),
        PREFIXES,
        monitor=monitor,
        executor=executor,
        cache=ValueCache(folder),
    )
    low = MEMIT.low.model_dump()
    tried = [
        MEMIT.model_copy(update={"low": type(MEMIT.low)(**{**low, **change})})
        for change in ({}, {"clamp": 0.5}, {"moment_weight": 50}, {"clamp": 1.0})
    ]
    return list(trials.outcomes("memit", tried))


def another(model: LoadedModel) -> ModelView:
    """A version of the model."""
    name = model.family.weight_name(1)
    return ModelView(model, {name: model.model.get_parameter(name) * 1.5})


Kind = Callable[[LoadedModel, Executor, Monitor, Path], Any]
KINDS: dict[str, tuple[Kind, str]] = {
    "keys": (keys, "moments"),
    "gradients": (gradients, "moments"),
    "readings": (readings_of_a_probe, "read"),
    "free answers": (free, "write"),
    "facts": (asked, "ask"),
    "cases": (cases, "score"),
    "runs": (runs, "runs"),
    "settings": (settings, "try settings"),
}
