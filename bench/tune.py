"""Hyper-parameters of the bundled presets: ``python -m bench.tune atlas-gptj jeep``.

Coordinate search over small grids on the validation suite: one hyper-parameter after the
other, the best so far kept, twice around.  Prints every setting tried.  The target is the mean
of Score and of the harmonic mean of the three greedy shares, so that "the model writes it"
counts beside "more probable than the old answer".
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from typing import Any

import jeep_core
from jeep_core import atlas
from jeep_core.editors import hparams_class
from jeep_core.errors import InvalidHParams, NumericalError
from jeep_core.evaluation.metrics import Summary, harmonic_mean
from jeep_core.evaluation.suites import load_counterfact
from jeep_core.evaluation.trials import Trials
from jeep_core.hparams import load_preset, merge, validate_hparams
from jeep_core.loading import texts_of
from jeep_core.moments import Moments
from jeep_core.prefixes import sample_prefixes

GRIDS: dict[str, dict[str, list[Any]]] = {
    "low.layers": {"both": [[0, 1], [0, 1, 2], [1], [1, 2], [1, 2, 3], [2, 3, 4]]},
    "low.clamp": {"both": [0.75, 1.0, 1.5, 2.5]},
    "low.moment_weight": {"both": [1, 3, 10, 30, 100]},
    "high.layers": {"jeep": [[5, 6], [6, 7], [5, 6, 7], [6], [7]]},
    "high.clamp": {"jeep": [0.15, 0.25, 0.4, 0.6]},
    "high.moment_weight": {"jeep": [1, 3, 10, 30, 100]},
}


def target(summary: Summary) -> float:
    """What is maximised."""
    greedy = [summary.greedy, summary.greedy_generalization, summary.greedy_locality]
    return (summary.score + harmonic_mean(greedy)) / 2


def nested(path: str, value: Any) -> dict[str, Any]:
    """``{"low": {"clamp": 1}}`` for ``low.clamp``."""
    region, _, name = path.partition(".")
    return {region: {name: value}}


def candidates(editor: str, rounds: int) -> Iterator[tuple[str, Any]]:
    """Changes to try, in order."""
    for _ in range(rounds):
        for path, grid in GRIDS.items():
            for value in grid.get(editor, []) + grid.get("both", []):
                yield path, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=list(atlas.MODELS))
    parser.add_argument("editor", choices=("jeep", "memit"))
    parser.add_argument("--cases", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    base = jeep_core.load(args.model)
    cases = list(load_counterfact("atlas-counterfact-validation").cases)
    random.Random(0).shuffle(cases)
    moments = Moments(base, texts_of(atlas.CORPUS))
    trials = Trials(base, cases[: args.cases], moments, sample_prefixes(base, 6))
    best = load_preset(f"{args.editor}-{args.model}").hparams
    best_value, seen = -1.0, set()
    began = time.monotonic()
    for path, value in [("low.clamp", best["low"]["clamp"]), *candidates(args.editor, args.rounds)]:
        trial = merge(best, nested(path, value))
        if repr(trial) in seen:
            continue
        seen.add(repr(trial))
        try:
            checked = validate_hparams(hparams_class(args.editor), trial, base.n_layers)
            summary = trials.run(args.editor, checked, range(args.cases))
        except (InvalidHParams, NumericalError) as error:
            print(f"{path}={value}: {error}", flush=True)
            continue
        reached = target(summary)
        mark = "*" if reached > best_value else " "
        print(
            f"{mark} {path}={value}: target {reached:.2f} Score {summary.score:.1f} "
            f"ES {summary.efficacy:.1f} GS {summary.generalization:.1f} LS {summary.locality:.1f} "
            f"greedy {summary.greedy:.0f}/{summary.greedy_generalization:.0f}"
            f"/{summary.greedy_locality:.0f} ({time.monotonic() - began:.0f} s)",
            flush=True,
        )
        if reached > best_value:
            best, best_value = trial, reached
    print("best", best)


if __name__ == "__main__":
    main()
