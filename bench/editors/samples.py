"""Score by the tokens of second moments: ``python -m bench.editors.samples``.

The same facts are edited with second moments over the first 2, 4, 10 and 20 tokens of the text for
each dimension of the keys, computed in float32 and, where the device is quick at it, with the
model's products in bfloat16.  Nothing that ships is taken.  Prints Score with its 95 % interval
over cases, and its difference from that of the first row on the same cases.

    python -m bench.editors.samples atlas-llama --editor memit
    python -m bench.editors.samples FOLDER --suite FILE --half 1 --editor memit --tokens 20 4
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
from jeep_core.evaluation.metrics import counterfact_scores
from jeep_core.evaluation.statistics import compare, summarise_cases
from jeep_core.evaluation.trials import Trials
from jeep_core.models.loading import LoadedModel
from jeep_core.moments.cache import Moments, quick_products
from jeep_core.moments.of_texts import corpus_texts
from jeep_core.probe.defaults.choose import choose
from jeep_core.suites import Case, load_suite
from jeep_core.values.cache import ValueCache
from jeep_core.values.prefixes import sample_prefixes

TOKENS = (20, 10, 4, 2)


def main() -> None:
    """Measure, print a row at a time, and write all figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--suite", default="atlas-counterfact")
    parser.add_argument("--half", type=int, choices=(0, 1), default=1)
    parser.add_argument("--editor", default="memit")
    parser.add_argument("--facts", type=int, default=64)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--folder", type=Path, help="Where probes and values are kept.")
    parser.add_argument("--out", type=Path, default=Path("samples.json"))
    args = parser.parse_args()
    base = jeep_core.load(args.model)
    cases = load_suite(args.suite).cases[args.half :: 2][: args.facts]
    found = measure(base, args.editor, cases, args.tokens, args.folder)
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measure(
    base: LoadedModel,
    editor: str,
    cases: Sequence[Any],
    tokens: Sequence[int],
    folder: Path | None,
) -> list[dict[str, Any]]:
    """A row by number of tokens and kind of products: case scores, and CPU seconds of moments."""
    changes = {"contexts": "plain"}
    chosen, _ = choose(base, editor, folder=folder and folder / "probes", changes=changes)
    cache, prefixes = ValueCache(folder and folder / "values"), sample_prefixes(base, 6)
    kinds = (False, True) if quick_products(base, None) else (False,)
    found: list[dict[str, Any]] = []
    for count in tokens:
        for bfloat16 in kinds:
            moments = Moments(
                base,
                corpus_texts(base.name, None),
                count * base.mlp_size,
                shipped=False,
                bfloat16=bfloat16,
            )
            began = time.process_time()
            moments.ensure(chosen.hparams.moment_layers)
            seconds = time.process_time() - began
            trials = Trials(base, cases, moments, prefixes, cache=cache)
            view, _ = trials.edit(editor, chosen.hparams, range(len(cases)))
            edited = [case for case in cases if isinstance(case, Case)]
            scores = enumerate(counterfact_scores(view, edited))
            rows = [{"id": str(i), **asdict(one)} for i, one in scores]
            found.append({"tokens": count, "bfloat16": bfloat16, "rows": rows, "seconds": seconds})
            print(line(found), flush=True)
    return found


def line(found: Sequence[dict[str, Any]]) -> str:
    """The last row in words."""
    last = found[-1]
    score = summarise_cases(last["rows"])["score"]
    gap = compare(found[0]["rows"], last["rows"]).differences.get("score")
    against = "" if gap is None else f"{gap.value:+.1f} ({gap.low:+.1f} to {gap.high:+.1f})"
    kind = "bfloat16" if last["bfloat16"] else "float32"
    return (
        f"{last['tokens']:3d} tokens a dimension, {kind:8}: Score {score.value:.1f} "
        f"({score.low:.1f}–{score.high:.1f}), {against}; {last['seconds']:.1f} s of CPU"
    )


if __name__ == "__main__":
    main()
