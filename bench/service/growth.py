"""The cost of a service as its store grows: ``python -m bench.service.growth``.

A tiny random model, so that nothing but the store counts.  The store of ``--versions`` batches of
``--facts`` facts each is one line of versions with its jobs, written as edits would have written
it; at every size a service is started on it and asked.  Times are medians; the last column is
the largest size against the smallest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch

from bench.service.grown import EDITOR, HPARAMS, Grown, facts
from bench.serving import service
from bench.shapes import random_model, save
from jeep_core.models.loading import load
from service.client import Client
from service.store.maintenance.backup import back_up

VERSIONS = (100, 1000, 10_000)
FACTS = 10
REPEATS = 5
PAGE = 25
"""Entries of a page: of the smallest store half are two pages."""
WAIT_S = 600.0
MB = 1e6
UNITS = {"s": "s", "ms": "ms", "mb": "MB"}


def main() -> None:
    """Measure every size in turn and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--versions", type=int, nargs="+", default=list(VERSIONS))
    parser.add_argument("--facts", type=int, default=FACTS, help="of every version")
    parser.add_argument(
        "--again", type=int, default=0, metavar="PER CENT",
        help="of a version's facts that edit facts of the first version again",
    )  # fmt: skip
    parser.add_argument("--no-backup", action="store_true", help="leave out the slowest figure")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    columns: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="jeep-growth-") as temporary:
        root = Path(temporary)
        tiny = random_model("tiny", "cpu", torch.float32)
        model, store = str(save(tiny, root / "model")), root / "store"
        with service(model, "--store", str(store)) as (client, _):
            edited(client, facts(1, args.facts))
        grown = Grown(store, load(model), args.again)
        for versions in sorted(args.versions):
            grown.to(versions)
            columns[versions] = measured(model, store, versions, args.facts, args.again)
            columns[versions]["disk_mb"] = disk(store)
            if not args.no_backup:
                backup = partial(back_up, grown.store, root / f"backup{versions}")
                columns[versions]["backup_s"] = seconds(backup)
            print(versions, json.dumps(columns[versions]), flush=True)
    print(markdown(columns, args.facts))
    if args.out is not None:
        args.out.write_text(json.dumps(columns, indent=1) + "\n")


def edited(client: Client, batch: list[dict[str, Any]]) -> None:
    """One edit, committed."""
    job = client.edit(batch, editor=EDITOR, hparams=HPARAMS)
    done = client.wait(job.id, timeout=WAIT_S)
    if done.error is not None:
        raise SystemExit(f"{done.error.code}: {done.error.message}")


def measured(
    model: str, store: Path, versions: int, per_version: int, again: int
) -> dict[str, float]:
    """The figures of one size; names end with their unit."""
    began = time.perf_counter()
    found: dict[str, float] = {}
    with service(model, "--store", str(store)) as (client, url), httpx.Client(base_url=url) as http:
        found["ready_s"] = time.perf_counter() - began
        api, worker = processes()
        found["api_at_start_mb"], found["worker_at_start_mb"] = resident(api), resident(worker)
        middle = versions // 2
        told = facts(middle, per_version, again)[per_version // 2]["subject"]
        reads: dict[str, Callable[[], Any]] = {
            "facts_of_a_subject": lambda: page(http, "/facts", subject=told),
            "facts_first_page": lambda: page(http, "/facts"),
            "facts_containing": lambda: page(http, "/facts", contains=told),
            "snapshots_first_page": lambda: page(http, "/snapshots"),
            "edits_first_page": lambda: page(http, "/edits"),
            "jobs_first_page": lambda: page(http, "/jobs"),
            "one_version": lambda: client.snapshot(f"v{middle}"),
            "one_edit": lambda: client.edit_result(client.snapshot(f"v{middle}").edit_id or ""),
            "diff_of_ten_batches": lambda: client.diff(f"v{max(0, versions - 10)}", f"v{versions}"),
        }
        for name, read in reads.items():
            found[f"{name}_first_ms"] = 1e3 * seconds(read)
            found[f"{name}_ms"] = 1e3 * statistics.median(seconds(read) for _ in range(REPEATS))
        for what, path in (("facts", "/facts"), ("snapshots", "/snapshots"), ("jobs", "/jobs")):
            found[f"{what}_deep_page_ms"] = 1e3 * deep_page(http, path, versions // 2)
        commits = [
            seconds(partial(edited, client, facts(10**6 + versions + i, 1)))
            for i in range(REPEATS + 1)
        ]
        found["first_commit_ms"] = 1e3 * commits[0]
        found["commit_ms"] = 1e3 * statistics.median(commits[1:])
        newest = client.snapshot("head").id
        there_and_back = [
            seconds(partial(client.rollback, to))
            for _ in range(REPEATS)
            for to in (f"v{versions - 1}", newest)
        ]
        found["rollback_ms"] = 1e3 * statistics.median(there_and_back)
        client.rollback(f"v{versions}")
        found["api_mb"], found["worker_mb"] = resident(api), resident(worker)
    return found


def page(http: httpx.Client, path: str, **query: str) -> dict[str, Any]:
    """The first page of a list."""
    answer: dict[str, Any] = http.get(path, params={"limit": str(PAGE), **query}).json()
    return answer


def deep_page(http: httpx.Client, path: str, until: int) -> float:
    """Seconds of the last page of the first ``until`` entries, as long as the first one.

    Of fewer entries than a page has it is the first page.
    """
    cursor: str | None = None
    took = 0.0
    for _ in range(max(1, until // PAGE)):
        query = {"limit": str(PAGE)} if cursor is None else {"limit": str(PAGE), "after": cursor}
        began = time.perf_counter()
        answer = http.get(path, params=query).json()
        took = time.perf_counter() - began
        cursor = answer.get("next")
        if cursor is None:
            break
    return took


def processes() -> tuple[psutil.Process, psutil.Process]:
    """The processes of the service that this one has started: api, worker."""
    found = psutil.Process().children(recursive=True)
    [worker] = [one for one in found if "service.worker" in one.cmdline()]
    [api] = [one for one in found if "serve" in one.cmdline()]
    return api, worker


def resident(process: psutil.Process) -> float:
    """Megabytes of memory."""
    return float(process.memory_info().rss / MB)


def seconds(do: Callable[[], Any]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def disk(store: Path) -> float:
    """Megabytes that the files of a store take, in whole blocks."""
    return sum(path.stat().st_blocks * 512 for path in store.rglob("*") if path.is_file()) / MB


def markdown(columns: dict[int, dict[str, float]], per_version: int) -> str:
    """One row per figure, one column per size."""
    sizes = sorted(columns)
    head = [f"{one:,} versions, {one * per_version:,} facts" for one in sizes]
    lines = ["| | " + " | ".join(head) + " | ratio |", "|---" * (len(sizes) + 2) + "|"]
    for name in columns[sizes[0]]:
        what, _, unit = name.rpartition("_")
        values = [columns[one][name] for one in sizes]
        cells = [f"{value:,.3g} {UNITS[unit]}" for value in values]
        ratio = values[-1] / values[0]
        lines.append(f"| {what.replace('_', ' ')} | {' | '.join(cells)} | {ratio:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
