"""Editors with default hyper-parameters on a model of others: ``python -m bench.editors.real``.

Facts of a suite are edited 1, 16, 64 and 256 at a time with what ``hparams: "auto"`` chooses, and
asked again: ES, GS, LS and Score, each with its 95 % interval over cases, and what the model writes
freely: whether its first sentence after prompts and rephrasings is the new answer or contains it,
and whether its answers to neighbors are those of the unedited model.  The report has the protocol
of every figure.
``--half`` takes every second record: choose on the one half, report on the other.

    python -m bench.editors.real FOLDER --suite FILE --half 1 --editors jeep memit --sizes 1 16 64
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import jeep_core
from jeep_core.evaluation.free_answers import (
    TOKENS,
    FreeText,
    free_scores,
    measure_freely,
    neighbors_of,
    write_freely,
)
from jeep_core.evaluation.metrics import counterfact_scores
from jeep_core.evaluation.perplexity import perplexity
from jeep_core.evaluation.protocols import Setting, protocols
from jeep_core.evaluation.statistics import Interval, compare, summarise_cases
from jeep_core.evaluation.trials import Trials
from jeep_core.models.loading import LoadedModel, texts_of
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments, quick_products
from jeep_core.moments.source import DEFAULT_CORPUS, samples_of
from jeep_core.probe.defaults.choose import choose
from jeep_core.probe.defaults.from_record import hparams_for
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import EditorHParams
from jeep_core.suites import Case, Style, load_suite
from jeep_core.text.chat import has_template
from jeep_core.values.cache import ValueCache
from jeep_core.values.prefixes import sample_prefixes

DRAWS = {1: 16, 10: 4, 16: 4, 64: 1, 256: 1}
FREE = ("free_exact", "free_contains", "free_contains_generalization", "free_kept")
SHOWN = ("efficacy", "generalization", "locality", "score", *FREE)
Rows = list[dict[str, Any]]


def by_default(
    base: LoadedModel, cases: Sequence[Case], folder: Path | None
) -> tuple[Trials, str, dict[str, Any]]:
    """Trials as an edit without hyper-parameters would be made, and the probe's source and record.

    ``folder``: where moments, probes and values are kept.
    """
    chosen, record = choose(base, "jeep", folder=folder and folder / "probes")
    moments = Moments(
        base,
        texts_of(DEFAULT_CORPUS),
        samples_of(base.name, None, base.mlp_size),
        folder and folder / "moments",
        bfloat16=quick_products(base, None),
    )
    cache = ValueCache(folder and folder / "values")
    trials = Trials(base, cases, moments, sample_prefixes(base, 6), cache=cache)
    return trials, chosen.source, record


def take_prefixes(trials: Trials, hparams: EditorHParams) -> None:
    """Sample more prefixes where these hyper-parameters ask for more than there are.

    The first ones stay the same.
    """
    if len(trials.prefixes) < hparams.prefix_count:
        trials.prefixes = sample_prefixes(trials.base, hparams.prefix_count)


def prepare(trials: Trials, hparams: EditorHParams) -> None:
    """Have the prefixes and second moments that an edit needs; its time is to be its own."""
    take_prefixes(trials, hparams)
    trials.moments.ensure(hparams.moment_layers)


def rows_of(
    view: ModelView, cases: Sequence[Case], before: Mapping[str, FreeText] | None, start: int = 0
) -> Rows:
    """Scores of cases on a version, as rows with the number of their case.

    ``before``: the free answers of the unedited model to all neighbors; None: nothing is asked
    for freely written answers.
    """
    if before is None:
        scored = enumerate(counterfact_scores(view, cases))
        return [{"id": str(start + i), **asdict(shown)} for i, shown in scored]
    pairs = zip(counterfact_scores(view, cases), measure_freely(view, cases, before), strict=True)
    return [
        {"id": str(start + i), **asdict(shown), **free_scores(written)}
        for i, (shown, written) in enumerate(pairs)
    ]


class Edits(Protocol):
    """A maker of versions of its ``cases``, by their numbers."""

    @property
    def cases(self) -> Sequence[Fact]:
        """All of them."""
        ...

    def edit(self, editor: str, hparams: Any, index: Sequence[int]) -> tuple[ModelView, Any]:
        """A version in which the cases of these numbers are edited."""
        ...


def measure(
    trials: Edits,
    editor: str,
    hparams: Any,
    size: int,
    texts: Sequence[str],
    before: Mapping[str, FreeText] | None,
) -> dict[str, Any]:
    """Disjoint draws of ``size`` facts; time is that of editing, in CPU seconds a fact.

    The first edit optimises the values of all cases together, those of further draws included,
    unless they were kept.
    ``peak_bytes`` is the most that this process has held up to the end of its first edit.
    """
    rows: Rows = []
    seconds, texts_after, peak = 0.0, list[float](), 0
    draws = min(DRAWS.get(size, 1), len(trials.cases) // size)
    for draw in range(draws):
        start, began = draw * size, time.process_time()
        view, _ = trials.edit(editor, hparams, range(start, start + size))
        seconds += time.process_time() - began
        peak = peak or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        cases = [one for one in trials.cases[start : start + size] if isinstance(one, Case)]
        rows += rows_of(view, cases, before, start)
        if texts and draw == 0:
            texts_after.append(perplexity(view, texts))
    return {
        "rows": rows,
        "draws": draws,
        "seconds": seconds / (draws * size),
        "peak_bytes": peak,
        "perplexity": texts_after[0] if texts_after else None,
    }


def line(name: str, size: int, found: Mapping[str, Any]) -> str:
    """A row of the table."""
    shown: Mapping[str, Interval] = summarise_cases(found["rows"])
    cells = [
        f"{shown[n].value:.1f} ({shown[n].low:.0f}–{shown[n].high:.0f})" if n in shown else ""
        for n in SHOWN
    ]
    ppl = "" if found["perplexity"] is None else f"{found['perplexity']:.1f}"
    spent = "" if found.get("seconds") is None else f"{found['seconds']:.2f}"
    return f"| {size or ''} | {name} | {' | '.join(cells)} | {ppl} | {spent} |"


def against(first: Rows, other: Rows) -> str:
    """The difference of two editors' Scores over the same cases, with its interval."""
    score = compare(other, first).differences.get("score")
    return "" if score is None else f"{score.value:+.1f} ({score.low:+.1f} to {score.high:+.1f})"


