"""The store's part of a commit, step by step: ``python -m bench.service.steps 100 10000``.

Stores as ``bench.service.growth`` makes them, in this process: no model computes, nothing waits for
a disk.  Milliseconds of processor time, medians; ``first`` is what a process pays once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.service.grown import Grown, facts, without_fsync
from bench.service.growth import edited
from bench.serving import service
from bench.shapes import random_model, save
from jeep_core.models.loading import load
from service.contracts.jobs import Job, JobStatus, new_id
from service.contracts.schemas import Manifest
from service.store import Store
from service.store.maintenance.retention import retained_versions

REPEATS = 12
STEP_S = 0.06
"""Between steps: a folder's time of change says nothing before that."""


class Timed:
    """Milliseconds of processor time by step."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {}

    def __call__(self, step: str, work: Callable[[], Any]) -> None:
        began = time.process_time()
        work()
        self.found.setdefault(step, []).append(1e3 * (time.process_time() - began))


def steps(folder: Path) -> dict[str, list[float]]:
    """Commits as an edit makes them, on the last version of a store; milliseconds by step."""
    store, timed = Store.open(folder), Timed()
    store.versions.keeps = 256
    parent = store.head.read().version
    like = store.versions.read(parent)
    job = store.journal.read(str(like.job_id))
    for _ in range(REPEATS):
        made = like.model_copy(update={"parent": parent, "tensors": [], "artifacts": []})
        parent = _commit(store, made, job, timed)
        time.sleep(STEP_S)
    return timed.found


def _commit(store: Store, made: Manifest, job: Job, timed: Timed) -> str:
    """One commit with all that is looked up around it, and head back and forth; its version."""
    one, parent = new_id("job"), str(made.parent)
    timed("count open jobs", store.journal.count_open)
    queued = job.model_copy(update={"id": one, "status": JobStatus.QUEUED, "result": None})
    timed("add the job", lambda: store.journal.add(queued))
    timed("has it moved head", lambda: store.head.move_of(one))
    timed("has it a version", lambda: store.catalogue.of_job(one))
    version = store.versions.new_id()
    fields = {"id": version, "job_id": one, "edit_id": f"edit_{version}"}
    timed("write the version", lambda: store.versions.write(made.model_copy(update=fields)))
    timed("move head", lambda: _move(store, version, parent, one))
    timed("end the job", lambda: store.journal.save(job.model_copy(update={"id": one})))
    timed("find it", store.catalogue.whole)
    timed("what was head", lambda: store.committed.covered(version))
    timed("what keeps tensors", lambda: retained_versions(store, 20))
    timed("move head back", lambda: _move(store, parent, version, None))
    _move(store, version, parent, None)
    return version


def _move(store: Store, to: str, expected: str, job: str | None) -> None:
    fence = store.head.read().fence
    store.head.move(to, expected=expected, job_id=job, fence=fence, who="worker", why="edit")


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("versions", type=int, nargs="*", default=[100, 10_000])
    args = parser.parse_args()
    columns = {}
    with tempfile.TemporaryDirectory(prefix="jeep-steps-") as temporary:
        root = Path(temporary)
        tiny = random_model("tiny", "cpu", torch.float32)
        model, store = str(save(tiny, root / "model")), root / "store"
        with service(model, "--store", str(store)) as (client, _):
            edited(client, facts(1, 10))
        grown = Grown(store, load(model))
        for versions in sorted(args.versions):
            grown.to(versions)
            with without_fsync():
                columns[versions] = steps(store)
    sizes = sorted(columns)
    print("| | " + " | ".join(f"{one:,} versions: first, then" for one in sizes) + " |")
    print("|---" * (len(sizes) + 1) + "|")
    for step in columns[sizes[0]]:
        cells = [f"{columns[n][step][0]:.1f}, {_rest(columns[n][step]):.2f} ms" for n in sizes]
        print(f"| {step} | {' | '.join(cells)} |")
    sums = [sum(map(_rest, columns[n].values())) for n in sizes]
    print("| all | " + " | ".join(f"{one:.1f} ms" for one in sums) + " |")


def _rest(times: list[float]) -> float:
    return statistics.median(times[2:])


if __name__ == "__main__":
    main()
