"""The quality of the probe's proposal: ``python -m bench.editors.proposal``.

Edits 64 facts at a time, five disjoint draws of the bundled suite, with hyper-parameters from a
probe of the validation suite (which shares no subject) and with those that no probe proposed: the
``-paper`` preset's, found by a coordinate search.  (The other shipped presets are the proposal.)
Rows:

- ``auto``: what ``hparams: "auto"`` makes of the proposal;
- ``hand layers``: that preset's layers, the rest as the proposal has it;
- ``hand``: that preset, layers and all, which takes Adam's steps.

Prints Markdown and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jeep_core
from bench.editors.quality import SEED, draws, mean_summary, paired
from jeep_core import atlas
from jeep_core.editing import resolve_hparams
from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.evaluation.trials import Trials
from jeep_core.models.loading import texts_of
from jeep_core.moments.cache import Moments
from jeep_core.probe.defaults.choose import default_probe
from jeep_core.probe.defaults.from_record import hparams_for
from jeep_core.suites import load_counterfact
from jeep_core.values.prefixes import sample_prefixes

EDITS = 64
SETTINGS = ("auto", "hand layers", "hand")
COLUMNS = ("efficacy", "generalization", "locality", "score", "greedy",
           "greedy_generalization", "greedy_locality")  # fmt: skip


def measure(model: str, names: Sequence[str], n_draws: int) -> dict[str, Any]:
    """All figures of one model."""
    base = jeep_core.load(model)
    record = default_probe(base)
    by_hand = f"jeep-{model}-paper"
    hand = resolve_hparams(model, "jeep", by_hand, {}, base.n_layers, shape=base.shape)
    assert isinstance(hand, JeepHParams)
    layers = {name: {"layers": list(region.layers)} for name, region in hand.regions.items()}
    settings = {
        "auto": hparams_for(record, "jeep", base.n_layers, base.mlp_size),
        "hand layers": hparams_for(record, "jeep", base.n_layers, base.mlp_size, layers),
        "hand": hand,
    }
    chosen = draws(EDITS)[:n_draws]
    cases = list(load_counterfact("atlas-counterfact").cases)
    random.Random(SEED).shuffle(cases)
    cases = cases[: EDITS * len(chosen)]
    trials = Trials(base, cases, Moments(base, texts_of(atlas.CORPUS)), sample_prefixes(base, 6))
    report: dict[str, Any] = {"model": model, "settings": {}}
    results = {}
    for name in names:
        hparams = settings[name]
        results[name] = [trials.run("jeep", hparams, draw) for draw in chosen]
        values = trials.values("jeep", hparams)
        report["settings"][name] = {
            "hparams": hparams.model_dump(mode="json"),
            "draws": [asdict(result) for result in results[name]],
            "mean": mean_summary(results[name]),
            "mean_steps": float(values.steps.float().mean()) if values else None,
        }
        print(f"  {model} {name}: {report['settings'][name]['mean']['score']:.1f}", flush=True)
    for other in names:
        if other != "auto" and "auto" in results and len(chosen) == len(draws(EDITS)):
            report[f"auto_minus_{other}"] = paired(results["auto"], results[other])
    return report


def markdown(report: dict[str, Any]) -> str:
    """The table of one model."""
    lines = [
        f"**{report['model']}**",
        "",
        "| hyper-parameters | low | high | passes | ES | GS | LS | Score | writes the new answer "
        "| … to paraphrases | neighbors still answered |",
        "|---" * 11 + "|",
    ]
    for name, row in report["settings"].items():
        regions = [row["hparams"][region] for region in ("low", "high")]
        parts = [f"{r['layers']} γ {r['clamp']:g} λ {r['moment_weight']:g}" for r in regions]
        cells = [f"{row['mean'][column]:.1f}" for column in COLUMNS]
        steps = row["mean_steps"]  # not one number where the vectors are optimised one by one
        passes = "" if steps is None else f"{steps:.1f}"
        lines.append(f"| {' | '.join([name, *parts, passes, *cells])} |")
    for other in report["settings"]:
        if f"auto_minus_{other}" not in report:
            continue
        p = report[f"auto_minus_{other}"]
        each = ", ".join(f"{d:+.1f}" for d in p["differences"])
        lines += [
            "",
            f"auto minus {other}, Score: {p['mean']:+.1f} "
            f"(95 % interval {p['low']:+.1f} to {p['high']:+.1f}; {each}).",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=atlas.MODELS, default=list(atlas.MODELS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS)
    parser.add_argument("--draws", type=int, choices=range(1, 6), default=5)
    parser.add_argument("--out", type=Path, default=Path("bench/results/proposal.json"))
    args = parser.parse_args()
    reports = [measure(model, args.settings, args.draws) for model in args.models]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(reports, indent=1) + "\n")
    print("\n\n".join(markdown(report) for report in reports))


if __name__ == "__main__":
    main()
