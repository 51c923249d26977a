"""Intervals of lm-eval's metrics: resampled documents, in pairs for two versions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from jeep_core.errors import NumericalError
from jeep_core.evaluation.harness.intervals import LM_EVAL, difference, interval, is_share
from jeep_core.evaluation.harness.tasks import Aggregate, Metric
from jeep_core.evaluation.statistics import resamples

PAIRS = [(-12.0, 5), (-30.5, 11), (-7.25, 4), (-44.0, 13), (-3.0, 2)]


def mean(items: Sequence[float]) -> float:
    return sum(items) / len(items)


def weighted_mean(items: Sequence[tuple[float, float]]) -> float:
    return sum(a for a, _ in items) / sum(b for _, b in items)


def perplexity(items: Sequence[float]) -> float:
    return math.exp(-mean(items))


def weighted_perplexity(items: Sequence[tuple[float, float]]) -> float:
    return math.exp(-weighted_mean(items))


def bits_per_byte(items: Sequence[tuple[float, float]]) -> float:
    return -weighted_mean(items) / math.log(2)


for aggregate in (mean, perplexity, weighted_perplexity, bits_per_byte):
    aggregate.__module__ = LM_EVAL  # as if they were lm-eval's own of these names


def median(items: Sequence[float]) -> float:
    return sorted(items)[len(items) // 2]


def metric(items: Sequence[Any], aggregate: Aggregate, value: float | None = None) -> Metric:
    found = aggregate([one for one in items if one is not None]) if value is None else value
    return Metric("some", found, tuple(items), aggregate, True)


@pytest.mark.parametrize(
    ("items", "aggregate"),
    [
        ([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], mean),
        ([-1.5, -0.25, -4.0, -2.0], perplexity),
        (PAIRS, weighted_perplexity),
        (PAIRS, bits_per_byte),
    ],
)
def test_all_resamples_at_once_are_as_each_by_itself(
    items: list[Any], aggregate: Aggregate
) -> None:
    found = interval(metric(items, aggregate), seed=3)
    drawn = []
    for weights in resamples(len(items), 3):
        for row in weights.astype(int):
            some = [one for one, times in zip(items, row, strict=True) for _ in range(times)]
            drawn.append(aggregate(some))
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.value, found.cases) == (aggregate(items), len(items))


def test_an_aggregate_of_somebody_else_is_called() -> None:
    items = [5.0, 1.0, 9.0, 2.0, 7.0, None]
    found = interval(metric(items, median))
    assert found.cases == 5
    assert 1.0 <= found.low <= found.value == 5.0 <= found.high <= 9.0


def test_documents_without_a_value_do_not_count() -> None:
    found = interval(metric([1.0, None, 0.0, None], mean))
    assert (found.value, found.cases) == (0.5, 2)


def test_differences_are_of_pairs() -> None:
    """What both versions have in common cancels: a constant gain has no width."""
    before = [0.1, 0.9, 0.4, 0.6, 0.2]
    after = [value + 0.25 for value in before]
    found = difference(metric(before, mean), metric(after, mean))
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    unpaired = interval(metric(after, mean))
    assert unpaired.high - unpaired.low > 0.2


def test_a_figure_that_is_no_number_is_named() -> None:
    with pytest.raises(NumericalError, match="some of a task of lm-eval is not finite: inf"):
        interval(metric([1.0], mean, math.inf))


def test_shares_are_means_of_numbers() -> None:
    assert is_share(metric([1.0, 0, None], mean))
    assert not is_share(metric([-3.0, -2.0], perplexity))
    assert not is_share(metric(PAIRS, weighted_perplexity))
