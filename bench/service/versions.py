"""Going back to a version: ``python -m bench.service.versions``.

Over HTTP with the bundled model, from memory and from disk; and for nine matrices of 4096×11008
float16, where the yardstick is reading the same files without verifying them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from bench.report import Row, table
from bench.serving import service
from service.client import Client
from service.contracts.schemas import TensorRef
from service.settings import Settings
from service.store import Store
from service.worker.versions import tensors

SHAPE, COUNT = (4096, 11008), 9
CITIES = ("Lyon", "Osaka", "Munich", "Turin", "Oslo", "Quito")
GOAL_MS = 100.0
VERSIONS_IN_MEMORY = int(Settings.model_fields["versions_in_memory"].default)


def run(repeats: int = 5) -> list[Row]:
    """All comparisons; about a minute and a half with five repeats."""
    with service() as (client, _):
        rows = rollbacks(client, repeats)
    return rows + matrices(repeats)


def rollbacks(client: Client, repeats: int) -> list[Row]:
    """One rollback over HTTP on an idle service, the target in memory or not."""
    versions = ["v0"]
    for city in CITIES[: VERSIONS_IN_MEMORY + 1]:
        job = client.edit([{"subject": city, "relation": "city_country", "object": "Peru"}])
        done = client.wait(job.id, timeout=240)
        assert done.result is not None
        versions.append(str(done.result["version"]))

    def seconds(target: str) -> float:
        began = time.perf_counter()
        client.rollback(target)
        return time.perf_counter() - began

    memory = [seconds(target) for _ in range(4 * repeats) for target in versions[-2:]]
    disk = [seconds(target) for _ in range(repeats) for target in versions]  # evicted in turn
    return [_against_goal("rollback over HTTP, in memory", memory),
            _against_goal("rollback over HTTP, read and verified", disk)]  # fmt: skip


def _against_goal(what: str, seconds: Sequence[float]) -> Row:
    milliseconds = [1e3 * s for s in seconds]
    middle = statistics.median(milliseconds)
    ratios = [m / GOAL_MS for m in milliseconds]
    note = f"{len(seconds)} rollbacks; yardstick: the goal"
    return Row(
        what, middle, GOAL_MS, "ms", middle / GOAL_MS, min(ratios), max(ratios), note, "less"
    )


def matrices(repeats: int) -> list[Row]:
    """Load and verify a version of 811 MB, from the page cache and not."""
    with tempfile.TemporaryDirectory(prefix="jeep-bench-") as folder:
        store = Store.open(Path(folder) / "store")
        generator = torch.Generator().manual_seed(0)
        refs = [
            tensors.put(store, f"matrix.{i}", torch.randn(SHAPE, generator=generator).half())
            for i in range(COUNT)
        ]
        os.sync()
        paths = [store.tensors.path(ref.sha256) for ref in refs]
        size = sum(path.stat().st_size for path in paths) / 1e6
        rows = []
        for warm in (True, False):
            pairs = []
            for _ in range(repeats):
                read = _timed(lambda: _read(paths), paths, warm)
                pairs.append((_timed(lambda: _load(store, refs), paths, warm), read))
            where = "page cache" if warm else "disk"
            rows.append(_times(f"load and verify {size:.0f} MB from {where}", pairs))
        return rows


def _load(store: Store, refs: Sequence[TensorRef]) -> dict[str, torch.Tensor]:
    return tensors.get_all(store, list(refs))


def _read(paths: Sequence[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def _timed(action: Callable[[], object], paths: Sequence[Path], warm: bool) -> float:
    """Seconds; the result is freed after the measurement."""
    for path in paths:
        with path.open("rb") as file:
            if not warm:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    result = action()
    seconds = time.perf_counter() - began
    del result
    return seconds


def _times(what: str, pairs: Sequence[tuple[float, float]]) -> Row:
    ratios = [ours / yardstick for ours, yardstick in pairs]
    ours, yardstick = (statistics.median(values) for values in zip(*pairs, strict=True))
    note = "goal ≤ 1.5; yardstick: reading the files into memory, unverified"
    middle = statistics.median(ratios)
    return Row(what, ours, yardstick, "s", middle, min(ratios), max(ratios), note, "less")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = run(args.repeats)
    print(json.dumps([asdict(row) for row in rows]) if args.json else table(rows))


if __name__ == "__main__":
    main()
