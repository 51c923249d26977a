"""How well edits hold plainly and through the chat template: ``python -m bench.editors.contexts``.

Facts of a suite are edited together with each way of ``contexts``; then a model is asked every
fact plainly and as a user's message, and writes freely: greedily, and the new answer shall be among
the first 12 tokens, or 32, as chat models like to say a question again before they answer.  With
``--scores`` also efficacy, generalization and locality, asked in both ways.

    python -m bench.editors.contexts FOLDER --suite FILE --corpus FILE --hparams '{"low": …}'
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import jeep_core
from jeep_core.decoding.generation import generate
from jeep_core.decoding.sampling import Sampling
from jeep_core.editing import resolve_hparams
from jeep_core.evaluation.asking import Ask, as_asked
from jeep_core.evaluation.metrics import counterfact_scores, summarise
from jeep_core.evaluation.trials import Trials
from jeep_core.models.loading import texts_of
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.spec.hparams import Contexts
from jeep_core.suites import Case, load_suite
from jeep_core.values.cache import ValueCache
from jeep_core.values.prefixes import sample_prefixes

TOKENS = (12, 32)


def asked(view: ModelView, cases: Sequence[Case], ask: Ask, scores: bool) -> dict[str, Any]:
    """The figures of one version, asked in one way."""
    put = as_asked(cases, ask, view.base.chat)
    written = generate(view, [case.text for case in put], Sampling(max_new_tokens=max(TOKENS)))
    ids = [[token.id for token in one.tokens] for one in written]
    texts = {n: [view.base.tokenizer.decode(row[:n]) for row in ids] for n in TOKENS}
    hold = {
        n: sum(case.target_new in text for case, text in zip(cases, said, strict=True))
        for n, said in texts.items()
    }
    summary = asdict(summarise(counterfact_scores(view, put))) if scores else {}
    return {"hold": hold, **summary, "texts": texts[max(TOKENS)]}


def measure(trials: Trials, editor: str, changes: dict[str, Any], scores: bool) -> dict[str, Any]:
    """The figures of the unedited model and of every way to edit."""
    base, cases = trials.base, [case for case in trials.cases if isinstance(case, Case)]
    ways: tuple[Ask, ...] = get_args(Ask)
    report: dict[str, Any] = {"model": base.name, "editor": editor, "facts": len(cases)}
    report["unedited"] = {ask: asked(ModelView(base), cases, ask, scores) for ask in ways}
    for contexts in get_args(Contexts):
        given = {**changes, "contexts": contexts}
        hparams = resolve_hparams(base.name, editor, None, given, base.n_layers, chat=True)
        began = time.monotonic()
        view, _ = trials.edit(editor, hparams, range(len(cases)))
        seconds = time.monotonic() - began
        report[contexts] = {ask: asked(view, cases, ask, scores) for ask in ways}
        report[contexts]["seconds"] = seconds
        print(f"{contexts}: {seconds:.0f} s", flush=True)
    return report


def markdown(report: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "| edited | asked | hold in 12 tokens | in 32 | ES | GS | LS | seconds per fact |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in ("unedited", *get_args(Contexts)):
        spent = report[row].get("seconds")
        seconds = "" if spent is None else f"{spent / report['facts']:.1f}"
        for ask in get_args(Ask):
            found = report[row][ask]
            names = ("efficacy", "generalization", "locality")
            figures = [f"{found[name]:.0f}" if name in found else "" for name in names]
            held = [f"{100 * n / report['facts']:.0f} %" for n in found["hold"].values()]
            lines.append(f"| {row} | {ask} | {' | '.join([*held, *figures])} | {seconds} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table and write all figures with the texts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--editor", default="memit")
    parser.add_argument("--hparams", type=json.loads, default={})
    parser.add_argument("--facts", type=int, default=64)
    parser.add_argument("--step", type=int, default=1, help="Take every so many-th case.")
    parser.add_argument("--scores", action="store_true", help="Also ES, GS and LS.")
    parser.add_argument("--folder", type=Path, help="Where moments and values are kept.")
    parser.add_argument("--out", type=Path, default=Path("contexts.json"))
    args = parser.parse_args()
    base = jeep_core.load(args.model)
    cases = load_suite(args.suite).cases[:: args.step][: args.facts]
    folder = args.folder
    moments = Moments(base, texts_of(args.corpus), folder=folder and folder / "moments")
    cache = ValueCache(folder and folder / "values")
    trials = Trials(base, cases, moments, sample_prefixes(base, 6), cache=cache)
    report = measure(trials, args.editor, args.hparams, args.scores)
    args.out.write_text(json.dumps(report, ensure_ascii=False, indent=1))
    print(markdown(report))


if __name__ == "__main__":
    main()
