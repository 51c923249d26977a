"""The inputs of the benchmarks: the bundled models and the first cases of their suite."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

import jeep_core
from jeep_core.editing import resolve_hparams, tokenize
from jeep_core.editors.jeep.editor import Jeep
from jeep_core.evaluation.metrics import fitting
from jeep_core.models.loading import LoadedModel
from jeep_core.spec.facts import Fact
from jeep_core.suites import Case, Style, load_counterfact
from jeep_core.values.optimiser import FactTokens, Objective
from jeep_core.values.prefixes import sample_prefixes

SEED = 2025
T = TypeVar("T")


def suite_facts(count: int) -> list[Fact]:
    """The first cases of the bundled suite in a fixed random order."""
    cases: list[Fact] = list(load_counterfact("atlas-counterfact").cases)
    random.Random(SEED).shuffle(cases)
    return cases[:count]


def askable(base: LoadedModel, count: int) -> list[Fact]:
    """The first such cases that this model can be asked."""
    cases = [case for case in suite_facts(2 * count) if isinstance(case, Case)]
    return list(fitting(base, cases, Style.CONTRAST)[0][:count])


def workload(
    model: str, count: int, n_prefixes: int = 6, preset: str | None = None
) -> tuple[LoadedModel, list[FactTokens], Objective]:
    """A model, bundled or in a folder, tokenized facts, and the objective of a JEEP preset.

    Without ``preset`` it is the model's usual one.  Of a preset that optimises the two vectors
    separately it is that of the low ones.
    """
    base = jeep_core.load(model)
    rows = tokenize(base, suite_facts(count), sample_prefixes(base, n_prefixes))
    hparams: Any = resolve_hparams(model, "jeep", preset, {}, base.n_layers, shape=base.shape)
    objective = Jeep().anchor_objective(hparams)
    assert objective is not None
    return base, rows, objective


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def at_once(body: Callable[..., object], processes: Sequence[tuple[object, ...]]) -> float:
    """Seconds in which processes of their own, one for each tuple, do their work side by side.

    ``body`` gets the tuple and then a barrier, for which it waits when it is ready to begin, and
    again at its end.
    """
    context = get_context("spawn")
    gate = context.Barrier(len(processes) + 1)
    every = [context.Process(target=body, args=(*args, gate)) for args in processes]
    for one in every:
        one.start()
    gate.wait()
    began = time.perf_counter()
    gate.wait()
    spent = time.perf_counter() - began
    for one in every:
        one.join()
    return spent


def timed(run: Callable[[], T]) -> tuple[float, T]:
    """Wall time of one call, and what it returned."""
    kept: list[T] = []
    spent = seconds(lambda: kept.append(run()))
    return spent, kept[0]


def median(values: list[float]) -> float:
    """Median."""
    return statistics.median(values)
