"""One fact over HTTP, from the request to the committed version: ``python -m bench.service.edits``.

The service is idle and has its second moments; the yardstick is one second.  ``--only views``
shows what an edit saves by returning the view it wrote: the yardstick applies the delta to another.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial

import httpx

import jeep_core
from bench.report import Row, table
from bench.serving import service
from bench.workload import median, seconds, suite_facts, timed
from jeep_core import atlas
from jeep_core.editing import edit_checked, resolve_hparams
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.moments.of_texts import corpus_texts
from jeep_core.spec.facts import Fact
from jeep_core.values.prefixes import sample_prefixes
from service.worker.threads import edit_threads

GOAL_MS = 1000.0
WARM_UP, FACTS = 2, 15


VIEWS = {1: 9, 64: 2}
"""Facts of an edit, and how often it is made."""


def run(repeats: int) -> list[Row]:
    """Both bundled models; ``repeats`` times 15 facts a preset."""
    rows = [row for model in atlas.MODELS for row in one_fact(model, FACTS * repeats)]
    return [*rows, *returned_views(repeats)]


def returned_views(repeats: int, model: str = "atlas-gptj") -> list[Row]:
    """An edit whose view is used, against one whose delta is applied to the version again.

    As in the worker: second moments are there, facts and hyper-parameters are checked.
    """
    base = jeep_core.load(model)
    hparams = resolve_hparams(model, "jeep", None, {}, base.n_layers, shape=base.shape)
    moments = Moments(base, corpus_texts(model, None))
    moments.ensure(hparams.moment_layers)
    prefixes = sample_prefixes(base, hparams.prefix_count)
    rows = []
    for count, times in VIEWS.items():
        edits: list[float] = []
        applied: list[float] = []
        for repeat in range(times * repeats + 1):
            facts = suite_facts(count * (repeat + 1))[-count:]
            version = ModelView(base)
            edit = partial(
                edit_checked, version, facts, "jeep", hparams, prefixes=prefixes, moments=moments
            )
            with edit_threads(base, count):
                spent, result = timed(edit)
                again = seconds(partial(version.apply, result.delta))
            assert version.weights_sha256() == result.view.weights_sha256()
            edits.append(1000 * spent)
            applied.append(1000 * again)
        rows.append(_saved(model, count, edits[1:], applied[1:], len(result.delta.updates)))
    return rows


def _saved(
    model: str, count: int, edits: Sequence[float], applied: Sequence[float], matrices: int
) -> Row:
    """The time of an edit of ``count`` facts, and with its delta applied again after it."""
    both = [edit + more for edit, more in zip(edits, applied, strict=True)]
    ratios = [long / short for long, short in zip(both, edits, strict=True)]
    saved = median(list(applied))
    note = f"{matrices} matrices; saved {saved:.2f} ms, the same bytes"
    what = f"edit of {count} facts with its view, {model}"
    ours, theirs = median(list(edits)), median(both)
    return Row(what, ours, theirs, "ms", median(ratios), min(ratios), max(ratios), note)


def one_fact(model: str, count: int) -> list[Row]:
    """The plain preset and the one with the paper's learning rate, on one service."""
    with service(model) as (_, url), httpx.Client(base_url=url, timeout=120) as http:
        facts = suite_facts(2 * (WARM_UP + count))
        return [
            _one_preset(http, f"jeep-{model}{variant}", facts[i::2])
            for i, variant in enumerate(("", "-paper"))
        ]


def _one_preset(http: httpx.Client, preset: str, facts: Sequence[Fact]) -> Row:
    """Median over facts, each submitted when the one before is committed."""
    times: list[float] = []
    for fact in facts:
        record = {
            "subject": fact.subject,
            "prompt": fact.prompt,
            "target_new": fact.target_new,
            "target_true": fact.target_true,
        }
        began = time.perf_counter()
        answer = http.post(
            "/edits", json={"facts": [record], "preset": preset}, headers={"Prefer": "wait=60"}
        )
        times.append(1000 * (time.perf_counter() - began))
        status = answer.raise_for_status().json()["status"]
        if status != "succeeded":
            raise RuntimeError(answer.text)
    times = times[WARM_UP:]
    ratios = [GOAL_MS / t for t in times]
    note = f"{len(times)} facts, slowest {max(times):.0f} ms; yardstick: the goal"
    what = f"one fact over HTTP until its version is committed, {preset}"
    return Row(what, median(times), GOAL_MS, "ms", median(ratios), min(ratios), max(ratios), note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", choices=["views"], help="only the part without a service")
    args = parser.parse_args()
    print(table((returned_views if args.only else run)(args.repeats)))


if __name__ == "__main__":
    main()
