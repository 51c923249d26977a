"""CPU time of the contrast probe against its plain procedure: ``python -m bench.library.probing``.

The yardstick (``plain_probe.py``) and the thorough probe are timed over the same prompts in
one run, with one thread, and their figures compared.  The quick probe is timed whole; its ratio
is that to the plain procedure over as many prompts as a thorough probe takes (256).

    python -m bench.library.probing --model smollm2-135m --suite facts.json --prompts 16
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.library.plain_probe import exchange_plain, read_plain, restoration_plain
from jeep_core.models.loading import load
from jeep_core.models.views import ModelView
from jeep_core.probe.patching import Patched, exchange, pairs, restoration
from jeep_core.probe.prompts import prepare
from jeep_core.probe.readings import Readings, read
from jeep_core.probe.run import PROMPTS, Probe, probe
from jeep_core.spec.facts import Fact
from jeep_core.suites import load_suite

SUITE = "atlas-counterfact-validation"
Evidence = tuple[Readings, Patched, Patched]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="atlas-llama")
    parser.add_argument("--suite", default=SUITE)
    parser.add_argument("--prompts", type=int, default=16, help="for the plain procedure")
    parser.add_argument("--thorough", action="store_true", help="the whole thorough probe, too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    view = ModelView(load(args.model))
    facts = list(load_suite(args.suite).cases)
    found = compared(view, facts, args.prompts)
    wall = time.perf_counter()
    spent, quick = used(lambda: probe(view, facts, quick=True))
    wall = time.perf_counter() - wall
    found |= {
        "quick": {"cpu_s": spent, "wall_s": wall, "prompts": len(quick.prompts.prompts)},
        "ratio_quick": PROMPTS * found["plain_cpu_s_a_prompt"] / spent,
        "proposal_quick": _proposal(quick),
    }
    if args.thorough:
        spent, thorough = used(lambda: probe(view, facts))
        found |= {
            "thorough": {"cpu_s": spent, "prompts": len(thorough.prompts.prompts)},
            "proposal_thorough": _proposal(thorough),
        }
    text = json.dumps({"model": view.base.name, "threads": args.threads, **found}, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


def compared(view: ModelView, facts: Sequence[Fact], count: int) -> dict[str, Any]:
    """CPU seconds a prompt of both procedures, and the largest difference of their figures."""
    drawn = list(facts)
    random.Random(0).shuffle(drawn)
    prompts = prepare(view, drawn[:count]).prompts
    chosen = pairs(view, prompts)

    def plain() -> Evidence:
        return (
            read_plain(view, prompts),
            exchange_plain(view, chosen),
            restoration_plain(view, prompts),
        )

    def ours() -> Evidence:
        return read(view, prompts), exchange(view, chosen), restoration(view, prompts)

    read(view, prompts[:2])
    new, found = used(ours)
    old, expected = used(plain)
    return {
        "prompts": len(prompts),
        "plain_cpu_s_a_prompt": old / len(prompts),
        "thorough_cpu_s_a_prompt": new / len(prompts),
        "ratio_thorough": old / new,
        "largest_difference_of_a_probability": difference(found, expected),
    }


def difference(found: Evidence, expected: Evidence) -> float:
    """The largest difference of a probability between two procedures."""
    pairs_of = [(found[0].probability, expected[0].probability)]
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        assert isinstance(mine, Patched)
        assert isinstance(theirs, Patched)
        pairs_of += [(mine.own, theirs.own), (mine.own_before, theirs.own_before)]
    return max(float((a - b).abs().max()) for a, b in pairs_of)


def used(run: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process during a call, and what it returned."""
    began = time.process_time()
    found = run()
    return time.process_time() - began, found


def _proposal(found: Probe) -> dict[str, Any] | str:
    if found.proposal is None:
        return str(found.why_not)
    record = found.proposal.record()
    evidence = {name: record["evidence"][name] for name in ("effect", "contrast")}
    return {"low": record["low"], "high": record["high"], "hparams": found.hparams, **evidence}


if __name__ == "__main__":
    main()
