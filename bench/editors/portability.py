"""Consequences of edits: ``python -m bench.editors.portability``.

Facts of a suite that has portability questions (KnowEdit, MQuAKE, HalluEditBench, ...) are edited
at once with what ``hparams: "auto"`` chooses, by every editor that is named, and then all is asked:
the facts themselves, their rephrasings, and by group what follows from them (reversed questions,
yes and no, consequences over two hops and more).  Two figures for each, in percent with 95 %
intervals over cases: the share of a shown answer's tokens that are the most probable ones, and
whether the answer's words stand in the first sentence that is written freely.  The unedited model
is asked the same: what it answers right without an edit does not follow from one.

    python -m bench.editors.portability FOLDER --suite FILE --facts 78 --editors jeep memit
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jeep_core
from bench.editors.real import Rows, by_default, prepare
from bench.editors.refusals import Refusal, refusals
from jeep_core.editors import EDITORS
from jeep_core.errors import JeepError
from jeep_core.evaluation.free_answers import (
    TOKENS,
    FreeText,
    free_scores,
    measure_freely,
    neighbors_of,
    write_freely,
)
from jeep_core.evaluation.metrics import fitting, measure
from jeep_core.evaluation.protocols import Setting, protocols
from jeep_core.evaluation.statistics import compare, summarise_cases
from jeep_core.models.views import ModelView
from jeep_core.probe.defaults.from_record import hparams_for
from jeep_core.storage.writing import write_atomically
from jeep_core.suites import Case, Style, load_suite

UNEDITED = "unedited"
KINDS = {
    "edit prompt": ("efficacy", "free_contains"),
    "rephrasing": ("generalization", "free_contains_generalization"),
    "all that follows": ("portability", "free_contains_portability"),
}
"""Rows of the table: the metric of a shown answer, and that of a freely written one."""


def rows_of(
    view: ModelView, cases: Sequence[Case], style: Style, before: dict[str, FreeText]
) -> Rows:
    """A row of figures for every case: shown and freely written answers."""
    written = measure_freely(view, cases, before)
    records = measure(view, cases, style)
    return [
        {**record.as_json(), **free_scores(judged), "free": [asdict(one) for one in judged]}
        for record, judged in zip(records, written, strict=True)
    ]


def table(rows: dict[str, Rows]) -> list[str]:
    """In Markdown: a line for each kind and group of questions, two columns for each version."""
    found = {name: summarise_cases(some) for name, some in rows.items()}
    kinds = dict(KINDS)
    for name in dict.fromkeys(name for shown in found.values() for name in shown):
        metric, _, group = name.partition("/")
        if group and metric == "portability":
            kinds[group] = (name, f"free_contains_portability/{group}")
    lines = [
        f"| asked | {' | '.join(f'{name}: tokens | contains' for name in rows)} |",
        "|---" * (1 + 2 * len(rows)) + "|",
    ]
    for kind, metrics in kinds.items():
        cells = []
        for shown in found.values():
            for one in (shown.get(metric) for metric in metrics):
                cells.append(
                    "" if one is None else f"{one.value:.1f} ({one.low:.0f}–{one.high:.0f})"
                )
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def gains(rows: dict[str, Rows]) -> list[str]:
    """For each editor: what an edit adds to what follows from it, over the unedited model."""
    lines = []
    for name, some in rows.items():
        if name != UNEDITED:
            differences = compare(rows[UNEDITED], some).differences
            shown = {
                metric: f"{one.value:+.1f} ({one.low:+.1f} to {one.high:+.1f})"
                for metric, one in differences.items()
                if metric.partition("/")[0] in ("portability", "free_contains_portability")
            }
            lines += [
                f"{name} minus {UNEDITED}, {metric}: {said}" for metric, said in shown.items()
            ]
    return lines


def main() -> None:
    """Edit and ask with one editor after the other, print the table, and write all figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--facts", type=int, default=78)
    parser.add_argument("--editors", nargs="+", choices=list(EDITORS), default=list(EDITORS))
    parser.add_argument("--folder", type=Path, help="Where moments, probes and values are kept.")
    parser.add_argument("--out", type=Path, default=Path("portability.json"))
    args = parser.parse_args()
    base = jeep_core.load(args.model)
    suite = load_suite(args.suite)
    cases, _, _ = fitting(base, suite.cases, suite.style)
    cases = cases[: args.facts]
    if not any(one.portability for one in cases):
        raise JeepError(
            f"{args.suite} has no portability questions: nothing follows from its facts"
        )
    trials, source, record = by_default(base, cases, args.folder)
    before = write_freely(ModelView(base), neighbors_of(cases))
    rows: dict[str, Rows] = {UNEDITED: rows_of(ModelView(base), cases, suite.style, before)}
    found: dict[str, Any] = {"facts": len(cases), "probe": source, "editors": {}}
    for editor in args.editors:
        try:
            with refusals():
                asked = {"contexts": "plain"}
                chosen = hparams_for(record, editor, base.n_layers, base.mlp_size, asked)
                prepare(trials, chosen)
                began = time.process_time()
                view, _ = trials.edit(editor, chosen, range(len(cases)))
        except Refusal as error:
            print(f"{editor}: {error}", flush=True)
            found["editors"][editor] = {"refused": str(error)}
            continue
        seconds = (time.process_time() - began) / len(cases)
        rows[editor] = rows_of(view, cases, suite.style, before)
        found["editors"][editor] = {
            "hparams": chosen.model_dump(mode="json"), "seconds_a_fact": seconds,
        }  # fmt: skip
        print("\n".join(table({name: rows[name] for name in (UNEDITED, editor)})), flush=True)
        setting = Setting(suite.name, suite.style, free_tokens=TOKENS)
        found |= {
            "rows": rows,
            "protocols": {
                name: asdict(one)
                for name, one in protocols(summarise_cases(rows[editor]), setting).items()
            },
        }
        write_atomically(args.out, json.dumps(found, indent=1) + "\n")
    print("\n".join([*table(rows), "", *gains(rows)]), flush=True)


if __name__ == "__main__":
    main()
