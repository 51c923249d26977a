"""How long edits last: batch after batch on one model: ``python -m bench.editors.lasting``.

N batches of k facts are edited one after the other, each on the version before.  After every
batch: what is left of batch 1 and what the new batch reached when written; after the first one,
every ``--every`` batches and the last one also locality of batch 1 and perplexity of held-out lines
that name no edited subject; at the end the scores of all facts.  Runs are added to the JSON file;
``--draw`` makes the plot from it.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import jeep_core
from bench.editors.lasting_report import draw, markdown
from bench.editors.quality import of_paper
from jeep_core import atlas
from jeep_core.editing import resolve_hparams, tokenize
from jeep_core.editors import create
from jeep_core.editors.base import EditContext
from jeep_core.evaluation.metrics import counterfact_scores, summarise
from jeep_core.evaluation.perplexity import perplexity
from jeep_core.models.loading import LoadedModel, texts_of
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import EditorHParams
from jeep_core.suites import load_counterfact
from jeep_core.values.prefixes import sample_prefixes

SEED = 2025
LINES = 120
"""Held-out lines that perplexity is taken over."""


@dataclass(frozen=True)
class Course:
    """The edits of a run: ``batches`` of ``size`` cases, and the lines that name none of them."""

    batches: list[list[Fact]]
    lines: list[str]

    @classmethod
    def of(cls, suite: str, n: int, size: int, number: int) -> Course:
        """The ``number``-th disjoint draw from a suite."""
        cases = list(load_counterfact(suite).cases)
        random.Random(SEED).shuffle(cases)
        chosen = cases[number * n * size : (number + 1) * n * size]
        if len(chosen) < n * size:
            raise SystemExit(f"{suite} has no draw {number} of {n} x {size} cases")
        subjects = [case.subject for case in chosen]
        lines = [t for t in texts_of(atlas.HELDOUT) if not any(s in t for s in subjects)]
        batches = [list[Fact](chosen[i : i + size]) for i in range(0, len(chosen), size)]
        return cls(batches, lines[:LINES])


class Lineage:
    """A version that grows batch by batch, with the keys of all its edits."""

    def __init__(self, base: LoadedModel, moments: Moments, hparams: EditorHParams) -> None:
        self.view, self._moments, self._hparams = ModelView(base), moments, hparams
        self._prefixes = sample_prefixes(base, hparams.prefix_count)
        self._keys: dict[tuple[str, int], torch.Tensor] = {}
        moments.ensure(hparams.moment_layers)

    def edit(self, editor: str, facts: Sequence[Fact]) -> dict[str, Any]:
        """Edit one batch on top; how it went."""
        rows = tokenize(self.view.base, facts, self._prefixes)
        context = EditContext(self.view, rows, self._moments, dict(self._keys))
        began = time.monotonic()
        outcome = create(editor).run(context, self._hparams)
        for place, keys in outcome.keys.items():
            known = self._keys.get(place)
            self._keys[place] = keys if known is None else torch.cat([known, keys])
        values = outcome.values
        return {
            "seconds": round(time.monotonic() - began, 2),
            "steps": float(values.steps.float().mean()) if values else None,
            "relative_norms": [round(layer.relative_norm, 5) for layer in outcome.layers],
        }

    def moved(self) -> float:
        """The largest ‖ΣΔ‖/‖W_base‖ over the edited matrices."""
        base = self.view.base.model
        return max(
            float((new.double() - base.get_parameter(name).double()).norm())
            / float(base.get_parameter(name).double().norm())
            for name, new in self.view.replaced.items()
        )


def measured(view: ModelView, cases: Sequence[Fact], neighbors: bool = False) -> dict[str, float]:
    """Mean scores of these cases, in percent; without ``neighbors`` their prompts are not run."""
    if not neighbors:
        cases = [replace(case, neighborhood_prompts=()) for case in cases]
    found = asdict(summarise(counterfact_scores(view, cases)))
    left_out = () if neighbors else ("locality", "greedy_locality", "score")
    return {key: round(value, 2) for key, value in found.items() if key not in left_out}


def follow(
    base: LoadedModel,
    moments: Moments,
    course: Course,
    editor: str,
    hparams: EditorHParams,
    every: int,
) -> list[dict[str, Any]]:
    """One record per batch, the unedited model first."""
    lineage, first = Lineage(base, moments, hparams), course.batches[0]
    unedited = perplexity(lineage.view, course.lines)
    records: list[dict[str, Any]] = [{"batch": 0, "perplexity": unedited}]
    for n, batch in enumerate(course.batches, start=1):
        record = {"batch": n, **lineage.edit(editor, batch)}
        record["written"] = measured(lineage.view, batch)
        now = n == 1 or n % every == 0 or n == len(course.batches)
        record["first"] = measured(lineage.view, first, neighbors=now)
        if now:
            record["perplexity"] = perplexity(lineage.view, course.lines)
            record["moved"] = lineage.moved()
        records.append(record)
    every_case = [case for done in course.batches for case in done]
    records[-1]["all"] = measured(lineage.view, every_case, neighbors=True)
    return records


def run(args: argparse.Namespace, model: str, editor: str) -> None:
    """Run all draws of one editor on one model, with and without preservation, into the file."""
    base = jeep_core.load(model)
    moments = Moments(base, texts_of(atlas.CORPUS))
    n, size = args.batches
    for preserve in args.preserve:
        changes: Mapping[str, Any] = json.loads(args.set)
        if not preserve:
            changes = {**changes, "preserve_previous_edits": False}
        preset = args.preset or (of_paper(base, editor) if args.paper else None)
        hparams = resolve_hparams(model, editor, preset, changes, base.n_layers, shape=base.shape)
        for number in args.draws:
            course = Course.of(args.suite, n, size, number)
            records = follow(base, moments, course, editor, hparams, args.every)
            found = {
                "model": model,
                "editor": editor,
                "label": args.label or args.preset or editor,
                "preserve": preserve,
                "suite": args.suite,
                "batches": n,
                "size": size,
                "draw": number,
                "lines": len(course.lines),
                "hparams": hparams.model_dump(mode="json"),
                "records": records,
            }
            add(args.out, found)
            print(line(found), flush=True)


def line(found: Mapping[str, Any]) -> str:
    """One run in one line."""
    records = found["records"]
    last, begin = records[-1], records[0]["perplexity"]
    written = [record["written"]["efficacy"] for record in records[1:]]
    return (
        f"{found['model']} {found['label']} {found['batches']}x{found['size']} "
        f"{'kept' if found['preserve'] else 'not kept'} draw {found['draw']}: batch 1 "
        f"{records[1]['first']['efficacy']:.0f}/{records[1]['first']['greedy']:.0f} -> "
        f"{last['first']['efficacy']:.0f}/{last['first']['greedy']:.0f}; written "
        f"{sum(written) / len(written):.1f}; all {last['all']['efficacy']:.1f}/"
        f"{last['all']['generalization']:.1f}/{last['all']['locality']:.1f} greedy "
        f"{last['all']['greedy']:.1f}/{last['all']['greedy_locality']:.1f}; perplexity x"
        f"{last['perplexity'] / begin:.3f}; moved {last['moved']:.3f}"
    )


def add(path: Path, found: Mapping[str, Any]) -> None:
    """Put a run into the file, in place of an older one of the same kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else []
    kept = [other for other in known if kind(other) != kind(found)]
    path.write_text(json.dumps(sorted([*kept, found], key=kind), indent=None) + "\n")


