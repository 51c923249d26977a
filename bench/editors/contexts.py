"""How well edits hold plainly and through the chat template: ``python -m bench.editors.contexts``.

Facts of a suite are edited together with each way of ``contexts``; then a model is asked every
fact plainly and as a user's message, and writes freely: greedily, and the new answer shall be among
the first 12 tokens, or 32, as chat models like to say a question again before they answer.  In
brackets are 95 % intervals over facts.  Hyper-parameters are what ``hparams: "auto"`` chooses, with
``--hparams`` over them.  With ``--scores`` also efficacy, generalization and locality, asked in
both ways.

    python -m bench.editors.contexts FOLDER --suite FILE --half 1 --editor jeep
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

import jeep_core
from bench.editors.real import by_default, prepare
from jeep_core.decoding.generation import generate
from jeep_core.decoding.sampling import Sampling
from jeep_core.evaluation.asking import Ask, as_asked
from jeep_core.evaluation.metrics import counterfact_scores, summarise
from jeep_core.evaluation.statistics import resamples
from jeep_core.evaluation.trials import Trials
from jeep_core.models.views import ModelView
from jeep_core.probe.defaults.from_record import hparams_for
from jeep_core.spec.hparams import Contexts
from jeep_core.suites import Case, load_suite

TOKENS = (12, 32)


def asked(view: ModelView, cases: Sequence[Case], ask: Ask, scores: bool) -> dict[str, Any]:
    """The figures of one version, asked in one way."""
    put = as_asked(cases, ask, view.base.chat)
    written = generate(view, [case.text for case in put], Sampling(max_new_tokens=max(TOKENS)))
    ids = [[token.id for token in one.tokens] for one in written]
    texts = {n: [view.base.tokenizer.decode(row[:n]) for row in ids] for n in TOKENS}
    hold = {
        n: [case.target_new in text for case, text in zip(cases, said, strict=True)]
        for n, said in texts.items()
    }
    summary = asdict(summarise(counterfact_scores(view, put))) if scores else {}
    return {"hold": hold, **summary, "texts": texts[max(TOKENS)]}


def measure(
    trials: Trials, editor: str, record: dict[str, Any], changes: dict[str, Any], scores: bool
) -> dict[str, Any]:
    """The figures of the unedited model and of every way to edit; ``record`` is a probe's."""
    base, cases = trials.base, [case for case in trials.cases if isinstance(case, Case)]
    ways: tuple[Ask, ...] = get_args(Ask)
    report: dict[str, Any] = {"model": base.name, "editor": editor, "facts": len(cases)}
    report["unedited"] = {ask: asked(ModelView(base), cases, ask, scores) for ask in ways}
    for contexts in get_args(Contexts):
        given = {**changes, "contexts": contexts}
        hparams = hparams_for(record, editor, base.n_layers, base.mlp_size, given, chat=True)
        prepare(trials, hparams)
        began = time.process_time()
        view, _ = trials.edit(editor, hparams, range(len(cases)))
        seconds = time.process_time() - began
        report[contexts] = {ask: asked(view, cases, ask, scores) for ask in ways}
        report[contexts]["seconds"] = seconds
        print(f"{contexts}: {seconds:.0f} s", flush=True)
    return report


def share(held: Sequence[bool]) -> str:
    """A share in per cent, with its 95 % interval over facts."""
    facts = np.array(held, dtype=float)
    drawn = np.concatenate(list(resamples(len(facts), seed=0))) @ facts / len(facts)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{100 * facts.mean():.0f} ({100 * low:.0f}–{100 * high:.0f})"


def markdown(report: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "| edited | asked | holds in 12 tokens, % | in 32 | ES | GS | LS | CPU s a fact |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in ("unedited", *get_args(Contexts)):
        spent = report[row].get("seconds")
        seconds = "" if spent is None else f"{spent / report['facts']:.1f}"
        for ask in get_args(Ask):
            found = report[row][ask]
            names = ("efficacy", "generalization", "locality")
            figures = [f"{found[name]:.0f}" if name in found else "" for name in names]
            held = [share(said) for said in found["hold"].values()]
            lines.append(f"| {row} | {ask} | {' | '.join([*held, *figures])} | {seconds} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table and write all figures with the texts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--half", type=int, choices=(0, 1), default=0)
    parser.add_argument("--editor", default="jeep")
    parser.add_argument("--hparams", type=json.loads, default={})
    parser.add_argument("--facts", type=int, default=64)
    parser.add_argument("--scores", action="store_true", help="Also ES, GS and LS.")
    parser.add_argument("--folder", type=Path, help="Where moments, probes and values are kept.")
    parser.add_argument("--out", type=Path, default=Path("contexts.json"))
    args = parser.parse_args()
    base = jeep_core.load(args.model)
    if base.chat is None:
        raise SystemExit(f"{base.name} has no chat template: it can be asked plainly alone")
    cases = load_suite(args.suite).cases[args.half :: 2][: args.facts]
    trials, source, record = by_default(base, cases, args.folder)
    print(f"{base.name}, {len(cases)} facts, {args.editor}, hyper-parameters: {source}")
    report = measure(trials, args.editor, record, args.hparams, args.scores)
    args.out.write_text(json.dumps(report, ensure_ascii=False, indent=1))
    print(markdown(report))


if __name__ == "__main__":
    main()
