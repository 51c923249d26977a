"""Confidence intervals of lm-eval's metrics, and of their differences over the same documents.

Documents are resampled, as `jeep_core.evaluation.statistics` resamples cases.  lm-eval's common
aggregates are computed for all resamples together; any other is called for each of fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jeep_core.errors import NumericalError
from jeep_core.evaluation.harness.tasks import Aggregate, Metric
from jeep_core.evaluation.statistics import SAMPLES, Interval, resamples

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""From weights (samples, n) of the documents to the aggregate of each sample (samples,)."""
FEWER = 100
"""Resamples of an aggregate that is called for each: lm-eval takes so many of its slow ones."""
LM_EVAL = "lm_eval.api.metrics"


def interval(metric: Metric, seed: int = 0) -> Interval:
    """A metric with its 95 % interval, in lm-eval's own units.

    Raises:
        NumericalError: its value is not finite.
    """
    return _interval(metric.name, metric.value, *_drawn(metric, seed))


def difference(before: Metric, after: Metric, seed: int = 0) -> Interval:
    """``after`` minus ``before`` with its 95 % interval; resamples are of pairs.

    Raises:
        NumericalError: a value is not finite.
    """
    a, n = _drawn(before, seed)
    b, _ = _drawn(after, seed)
    return _interval(after.name, after.value - before.value, b - a, n)


def is_share(metric: Metric) -> bool:
    """Whether a metric is a mean of numbers, so that single documents got better or worse."""
    return _kind(metric.aggregate) == "mean" and all(
        isinstance(item, int | float | np.number) for item in metric.items if item is not None
    )


def _interval(name: str, value: float, drawn: Array, n: int) -> Interval:
    if not math.isfinite(value):
        raise NumericalError(f"{name} of a task of lm-eval is not finite: {value}")
    finite = drawn[np.isfinite(drawn)]
    low, high = np.percentile(finite, [2.5, 97.5]) if len(finite) else (value, value)
    return Interval(value, float(low), float(high), n)


def _drawn(metric: Metric, seed: int) -> tuple[Array, int]:
    """The aggregate of every resample, and how many documents have the metric."""
    items = list(metric.items)
    statistic, samples = _statistic(items, metric.aggregate)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        drawn = [statistic(weights) for weights in resamples(len(items), seed, samples)]
    return np.concatenate(drawn), sum(item is not None for item in items)


def _statistic(items: Sequence[Any], aggregate: Aggregate) -> tuple[Statistic, int]:
    """The aggregate of weighted documents, and how many resamples it is worth."""
    kind, plain = _kind(aggregate), all(np.ndim(item) == 0 for item in items if item is not None)
    if kind in ("mean", "perplexity") and plain:
        values = np.array([[0.0, 0.0] if item is None else [float(item), 1.0] for item in items])
    elif kind in ("weighted_perplexity", "bits_per_byte"):
        values = np.array([[0.0, 0.0] if item is None else item for item in items], dtype=float)
    else:
        return _called(items, aggregate), FEWER

    def statistic(weights: Array) -> Array:
        # (samples,): a sum over the documents by another one, of their number, words or bytes
        means: Array = (weights @ values[:, 0]) / (weights @ values[:, 1])
        if kind == "mean":
            return means
        found: Array = -means / math.log(2) if kind == "bits_per_byte" else np.exp(-means)
        return found

    return statistic, SAMPLES


def _called(items: Sequence[Any], aggregate: Aggregate) -> Statistic:
    """Any other aggregate, which is given the documents of each resample."""

    def statistic(weights: Array) -> Array:
        found = []
        for times in weights.astype(int):
            drawn = [item for i, item in enumerate(items) for _ in range(times[i])]
            kept = [item for item in drawn if item is not None]
            found.append(float(aggregate(kept)) if kept else math.nan)
        return np.array(found)

    return statistic


def _kind(aggregate: Aggregate) -> str:
    """The name of one of lm-eval's own aggregates; empty for any other."""
    if getattr(aggregate, "__module__", "") == LM_EVAL:
        return str(getattr(aggregate, "__name__", ""))
    return "mean" if getattr(aggregate, "__name__", "") == "_mean" else ""
