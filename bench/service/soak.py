"""Mixed work for half an hour, and what the processes need: ``python -m bench.service.soak``.

Edits, reverts, rollbacks, generations (some cancelled midway) and evaluations run at once on
one service.  Every few seconds: memory, open files and threads of each process, keys of the queue
server, size of the store.  ``--draw`` makes the plot from the JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from redis import Redis

from bench.serving import body, service
from jeep_core.reports import colours, style
from jeep_core.storage.looking import files_below
from jeep_core.suites import load_counterfact
from service.client import ApiError, Client
from service.ops.embedded_server import EmbeddedValkey
from service.store.maintenance.room import MB, size_of

EVERY_S = 5.0
WAIT_S = 1800.0
SUITE = "atlas-counterfact"
PROCESSES = ("api", "worker", "valkey")
REFUSED = (404, 409, 412, 429)
"""Answers that mixed work may get: another one came first."""


class Load:
    """Clients that each do one kind of work until they are stopped; ``done`` counts."""

    def __init__(self, url: str, seed: int) -> None:
        self._url, self._random = url, random.Random(seed)
        self._cases = load_counterfact(SUITE).cases
        self.done: Counter[str] = Counter()
        self.problems: list[str] = []
        self._stop = threading.Event()

    def __enter__(self) -> Load:
        kinds = (self._edits, self._answers, self._answers, self._streams, self._evaluations)
        self._threads = [threading.Thread(target=self._repeat, args=(kind,)) for kind in kinds]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, turn: Callable[[Client], float]) -> None:
        with Client(self._url, timeout=300) as client:
            while not self._stop.is_set():
                try:
                    pause = turn(client)
                except ApiError as error:
                    pause = 1.0
                    self.done["refused"] += 1
                    if error.problem.status not in REFUSED:
                        self.problems.append(str(error))
                self._stop.wait(pause)

    def _edits(self, client: Client) -> float:
        """Mostly an edit; now and then a rollback, or a revert of the last edit."""
        kind = self._random.choices(("edit", "rollback", "revert"), (6, 2, 1))[0]
        if kind == "rollback":
            client.rollback(self._random.choice([s.id for s in client.snapshots()]))
        elif kind == "revert":
            edit_id = client.snapshot().edit_id
            if edit_id is None:
                return 0.0
            self._ended(client, client.revert(edit_id).id)
        else:
            chosen = self._random.sample(range(len(self._cases)), 2)
            self._ended(client, client.edit([_fact(self._cases[i]) for i in chosen]).id)
        self.done[kind] += 1
        return 3.0

    def _ended(self, client: Client, job_id: str) -> None:
        job = client.wait(job_id, timeout=WAIT_S)
        if job.status != "succeeded" and (job.error is None or job.error.code != "not_applied"):
            self.problems.append(f"{job.kind} {job.status}: {job.error}")

    def _answers(self, client: Client) -> float:
        request = body(self.done["generation"])
        client.generate(request.pop("prompt"), **request)
        self.done["generation"] += 1
        return 1.0

    def _streams(self, client: Client) -> float:
        """Every other one is cancelled after three tokens."""
        whole = self.done["stream"] % 2 == 0
        request = body(self.done["stream"], 32)
        for n, _ in enumerate(client.stream(request.pop("prompt"), **request)):
            if not whole and n == 3:
                break
        self.done["stream"] += 1
        return 1.0

    def _evaluations(self, client: Client) -> float:
        job = client.evaluate(suite=SUITE, versions=["head", "base"], limit=8)
        self._ended(client, job.id)
        self.done["evaluation"] += 1
        return 20.0


def _fact(case: Any) -> dict[str, Any]:
    return {"subject": case.subject, "prompt": case.prompt, "target_new": case.target_new}


def measure(owner: psutil.Process, valkey: int, redis: Redis, store: Path) -> dict[str, float]:
    """The resources of every process, keys of the queue server, bytes of the store."""
    found: dict[str, float] = {f"{p}_{what}": 0 for p in PROCESSES for what in ("mb", "fds", "n")}
    for process in [psutil.Process(valkey), owner, *owner.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            name = "valkey" if process.pid == valkey else _kind(process)
            found[f"{name}_mb"] += process.memory_info().rss / MB
            found[f"{name}_fds"] += process.num_fds()
            found[f"{name}_n"] += process.num_threads()
    found["keys"] = int(redis.dbsize())
    found["store_mb"] = sum(map(size_of, files_below(store))) / MB
    return {name: round(value, 2) for name, value in found.items()}


def _kind(process: psutil.Process) -> str:
    return "worker" if "service.worker" in process.cmdline() else "api"


@contextmanager
def _queue_server() -> Iterator[EmbeddedValkey]:
    with TemporaryDirectory(prefix="jeep-soak-") as folder, EmbeddedValkey(Path(folder)) as server:
        yield server


def run(minutes: float, seed: int) -> dict[str, Any]:
    """All samples, counts of the work done, and errors."""
    with _queue_server() as server, TemporaryDirectory(prefix="jeep-soak-") as folder:
        store = Path(folder) / "store"
        options = ("--redis-url", server.url, "--store", str(store), "--rate-per-minute", "0")
        with service("atlas-gptj", *options) as (_, url), Redis.from_url(server.url) as redis:
            owner = next(p for p in psutil.Process().children() if "serve" in p.cmdline())
            samples = []
            with Load(url, seed) as load:
                began = time.monotonic()
                while (now := time.monotonic() - began) < 60 * minutes:
                    sample = measure(owner, server.pid or 0, redis, store)
                    samples.append({"minutes": round(now / 60, 3), **sample})
                    time.sleep(EVERY_S)
    return {
        "minutes": minutes,
        "seed": seed,
        "cores": os.cpu_count(),
        "done": dict(sorted(load.done.items())),
        "problems": load.problems,
        "samples": samples,
    }


def markdown(found: dict[str, Any]) -> str:
    """Medians of the second and the last sixth of the time."""
    samples, sixth = found["samples"], max(1, len(found["samples"]) // 6)
    parts = samples[sixth : 2 * sixth], samples[-sixth:]
    lines = ["| | early | at the end |", "|---|---|---|"]
    for name in (n for n in samples[0] if n != "minutes"):
        early, late = (sorted(s[name] for s in part)[len(part) // 2] for part in parts)
        lines.append(f"| {name.replace('_n', '_threads')} | {early:,.0f} | {late:,.0f} |")
    return "\n".join([*lines, "", json.dumps(found["done"]), *found["problems"]])


def draw(found: dict[str, Any], path: Path) -> None:
    """Memory, open files, threads and keys against time."""
    samples = found["samples"]
    x = [sample["minutes"] for sample in samples]
    looks = zip(
        PROCESSES, (colours.BLUE, colours.VERMILION, colours.GREEN), ("-", "--", ":"), strict=True
    )
    with style.drawing():
        figure, panels = style.panels(2, 2, 3.2, sharex=True)
        for name, color, dashes in looks:
            for axes, part in zip(panels.flat, ("mb", "fds", "n"), strict=False):
                y = [sample[f"{name}_{part}"] for sample in samples]
                axes.plot(x, y, color=color, linestyle=dashes, label=name)
        panels[1][1].plot(x, [sample["keys"] for sample in samples], color=colours.BLACK)
        labels = ("resident memory (MB)", "open files", "threads", "Redis keys")
        for axes, label in zip(panels.flat, labels, strict=True):
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
        for axes in panels[1]:
            axes.set_xlabel("minutes")
        style.legend_above(figure, panels[0][0], len(PROCESSES))
        figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench/results/soak.json"))
    parser.add_argument("--draw", type=Path, help="only print the table and make this plot")
    args = parser.parse_args()
    if args.draw is None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(run(args.minutes, args.seed)) + "\n")
    found = json.loads(args.out.read_text())
    print(markdown(found))
    if args.draw is not None:
        draw(found, args.draw)


if __name__ == "__main__":
    main()
