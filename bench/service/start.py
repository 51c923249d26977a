"""The parts of a service's start: ``python -m bench.service.start MODEL --against COMMIT``.

Starts ``jeep serve`` on an empty store with the code as it is and with an earlier commit's, in
turn, and prints for each tree the seconds until the worker's process existed, its modules were
imported, the model was loaded and ``GET /readyz`` was 200, and the processor time of the worker and
of the process with the api; with the ratio of the two trees, which load on the machine falsifies
least.
Every tree is started once before, so that all byte code is there.

    python -m bench.service.start atlas-llama --against 2cb9a985 --repeats 5
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import psutil

from bench.trees import HERE, tree_of
from bench.workload import median

POLL_S = 0.02
PARTS = ("worker started", "modules imported", "model loaded", "ready")
CPU = ("CPU of the worker", "CPU of the api")
STARTED = re.compile(r"worker started \(process (\d+)\)")
ADDRESS = re.compile(r"listening at (\S+)")
IMPORTED = re.compile(r"\bloading \S+ +\[service")
LOADED = re.compile(r" on \S+ in torch\.")


def main() -> None:
    """Start each tree in turn and print what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--against", help="an earlier commit; default: this tree alone")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jeep-bench-") as temporary:
        trees = {"now": HERE}
        if args.against is not None:
            trees = {"former": tree_of(args.against, Path(temporary)), **trees}
        for tree in trees.values():
            start(tree, args.model)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
        for _ in range(args.repeats):
            for name, tree in trees.items():
                runs[name].append(start(tree, args.model))
    print("\n".join(table(runs)))


def start(tree: Path, model: str) -> dict[str, float]:
    """One start with the code of ``tree``: seconds since it began, and processor seconds.

    Raises:
        RuntimeError: the service ended instead.
    """
    began = time.time()  # as the system says when a process was created
    found: dict[str, float] = {}
    with _serving(tree, model) as (process, lines):
        for line in lines:
            at = time.time() - began
            if said := STARTED.search(line):
                worker = psutil.Process(int(said[1]))
                found["worker started"] = worker.create_time() - began
            elif said := ADDRESS.search(line):
                url = f"{said[1]}/readyz"
            elif IMPORTED.search(line):
                found["modules imported"] = at
            elif LOADED.search(line):
                found["model loaded"] = at
                break
        else:
            raise RuntimeError(f"the service of {tree} ended with {process.wait()}")
        while httpx.get(url, timeout=10).status_code != 200:
            time.sleep(POLL_S)
        found["ready"] = time.time() - began
        for name, one in zip(CPU, (worker, psutil.Process(process.pid)), strict=True):
            times = one.cpu_times()
            found[name] = times.user + times.system
    return found


def table(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Lines of a table: medians and ranges of every tree, and the ratio, ``now`` to ``former``."""
    lines = ["| | " + " | ".join(runs) + (" | ratio |" if len(runs) > 1 else " |")]
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    for part in (*PARTS, *CPU):
        every = {name: [run[part] for run in found] for name, found in runs.items()}
        cells = [_spread(seconds, " s") for seconds in every.values()]
        if len(every) > 1:
            pairs = zip(every["now"], every["former"], strict=True)
            cells.append(_spread([now / former for now, former in pairs], ""))
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    return lines


def _spread(values: list[float], unit: str) -> str:
    return f"{median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"


@contextmanager
def _serving(tree: Path, model: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """``jeep serve`` of a tree on a free port with an empty store, and what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "JEEP_LOG_LEVEL": "info"}
    command = [sys.executable, "-P", "-m", "service.cli", "serve", "--model", model]
    with tempfile.TemporaryDirectory(prefix="jeep-bench-") as folder:
        process = subprocess.Popen(
            [*command, "--auth", "off", "--port", "0", "--store", f"{folder}/store"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=tree,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.terminate()
            process.communicate(timeout=60)


if __name__ == "__main__":
    main()