def main() -> None:
    """Measure, print the table as it grows, and write all figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--half", type=int, choices=(0, 1), default=0)
    parser.add_argument("--editors", nargs="+", default=["jeep", "memit"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--hparams", type=json.loads, default={"contexts": "plain"})
    parser.add_argument("--records", type=int, help="to draw from; default: the largest size")
    parser.add_argument("--no-free", action="store_true", help="Ask for no free answers.")
    parser.add_argument("--texts", type=Path, help="JSON list of texts for the perplexity")
    parser.add_argument("--folder", type=Path, help="Where moments, probes and values are kept.")
    parser.add_argument("--out", type=Path, default=Path("real.json"))
    args = parser.parse_args()
    base = jeep_core.load(args.model)
    records = args.records or max(args.sizes)
    cases = load_suite(args.suite).cases[args.half :: 2][:records]
    texts = json.loads(args.texts.read_text()) if args.texts else []
    # records of any keys: the text is the longest of their values
    texts = [one if isinstance(one, str) else max(one.values(), key=len) for one in texts]
    folder: Path | None = args.folder
    trials, source, record = by_default(base, cases, folder)
    print(f"{base.name}, {len(cases)} facts, hyper-parameters: {source}")
    columns = "exact | contains | rephrasing contains | neighbor kept | perplexity | CPU s a fact"
    print(f"| facts | | ES | GS | LS | Score | {columns} |")
    print("|---" * 12 + "|")
    written = None if args.no_free else write_freely(ModelView(base), neighbors_of(cases))
    before = {
        "rows": rows_of(ModelView(base), cases, written),
        "perplexity": perplexity(ModelView(base), texts) if texts else None,
    }
    print(line("unedited", 0, before), flush=True)
    said = protocols(SHOWN, Setting(args.suite, Style.CONTRAST, free_tokens=TOKENS))
    report: dict[str, Any] = {
        "model": base.name,
        "protocols": {name: asdict(one) for name, one in said.items()},
        "unedited": before,
        "editors": {},
    }
    for size in args.sizes:
        for editor in args.editors:
            hparams = hparams_for(
                record, editor, base.n_layers, base.mlp_size, args.hparams, chat=has_template(base)
            )
            prepare(trials, hparams)
            found = measure(trials, editor, hparams, size, texts, written)
            report["editors"].setdefault(editor, {})[size] = found
            print(line(editor, size, found), flush=True)
            args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        first, *others = args.editors
        for other in others:
            both = [report["editors"][name][size]["rows"] for name in (first, other)]
            print(f"Score of {first} minus {other}, {size} facts: {against(*both)}", flush=True)


if __name__ == "__main__":
    main()
