"""ES/GS/LS/Score of the editors on the bundled suites: ``python -m bench.quality``.

Prints Markdown and writes JSON.  Cases are the first of the suite in a fixed random order.
For n edits the means are over disjoint draws: as many as 512 cases give, at most 16 of one
edit, 16 of 16 edits and five of 64.  The paired difference is over the five draws of 64.
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
from jeep_core.evaluation.metrics import Summary, counterfact_scores, harmonic_mean, summarise
from jeep_core.evaluation.suites import load_counterfact
from jeep_core.evaluation.trials import Trials
from jeep_core.loading import texts_of
from jeep_core.moments import Moments
from jeep_core.prefixes import sample_prefixes
from jeep_core.views import ModelView

EDITORS = ("memit", "jeep")
DRAWS = {1: 16, 16: 16, 64: 5, 256: 2, 512: 1}
SEED = 2025
T_975 = {4: 2.776}  # Student's t for five draws


def draws(n_edits: int) -> list[range]:
    """Disjoint ranges of case numbers."""
    return [range(i * n_edits, (i + 1) * n_edits) for i in range(DRAWS[n_edits])]


def measure(model: str, sizes: Sequence[int]) -> dict[str, Any]:
    """All figures of one model."""
    base = jeep_core.load(model)
    cases = list(load_counterfact("atlas-counterfact").cases)
    random.Random(SEED).shuffle(cases)
    used = max(n * DRAWS[n] for n in sizes)
    moments = Moments(base, texts_of(atlas.CORPUS))
    trials = Trials(base, cases[:used], moments, sample_prefixes(base, 6))
    unedited = summarise(counterfact_scores(ModelView(base), cases[:used]))
    report: dict[str, Any] = {"model": model, "unedited": asdict(unedited), "editors": {}}
    by_editor: dict[str, list[Summary]] = {}
    for editor in EDITORS:
        hparams = resolve_hparams(model, editor, None, {}, base.n_layers)
        began = time.monotonic()
        values = trials.values(editor, hparams)
        figures: dict[str, Any] = {
            "hparams": hparams.model_dump(mode="json"),
            "optimise_seconds_per_fact": (time.monotonic() - began) / used,
            "mean_steps": float(values.steps.float().mean()) if values else None,
            "edits": {},
        }
        for n in sizes:
            results = [trials.run(editor, hparams, draw) for draw in draws(n)]
            figures["edits"][n] = mean_summary(results)
            if n == 64:
                by_editor[editor] = results
            print(f"  {model} {editor} {n}: {figures['edits'][n]['score']:.1f}", flush=True)
        report["editors"][editor] = figures
    if by_editor:
        report["paired_64"] = paired(by_editor["jeep"], by_editor["memit"])
    return report


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
    sizes = next(iter(report["editors"].values()))["edits"]
    rows += [(str(n), e, report["editors"][e]["edits"][n]) for n in sizes for e in EDITORS]
    for n, editor, row in rows:
        cells = " | ".join(f"{row[column]:.1f}" for column in columns)
        lines.append(f"| {n} | {editor} | {cells} |")
    if "paired_64" in report:
        p = report["paired_64"]
        each = ", ".join(f"{d:+.1f}" for d in p["differences"])
        lines += [
            "",
            f"JEEP minus MEMIT at 64 edits, Score, five disjoint draws: {p['mean']:+.1f} "
            f"(95 % interval {p['low']:+.1f} to {p['high']:+.1f}; {each}).",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(atlas.MODELS))
    parser.add_argument("--edits", nargs="+", type=int, default=list(DRAWS))
    parser.add_argument("--out", type=Path, default=Path("bench/results/quality.json"))
    args = parser.parse_args()
    reports = [measure(model, args.edits) for model in args.models]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(reports, indent=1) + "\n")
    print("\n\n".join(markdown(report) for report in reports))


if __name__ == "__main__":
    main()
