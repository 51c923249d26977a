"""ES/GS/LS/Score of the editors on the bundled suites: ``python -m bench.editors.quality``.

Prints Markdown and writes JSON.  Cases are the first of the suite in a fixed random order.
For n edits the means are over disjoint draws: as many as 512 cases give, at most 16 of one
edit, 16 of 16 edits and five of 64.  Paired differences are over the five draws of 64.  Optimised
values are kept in ``--values`` and serve all sizes, all editors that share them, and later runs.
Hyper-parameters are the presets'; with ``--paper`` the ``-paper`` ones' where an editor has one.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jeep_core
from jeep_core import atlas
from jeep_core.editing import resolve_hparams
from jeep_core.editors import in_order
from jeep_core.errors import InvalidHParams
from jeep_core.evaluation.metrics import Summary, counterfact_scores, harmonic_mean, summarise
from jeep_core.evaluation.trials import Trials
from jeep_core.models.loading import LoadedModel, texts_of
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.spec.hparams import OptimisedEditorHParams, presets_for
from jeep_core.suites import load_counterfact
from jeep_core.values.cache import ValueCache
from jeep_core.values.prefixes import sample_prefixes

DRAWS = {1: 16, 16: 16, 64: 5, 256: 2, 512: 1}
SIZES = (1, 16, 64, 256)
PAIRED = 64
SEED = 2025
T_975 = {4: 2.776}  # Student's t for five draws


def draws(n_edits: int) -> list[range]:
    """Disjoint ranges of case numbers."""
    return [range(i * n_edits, (i + 1) * n_edits) for i in range(DRAWS[n_edits])]


def of_paper(base: LoadedModel, editor: str) -> str | None:
    """The preset of a bundled model that keeps the paper's optimiser and rate, if there is one."""
    name = f"{editor}-{base.name}-paper"
    return name if name in {one.name for one in presets_for(base.name, shape=base.shape)} else None


def measure(
    model: str,
    editors: Sequence[str],
    sizes: Sequence[int],
    values: Path | None,
    paper: bool = False,
) -> dict[str, Any]:
    """All figures of one model; ``values`` is the folder where optimised ones are kept."""
    base = jeep_core.load(model)
    cases = list(load_counterfact("atlas-counterfact").cases)
    random.Random(SEED).shuffle(cases)
    used = cases[: max(n * DRAWS[n] for n in sizes)]
    moments = Moments(base, texts_of(atlas.CORPUS))
    trials = Trials(base, used, moments, sample_prefixes(base, 6), cache=ValueCache(values))
    unedited = summarise(counterfact_scores(ModelView(base), used))
    report: dict[str, Any] = {"model": model, "unedited": asdict(unedited), "editors": {}}
    for editor in editors:
        try:
            preset = of_paper(base, editor) if paper else None
            report["editors"][editor] = measure_editor(trials, editor, sizes, preset)
        except InvalidHParams as error:  # no trained network
            print(f"  {model} {editor}: left out, {error}", flush=True)
    at_paired = {e: figures.pop("paired", None) for e, figures in report["editors"].items()}
    if at_paired.get("jeep"):
        report[f"paired_{PAIRED}"] = {
            other: paired(at_paired["jeep"], theirs)
            for other, theirs in at_paired.items()
            if other != "jeep"
        }
    return report


def measure_editor(
    trials: Trials, editor: str, sizes: Sequence[int], preset: str | None = None
) -> dict[str, Any]:
    """The figures of one editor by number of edits, with its usual preset if none is named.

    Raises:
        InvalidHParams: the editor needs a trained network, and there is none.
    """
    base = trials.base
    hparams = resolve_hparams(base.name, editor, preset, {}, base.n_layers, shape=base.shape)
    began = time.monotonic()
    values = None
    if isinstance(hparams, OptimisedEditorHParams):
        values = trials.values(editor, hparams)
    figures: dict[str, Any] = {
        "hparams": hparams.model_dump(mode="json"),
        "optimise_seconds_per_fact": (time.monotonic() - began) / len(trials.cases),
        "mean_steps": float(values.steps.float().mean()) if values else None,
        "edits": {},
    }
    for n in sizes:
        results = [trials.run(editor, hparams, draw) for draw in draws(n)]
        figures["edits"][n] = mean_summary(results)
        if n == PAIRED:
            figures["paired"] = results
        seconds = time.monotonic() - began
        score = figures["edits"][n]["score"]
        print(f"  {base.name} {editor} {n}: {score:.1f} after {seconds:.0f} s", flush=True)
    return figures


def mean_summary(results: Sequence[Summary]) -> dict[str, float]:
    """Means over draws; the Score is that of the mean ES, GS and LS."""
    rows = [asdict(result) for result in results]
    means = {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
    parts = (means["efficacy"], means["generalization"], means["locality"])
    return {**means, "score": harmonic_mean(parts)}


def paired(ours: Sequence[Summary], theirs: Sequence[Summary]) -> dict[str, Any]:
    """Difference of Score per draw, its mean and 95 % interval (Student's t)."""
    differences = [a.score - b.score for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(differences)
    half = T_975[len(differences) - 1] * statistics.stdev(differences) / len(differences) ** 0.5
    return {
        "differences": differences,
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
    }


def markdown(report: dict[str, Any]) -> str:
    """The table of one model."""
    lines = [
        f"**{report['model']}**, Multi-CounterFact format, means over draws",
        "",
        "| edits | editor | ES | GS | LS | Score | writes the new answer | … to paraphrases "
        "| neighbors still answered |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    columns = ("efficacy", "generalization", "locality", "score", "greedy",
               "greedy_generalization", "greedy_locality")  # fmt: skip
    rows = [("0", "unedited", report["unedited"])]
    # every editor has the same sizes; all of them may have been left out
    for n in next(iter(report["editors"].values()), {"edits": ()})["edits"]:
        rows += [(str(n), e, figures["edits"][n]) for e, figures in report["editors"].items()]
    for n, editor, row in rows:
        cells = " | ".join(f"{row[column]:.1f}" for column in columns)
        lines.append(f"| {n} | {editor} | {cells} |")
    for other, p in report.get(f"paired_{PAIRED}", {}).items():
        each = ", ".join(f"{d:+.1f}" for d in p["differences"])
        lines += [
            "",
            f"JEEP minus {other} at {PAIRED} edits, Score, five disjoint draws: {p['mean']:+.1f} "
            f"(95 % interval {p['low']:+.1f} to {p['high']:+.1f}; {each}).",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(atlas.MODELS))
    parser.add_argument("--editors", nargs="+", default=in_order(), choices=in_order())
    parser.add_argument("--edits", nargs="+", type=int, default=list(SIZES), choices=list(DRAWS))
    parser.add_argument("--paper", action="store_true", help="-paper presets where there are any")
    parser.add_argument("--values", type=Path, default=Path("bench/results/values"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/quality.json"))
    args = parser.parse_args()
    reports = []
    for model in args.models:
        reports.append(measure(model, args.editors, args.edits, args.values, args.paper))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(reports, indent=1) + "\n")
    print("\n\n".join(markdown(report) for report in reports))


if __name__ == "__main__":
    main()
