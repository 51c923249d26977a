"""One fact over HTTP, from the request to the committed version: ``python -m bench.edits``.

The service is idle and has its second moments; the yardstick is one second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import httpx

from bench.report import Row, table
from bench.serving import service
from bench.workload import median, suite_facts
from jeep_core import atlas
from jeep_core.spec.facts import Fact

GOAL_MS = 1000.0
WARM_UP, FACTS = 2, 15


def run(repeats: int) -> list[Row]:
    """Both bundled models; ``repeats`` times 15 facts a preset."""
    return [row for model in atlas.MODELS for row in one_fact(model, FACTS * repeats)]


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
    print(table(run(parser.parse_args().repeats)))


if __name__ == "__main__":
    main()
