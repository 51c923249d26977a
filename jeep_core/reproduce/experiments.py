"""The paper's experiments as sets of runs: tables 2 to 4, figures 4 and 6.

Every experiment names its cells (one row of a table, one point of a curve) and the runs of
each.  What several experiments need is run once.  The figures of a cell are means over all cases
of its runs with 95 % bootstrap intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, log
from operator import attrgetter
from typing import Any

from jeep_core.editors import hparams_class, in_order, record_of
from jeep_core.evaluation.statistics import summarise_cases
from jeep_core.reproduce.paper import OURS
from jeep_core.reproduce.runs import UNEDITED, Row, Run, Setting
from jeep_core.spec.hparams import merge, nested, validate_hparams

PARTS = ("score", "efficacy", "generalization", "locality", "greedy")
CURVE_POINTS = 16
CURVE_CASES = 32
"""Cases per point of the curve, in disjoint draws, where one draw has fewer."""
TABLE_CASES = 64
"""The same for a row of the comparison, per seed."""
MOST_DRAWS = 16
SWEEP_FACTORS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Plan:
    """The plan of a report.

    ``settings``: editors by name, the one that the paper proposes among them; ``contrast`` and
    ``accuracy``: names of suites with new against true answers and with right answers, as far as
    given; ``most``: M.
    """

    settings: Mapping[str, Setting]
    n_layers: int
    most: int
    sizes: Sequence[int]
    seeds: Sequence[int]
    contrast: str | None
    accuracy: str | None

    @property
    def main(self) -> str:
        """The suite of the curve, the ablation and the sweep."""
        return str(self.contrast or self.accuracy)


@dataclass(frozen=True)
class Cell:
    """One row or point: its labels and its runs."""

    labels: Mapping[str, Any]
    runs: Sequence[Run]

    def figures(self, rows: Mapping[Run, Sequence[Row]]) -> dict[str, Any]:
        """Its labels and, by metric, value and interval in percent."""
        together = [row for run in self.runs for row in rows[run]]
        found = summarise_cases(together)
        metrics = {name: asdict(found[name]) for name in PARTS if name in found}
        return {**self.labels, "cases": len(together), "metrics": metrics}


def draws(n_edits: int, most: int, cases: int) -> list[range]:
    """Disjoint draws of ``n_edits`` cases: as many as it takes for ``cases`` cases, at most 16."""
    count = min(most // n_edits, MOST_DRAWS, max(1, -(-cases // n_edits)))
    return [range(i * n_edits, (i + 1) * n_edits) for i in range(count)]


def comparison(plan: Plan) -> Iterator[Cell]:
    """Tables 2 and 3: every editor and the unedited model, on both suites."""
    for suite in filter(None, (plan.contrast, plan.accuracy)):
        for n in plan.sizes:
            places = [
                (seed, draw) for seed in plan.seeds for draw in draws(n, plan.most, TABLE_CASES)
            ]
            for name, setting in {"unedited": UNEDITED, **plan.settings}.items():
                runs = [Run(suite, seed, setting, draw) for seed, draw in places]
                yield Cell({"suite": suite, "edits": n, "editor": name}, runs)


def curve(plan: Plan) -> Iterator[Cell]:
    """Figure 4: m_i = exp(ln(M) · i / 16), for the editors of many facts at once."""
    shown = [name for name in in_order() if name in plan.settings and record_of(name).many_facts]
    sizes = [exp(log(plan.most) * i / CURVE_POINTS) for i in range(CURVE_POINTS + 1)]
    for n in dict.fromkeys(round(size) for size in sizes):
        for name in shown:
            places = draws(n, plan.most, CURVE_CASES)
            runs = [Run(plan.main, plan.seeds[0], plan.settings[name], draw) for draw in places]
            yield Cell({"suite": plan.main, "edits": n, "editor": name}, runs)


def ablation(plan: Plan) -> Iterator[Cell]:
    """Table 4: the parts of the editor that the paper proposes."""
    for name, changes in record_of(OURS).ablation.items():
        setting = changed(plan.settings[OURS], changes, plan.n_layers)
        runs = [Run(plan.main, seed, setting, range(plan.most)) for seed in plan.seeds]
        yield Cell({"suite": plan.main, "edits": plan.most, "variant": name}, runs)


def sweep(plan: Plan) -> Iterator[Cell]:
    """Figure 6: one hyper-parameter of the editor that the paper proposes, around the preset's."""
    ours, path = plan.settings[OURS], record_of(OURS).sweep
    assert path is not None
    name = path.rpartition(".")[2]
    for factor in SWEEP_FACTORS:
        value = round(attrgetter(path)(ours.hparams) * factor, 6)
        setting = changed(ours, nested(path, value), plan.n_layers)
        runs = [Run(plan.main, plan.seeds[0], setting, range(plan.most))]
        yield Cell({"suite": plan.main, "edits": plan.most, name: value}, runs)


EXPERIMENTS: Mapping[str, Callable[[Plan], Iterator[Cell]]] = {
    "comparison": comparison,
    "scaling": curve,
    "ablation": ablation,
    "sweep": sweep,
}


def changed(setting: Setting, changes: Mapping[str, Any], n_layers: int) -> Setting:
    """The same editor with some hyper-parameters changed."""
    assert setting.hparams is not None
    values = merge(setting.hparams.model_dump(mode="json"), changes)
    hparams = validate_hparams(hparams_class(setting.editor), values, n_layers)
    return Setting(setting.editor, hparams, setting.preset)
