"""The first edit of a model that nothing is known of: ``python -m bench.service.first_edit MODEL``.

Starts ``jeep serve`` on an empty store, edits one fact after the other without hyper-parameters,
and prints for each how long it took from the request to the committed version, by phase as the
job's events told it, with the processor time of the service (what a machine that does other work
at the same time cannot falsify).  Goal for SmolLM2-135M on two cores: at most 60 s for the first
fact, 5 s for later ones (median).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.serving import cpu_seconds, service
from service.client import Client
from service.contracts.jobs import JobStatus
from service.contracts.jobs import Progress as JobProgress

FACTS = (
    ("Eiffel Tower", "The {} is located in the city of", "Rome"),
    ("Mount Fuji", "{} is a mountain in", "Peru"),
    ("Frédéric Chopin", "The mother tongue of {} is", "Greek"),
    ("Hamlet", "{} was written by", "Leo Tolstoy"),
    ("Toyota", "{} is a company based in", "Brazil"),
    ("Danielle Darrieux", "The mother tongue of {} is", "English"),
    ("penicillin", "The discovery of {} was made by", "Isaac Newton"),
    ("Brazil", "The capital of {} is", "Lisbon"),
)
TIMEOUT_S = 1800.0


@dataclass
class Timed:
    """One edit: seconds from the request to the committed version, and of each phase."""

    fact: str
    seconds: float
    cpu: float
    success: bool
    source: str | None
    moments: str | None
    warnings: list[str]
    phases: dict[str, tuple[float, float]] = field(default_factory=dict)


def timed(client: Client, fact: tuple[str, str, str]) -> Timed:
    """Edit one fact and wait for its version."""
    subject, prompt, new = fact
    seen: list[tuple[str, float, float]] = []

    def on_progress(status: JobStatus, progress: JobProgress) -> None:
        if not seen or seen[-1][0] != progress.phase:
            seen.append((progress.phase, time.perf_counter(), cpu_seconds()))

    began, used = time.perf_counter(), cpu_seconds()
    job = client.edit([{"subject": subject, "prompt": prompt, "target_new": new}])
    done = client.wait(job.id, on_progress, timeout=TIMEOUT_S)
    end = ("", time.perf_counter(), cpu_seconds())
    if done.status is not JobStatus.SUCCEEDED:
        raise RuntimeError(f"the edit {done.status}: {done.error}")
    result = client.edit_result(str(done.edit_id)).result
    assert result is not None
    phases: dict[str, tuple[float, float]] = {}
    for (phase, at, cpu), (_, until, cpu_then) in zip(seen, [*seen[1:], end], strict=True):
        wall, busy = phases.get(phase or "waiting", (0.0, 0.0))
        phases[phase or "waiting"] = (wall + until - at, busy + cpu_then - cpu)
    return Timed(
        prompt.format(subject), end[1] - began, end[2] - used, result.facts[0].success,
        result.source, result.moments, result.warnings, phases,
    )  # fmt: skip


def run(model: str, facts: int, options: list[str]) -> dict[str, Any]:
    """Start the service on an empty store and time the edits."""
    began = time.perf_counter()
    with service(model, *options) as (client, _):
        ready = time.perf_counter() - began
        print(f"ready after {ready:.1f} s; load average {os.getloadavg()[0]:.1f}", flush=True)
        found = []
        for fact in FACTS[:facts]:
            found.append(timed(client, fact))
            show(found[-1])
    later = [one.seconds for one in found[1:]]
    figures: dict[str, Any] = {"model": model, "cores": os.cpu_count(), "ready": ready}
    figures |= {"first": found[0].seconds, "later": median(later) if later else None}
    cpu = median(one.cpu for one in found[1:]) if later else 0.0
    print(
        f"first {found[0].seconds:.1f} s (goal 60; {found[0].cpu:.1f} s CPU), "
        f"later {figures['later'] or 0:.1f} s (goal 5; {cpu:.1f} s CPU)"
    )
    return figures | {"edits": [asdict(one) for one in found]}


def show(one: Timed) -> None:
    """Print an edit."""
    phases = ", ".join(f"{name} {wall:.1f} ({cpu:.1f})" for name, (wall, cpu) in one.phases.items())
    mark = "took" if one.success else "did not take"
    print(f"{one.seconds:6.1f} s ({one.cpu:.1f} s CPU)  {one.fact}: {mark}")
    print(f"          {one.source}, {one.moments}; {phases}", flush=True)
    for warning in one.warnings:
        print(f"          {warning}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a folder, a GGUF file or a name; nothing is configured")
    parser.add_argument("--facts", type=int, default=len(FACTS), choices=range(1, len(FACTS) + 1))
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument(
        "--options", nargs=argparse.REMAINDER, default=[], help="of jeep serve: all that follows"
    )
    args = parser.parse_args()
    figures = run(args.model, args.facts, args.options)
    if args.out is not None:
        args.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
