"""Means over cases with bootstrap confidence intervals, and the comparison of two versions.

Cases are resampled as a whole, because the prompts of a case depend on each other; the Score
of a resample is the harmonic mean of its ES, GS and LS.  Intervals are percentile intervals
(Efron and Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PARTS = ("efficacy", "generalization", "locality")
"""The parts of the Score: ES, GS, LS."""
FREE = (
    *(f"{what}{kind}" for kind in ("", "_generalization", "_portability")
      for what in ("free_exact", "free_f1", "free_contains", "judge")),
    "free_kept", "free_f1_locality", "judge_locality",
)  # fmt: skip
"""Metrics of answers that are written freely (`free_answers`), where they were asked for."""
GROUPED = (
    "portability",
    *(f"{what}_portability" for what in ("free_exact", "free_f1", "free_contains", "judge")),
)
"""Metrics that are also given by group, as ``METRIC/GROUP``, where a suite has several."""
MOST_GROUPS = 100
"""Where there are more, as with a name for each question, none has figures of its own."""
SHARES = (*PARTS, "greedy", "greedy_generalization", "greedy_locality", "portability", *FREE)
"""Metrics that are shares in [0, 1]; summaries have them in percent."""
MARGINS = ("margin", "margin_generalization", "margin_locality")
METRICS = (*SHARES, *MARGINS, "fluency")
JUDGED = (*PARTS, "greedy", "free_exact", "free_kept")
"""Metrics that decide whether a case got better or broke."""
SAMPLES = 1000
_CELLS = 1 << 22

Row = Mapping[str, Any]
"""A case record as JSON; a metric that is missing or None has no value in this case."""
Array = NDArray[np.float64]
Table = Mapping[str, tuple[Array, NDArray[np.bool_]]]
"""By metric: values (n,), 0 where a case has none, and which cases have one."""


@dataclass(frozen=True)
class Interval:
    """A mean over ``cases`` cases and its 95 % confidence interval.

    Shares and the Score are in percent, margins differences of probabilities, fluency bits.
    """

    value: float
    low: float
    high: float
    cases: int


@dataclass(frozen=True)
class Change:
    """A case that two versions answer differently: (before, after) by metric, as recorded."""

    id: str
    prompt: str
    metrics: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Comparison:
    """The second version against the first, over the same cases.

    ``differences`` are second minus first.  A case can be in both lists.
    """

    cases: int
    differences: dict[str, Interval]
    better: list[Change]
    broken: list[Change]


def summarise_cases(
    rows: Sequence[Row], seed: int = 0, samples: int = SAMPLES
) -> dict[str, Interval]:
    """Every metric that some case has, and ``score`` if all its parts are there."""
    found = _table(rows)
    means = _means(np.ones((1, len(rows))), found)
    resampled = _resampled(found, seed, samples)
    counts = {name: int(mask.sum()) for name, (_, mask) in found.items()}
    return _intervals(means, resampled, counts, len(rows))


def compare(
    before: Sequence[Row], after: Sequence[Row], seed: int = 0, samples: int = SAMPLES
) -> Comparison:
    """Two versions over the cases that both have, by ``id``, in the order of ``before``."""
    second = {row["id"]: row for row in after}
    # the same seed and number draw the same cases for both: resamples are of pairs
    pairs = [(row, second[row["id"]]) for row in before if row["id"] in second]
    if not pairs:
        return Comparison(0, {}, [], [])
    a, b = _table([pair[0] for pair in pairs]), _table([pair[1] for pair in pairs])
    shared = [name for name in a if name in b]
    a, b = {name: a[name] for name in shared}, {name: b[name] for name in shared}
    whole = np.ones((1, len(pairs)))
    means = _minus(_means(whole, b), _means(whole, a))
    resampled = _minus(_resampled(b, seed, samples), _resampled(a, seed, samples))
    counts = {name: int((a[name][1] & b[name][1]).sum()) for name in shared}
    return Comparison(
        len(pairs),
        _intervals(means, resampled, counts, len(pairs)),
        list(_changes(pairs, better=True)),
        list(_changes(pairs, better=False)),
    )


def _table(rows: Sequence[Row]) -> Table:
    """The metrics that any case has, and those by group where there are several groups."""
    found = {}
    for name in (*METRICS, *_by_group(rows)):
        given = [row.get(name) for row in rows]
        # (n,)
        mask = np.array([value is not None for value in given], dtype=bool)
        if mask.any():
            scale = 100.0 if name.partition("/")[0] in SHARES else 1.0
            values = [0.0 if value is None else scale * float(value) for value in given]
            found[name] = (np.array(values), mask)
    return found


def _by_group(rows: Sequence[Row]) -> list[str]:
    """Names of metrics by group, in the order of the groups in the rows."""
    there = dict.fromkeys(name for row in rows for name in row if "/" in name)
    found = []
    for metric in GROUPED:
        names = [name for name in there if name.startswith(f"{metric}/")]
        found += names if 1 < len(names) <= MOST_GROUPS else []
    return found


def _means(
    weights: Array, table: Mapping[str, tuple[Array, NDArray[np.bool_]]]
) -> dict[str, Array]:
    """Means by metric under each row of ``weights`` (samples, n); NaN where nothing weighs."""
    means: dict[str, Array] = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, (values, mask) in table.items():
            # (samples,): missing values are 0 above and weigh 0 below
            means[name] = (weights @ values) / (weights @ mask.astype(float))
        if all(name in means for name in PARTS):
            # (3, samples); their harmonic mean, 0 where one of them is 0
            parts = np.stack([means[name] for name in PARTS])
            means["score"] = np.where((parts > 0).all(0), len(PARTS) / (1 / parts).sum(0), 0.0)
            means["score"][np.isnan(parts).any(0)] = np.nan
    return means


def _resampled(table: Table, seed: int, samples: int) -> dict[str, Array]:
    """Means of ``samples`` resamples; the same seed draws the same cases."""
    n = next(iter(table.values()))[0].shape[0]
    drawn = [_means(weights, table) for weights in resamples(n, seed, samples)]
    return {name: np.concatenate([part[name] for part in drawn]) for name in drawn[0]}


def resamples(n: int, seed: int, samples: int = SAMPLES) -> Iterator[Array]:
    """How often each of ``n`` cases is drawn, in pieces (some samples, n) of ``samples`` rows.

    The same arguments give the same numbers: what is drawn for two versions are pairs.
    """
    random = np.random.default_rng(seed)
    together = max(1, _CELLS // n)
    for start in range(0, samples, together):
        count = min(together, samples - start)
        yield random.multinomial(n, np.full(n, 1 / n), size=count).astype(float)


def _minus(b: Mapping[str, Array], a: Mapping[str, Array]) -> dict[str, Array]:
    return {name: b[name] - a[name] for name in b}


def _intervals(
    means: Mapping[str, Array], resampled: Mapping[str, Array], counts: Mapping[str, int], n: int
) -> dict[str, Interval]:
    found = {}
    for name, value in means.items():
        low, high = np.nanpercentile(resampled[name], [2.5, 97.5])
        cases = counts.get(name, n)
        found[name] = Interval(float(value[0]), float(low), float(high), cases)
    return found


def _changes(pairs: Sequence[tuple[Row, Row]], better: bool) -> Iterator[Change]:
    for before, after in pairs:
        metrics: dict[str, tuple[float, float]] = {}
        for name in JUDGED:
            a, b = before.get(name), after.get(name)
            if a is not None and b is not None and (b > a if better else b < a):
                metrics[name] = (float(a), float(b))
        if metrics:
            yield Change(str(after["id"]), str(after.get("prompt", "")), metrics)