def kind(found: Mapping[str, Any]) -> tuple[Any, ...]:
    """The fields that distinguish runs."""
    names = ("suite", "batches", "size", "model", "editor", "label", "preserve", "draw")
    return tuple(found[name] for name in names)


def _course_of(text: str) -> tuple[int, int]:
    """``32x4``."""
    n, _, size = text.partition("x")
    return int(n), int(size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(atlas.MODELS))
    parser.add_argument("--editors", nargs="+", default=["jeep", "memit"])
    parser.add_argument("--batches", type=_course_of, default=(32, 4), help="32x4")
    parser.add_argument("--draws", type=int, nargs="+", default=[0])
    parser.add_argument("--preserve", type=int, nargs="+", default=[1, 0])
    parser.add_argument("--suite", default="atlas-counterfact")
    parser.add_argument("--preset")
    parser.add_argument("--paper", action="store_true", help="-paper presets where there are any")
    parser.add_argument("--set", default="{}", help="JSON laid over the preset")
    parser.add_argument("--label", help="how the runs are called; default: preset or editor")
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("bench/results/lasting.json"))
    parser.add_argument("--draw", type=Path, help="only print the tables and make this plot")
    args = parser.parse_args()
    if args.draw:
        runs = json.loads(args.out.read_text())
        draw(runs, args.draw)
        print(markdown(runs))
        return
    for model in args.models:
        for editor in args.editors:
            run(args, model, editor)


if __name__ == "__main__":
    main()
