"""Resident memory of a worker: ``python -m bench.service.memory --model M --suite facts.json``.

Starts a service and reads the worker's resident size when it is ready, after a quick probe, after
one edit and after ten (``jeep`` with its automatic hyper-parameters, or those of ``--hparams``),
and its peak since the step before.  Goal after ten edits: 1.5 times the weights and 600 MB.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.serving import service
from jeep_core.models.loading import load
from jeep_core.spec.facts import Fact
from jeep_core.suites import load_suite

MB = 1e6
SHARE, BESIDE_MB = 1.5, 600.0
EDITS = 10
FACTS = 64
"""Of the suite, for the probe."""
WAIT_S = 3600.0
SUITE = "atlas-counterfact-validation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="atlas-llama")
    parser.add_argument("--suite", default=SUITE)
    parser.add_argument("--corpus", type=Path, help="for second moments, if the model has none")
    parser.add_argument("--samples", type=int, help="tokens of the corpus")
    parser.add_argument("--edits", type=int, default=EDITS)
    parser.add_argument("--hparams", help="JSON instead of automatic ones")
    parser.add_argument("--thorough", action="store_true", help="a thorough probe of 64 prompts")
    parser.add_argument("--out", type=Path)
    parser.add_argument("serve", nargs="*", help="options of jeep serve, after --")
    args = parser.parse_args()
    facts = list(load_suite(args.suite).cases)
    random.Random(0).shuffle(facts)
    for name in ("corpus", "samples"):
        if getattr(args, name) is not None:
            setting = {"corpus": "JEEP_CORPUS", "samples": "JEEP_MOMENT_SAMPLES"}[name]
            os.environ[setting] = str(getattr(args, name))
    weights_mb = sum(p.nbytes for p in load(args.model).model.parameters()) / MB
    gc.collect()
    with service(args.model, *args.serve) as (client, _):
        worker = Worker()
        worker.measure("ready")
        job = client.probe(
            facts=_records(facts[:FACTS]), version="base", quick=not args.thorough, limit=FACTS
        )
        client.wait(job.id, timeout=WAIT_S)
        worker.measure("after the probe")
        hparams = json.loads(args.hparams) if args.hparams else "auto"
        for i in range(args.edits):
            job = client.edit(_records(facts[FACTS + i : FACTS + i + 1]), hparams=hparams)
            done = client.wait(job.id, timeout=WAIT_S)
            if done.error is not None:
                raise SystemExit(f"{done.error.code}: {done.error.message}")
            if i in (0, args.edits - 1):
                worker.measure(f"after {i + 1} edit{'s' if i else ''}")
    goal = SHARE * weights_mb + BESIDE_MB
    report = {
        "model": args.model,
        "weights_mb": round(weights_mb),
        "goal_mb": round(goal),
        "reached": worker.rows[-1]["mb"] <= goal,
        "rows": worker.rows,
    }
    print(json.dumps(report, indent=1))
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


class Worker:
    """The worker process of a service, and what was measured of it."""

    def __init__(self) -> None:
        found = psutil.Process().children(recursive=True)
        [self.process] = [p for p in found if "service.worker" in p.cmdline()]
        self.rows: list[dict[str, Any]] = []

    def measure(self, when: str) -> None:
        """Note the resident size, and its peak since the last time (Linux only)."""
        folder = Path("/proc") / str(self.process.pid)
        text = (folder / "status").read_text()
        peak = float(text.partition("VmHWM:")[2].split()[0]) * 1024
        row = {
            "when": when,
            "mb": round(self.process.memory_info().rss / MB),
            "peak_mb": round(peak / MB),
        }
        self.rows.append(row)
        print(f"{when}: {row['mb']} MB, peak {row['peak_mb']} MB", flush=True)
        (folder / "clear_refs").write_text("5")  # the peak counts from here on


def _records(facts: Sequence[Fact]) -> list[dict[str, Any]]:
    fields = ("subject", "prompt", "target_new", "target_true")
    return [{name: getattr(fact, name) for name in fields} for fact in facts]


if __name__ == "__main__":
    main()
