"""All speed benchmarks in one go: ``make bench`` or ``python -m bench``.

Prints one table, writes ``performance.json`` and the plots.  Every ratio compares two
procedures run in this very process or by services it starts, on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from bench.library import scaling
from bench.plots import draw
from bench.report import Row, table

PARTS = {
    "values": ("bench.library.values", 2),
    "moments": ("bench.library.moments", 2),
    "solve": ("bench.library.solve", 2),
    "generation": ("bench.service.generation", 2),
    "versions": ("bench.service.versions", 3),
    "edits": ("bench.service.edits", 1),
}
"""Modules with their repeats."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args()
    began = time.monotonic()
    threads = torch.get_num_threads()
    rows: list[Row] = []
    for name in args.parts:
        start = time.monotonic()
        torch.set_num_threads(threads)  # a part may have changed it
        module, repeats = PARTS[name]
        found: list[Row] = list(import_module(module).run(repeats))  # some yield as they measure
        print(f"{name}: {time.monotonic() - start:.0f} s\n{table(found)}\n", flush=True)
        rows += found
    torch.set_num_threads(threads)
    points = scaling.run()
    print(f"\n{table(rows)}\n\n{scaling.markdown(points)}\n")
    figures: dict[str, Any] = {
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": threads,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "torch": torch.__version__,
        },
        "rows": [asdict(row) for row in rows],
        "scaling": [asdict(point) for point in points],
        "seconds": round(time.monotonic() - began),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "performance.json").write_text(json.dumps(figures, indent=1) + "\n")
    draw(figures, args.out)
    print(f"{figures['seconds']} s in all; figures and plots are in {args.out}/")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
