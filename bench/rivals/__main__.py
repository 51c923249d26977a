"""The authors' code of MEMIT and JEEP against ours: ``python -m bench.rivals``.

Facts of a suite are edited in one batch by the code of the methods' authors, from checkouts that
are given, and by this project's editors with what ``hparams: "auto"`` chooses.  All versions are
asked the same by this project's protocols: ES, GS, LS and Score with their 95 % intervals over
cases, the difference of Scores, and CPU seconds a fact.  What had to be adapted for the authors'
code to run is in docs/comparison.md.

    python -m bench.rivals FOLDER --suite FILE --checkout-memit DIR --checkout-jeep DIR
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import jeep_core
from bench.editors.real import Rows, against, by_default, line, rows_of
from bench.rivals.methods import METHODS, Run
from jeep_core.evaluation.free_answers import FreeText, neighbors_of, write_freely
from jeep_core.evaluation.metrics import counterfact_scores
from jeep_core.evaluation.trials import Trials
from jeep_core.models.views import ModelView
from jeep_core.probe.defaults.from_record import from_record
from jeep_core.suites import load_suite
from jeep_core.values.cache import ValueCache

COLUMNS = "exact | contains | rephrasing contains | neighbor kept | perplexity | CPU s a fact"
SETTINGS = {"published": False, "our λ": True}


def compared(
    name: str,
    checkout: Path,
    trials: Trials,
    record: Mapping[str, Any],
    before: Mapping[str, FreeText] | None,
    work: Path,
) -> dict[str, Any]:
    """Our editor and the authors' on all cases together: rows and seconds a fact by name.

    ``before``: the free answers of the unedited model, None if none are wanted.
    """
    base, count = trials.base, len(trials.cases)
    changes = {"contexts": "plain"}
    chosen = from_record(record, name, base.n_layers, base.mlp_size, changes, "probe now")
    hparams = chosen.hparams
    trials.moments.ensure(hparams.moment_layers)
    began = time.process_time()
    view, _ = trials.edit(name, hparams, range(count))
    seconds = time.process_time() - began

    def found(view: ModelView, seconds: float | None) -> dict[str, Any]:
        rows = scored(view, trials.cases, before)
        return {"rows": rows, "perplexity": None, "seconds": seconds}

    report = {name: found(view, seconds / count)}
    print(line(name, count, report[name]), flush=True)
    run = Run(name, checkout, base, work)
    for setting, own_weight in SETTINGS.items():
        edited = run.edit(trials.cases, trials.moments, hparams, own_weight)
        theirs = found(edited.view, edited.seconds)
        report[f"{name}, authors, {setting}"] = theirs
        print(line(f"{name}, authors, {setting}", count, theirs), flush=True)
    return report


def scored(view: ModelView, cases: Any, before: Mapping[str, FreeText] | None) -> Rows:
    """Scores of cases on a version, with its free answers if those of the base are given."""
    if before is not None:
        return rows_of(view, cases, before)
    return [{"id": str(i), **asdict(one)} for i, one in enumerate(counterfact_scores(view, cases))]


def closing(name: str, report: Mapping[str, Any]) -> list[str]:
    """Differences of Scores and the ratio of times, in words."""
    said = []
    for setting in SETTINGS:
        other = f"{name}, authors, {setting}"
        gap = against(report[name]["rows"], report[other]["rows"])
        said.append(f"Score of {name} minus {other}: {gap}")
    theirs, own = report[f"{name}, authors, published"]["seconds"], report[name]["seconds"]
    if theirs is not None:
        ratio = f"{theirs:.2f} s of CPU a fact against {own:.2f}, {theirs / own:.1f} times"
        said.append(f"{name}: {ratio}")
    return said


def main() -> None:
    """Measure, print, and write all figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--half", type=int, choices=(0, 1), default=1)
    parser.add_argument("--facts", type=int, default=32)
    for name in METHODS:
        parser.add_argument(f"--checkout-{name}", type=Path, help="A checkout of its code.")
    parser.add_argument("--free", action="store_true", help="Write free answers, too.")
    parser.add_argument("--folder", type=Path, help="Where moments and probes are kept.")
    parser.add_argument("--work", type=Path, help="Where the authors' code writes and goes on.")
    parser.add_argument("--out", type=Path, default=Path("rivals.json"))
    args = parser.parse_args()
    given = {name: getattr(args, f"checkout_{name}") for name in METHODS}
    if not any(given.values()):
        parser.error("give --checkout-memit or --checkout-jeep, the folder of their code")
    base = jeep_core.load(args.model)
    cases = load_suite(args.suite).cases[args.half :: 2][: args.facts]
    trials, source, record = by_default(base, cases, args.folder)
    # every edit optimises its own values: time counts
    trials.cache = ValueCache()
    print(f"{base.name}, {len(cases)} facts, layers: {source}, {torch.get_num_threads()} threads")
    print(f"| facts | | ES | GS | LS | Score | {COLUMNS} |")
    print("|---" * 12 + "|")
    written = write_freely(ModelView(base), neighbors_of(cases)) if args.free else None
    unedited = {"rows": scored(ModelView(base), cases, written), "perplexity": None}
    print(line("unedited", 0, unedited), flush=True)
    report: dict[str, Any] = {"model": base.name, "unedited": unedited}
    with tempfile.TemporaryDirectory() as temporary:
        for name, checkout in given.items():
            if checkout is None:
                continue
            work = args.work or Path(temporary)
            report |= compared(name, checkout, trials, record, written, work)
            print("\n".join(closing(name, report)), flush=True)
            args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
