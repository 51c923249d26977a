"""The counts of ``jeep plan`` against measured figures: ``python -m bench.library.plans.values``.

For each model one process with one thread: it measures the rate of its matrix products, then the
peak of its resident size beside the weights, the size of the copies of matrices in bfloat16 that
stay after an edit (where the preset takes products in that type), and the time of second moments,
value optimisation and writing, on the CPU in float32.  Times are those of the processor, so that
other processes count less.  Estimates are those of ``jeep_core.sizing`` for the same facts, layers
and passes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import jeep_core
from bench.report import Row, table
from bench.workload import suite_facts
from jeep_core import atlas
from jeep_core.editing import edit_checked, tokenize
from jeep_core.editors import create, hparams_class, preset_hparams
from jeep_core.editors.search import start
from jeep_core.models.fused import rounding
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.moments.of_texts import corpus_texts
from jeep_core.monitor import Monitor
from jeep_core.sizing import memory, operations
from jeep_core.sizing.demand import Editing, Settings, Workload, editing_of
from jeep_core.sizing.devices import Rates
from jeep_core.sizing.plan import work_of
from jeep_core.sizing.source import known_model
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import merge, presets_for, validate_hparams
from jeep_core.values.objective import FactTokens
from jeep_core.values.optimiser import optimise
from jeep_core.values.prefixes import sample_prefixes

FACTS, SAMPLES = 16, 4096
RATE = 0.5
"""Learning rate where a model has no preset."""


def run(models: Sequence[str], facts: int, samples: int) -> list[Row]:
    """All models, each in a process of its own."""
    rows = []
    for model in models:
        command = [
            sys.executable,
            "-m",
            "bench.library.plans.values",
            "--facts",
            str(facts),
            "--one",
            model,
        ]
        command += ["--samples", str(samples)]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        said = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=one_thread
        ).stdout
        rows += [Row(**row) for row in json.loads(said.splitlines()[-1])]
    return rows


def measure(model: str, count: int, samples: int, folder: Path) -> list[Row]:
    """One model in this process; second moments are kept in ``folder``."""
    torch.set_num_threads(1)
    known = known_model(model)
    base = jeep_core.load(model, device="cpu", dtype="float32")
    hparams = _hparams(base, count)
    editing = editing_of(known.architecture, model, "jeep", facts=count)
    facts = suite_facts(count)
    texts = sample_prefixes(base, hparams.prefix_count)
    load = replace(workload(base, tokenize(base, facts, texts)), samples=samples)
    settings = Settings("float32", device="cpu", versions=0)
    rates = measured_rates(known.architecture.d, known.architecture.d_ff)
    _warm_up(base, tokenize(base, facts[:1], texts[:2]), hparams)
    _drop_copies(base)  # they are the edit's
    weights = _resident()
    moments = Moments(base, corpus_texts(model, atlas.CORPUS), samples, folder, shipped=False)
    peaks, seconds, passes = _edit(base, facts, hparams, texts, moments, weights)
    kept = _resident()
    _drop_copies(base)
    peaks["copies in bfloat16"] = kept - _resident()
    return [
        *_memory_rows(model, known.architecture, editing, load, settings, peaks),
        *_time_rows(model, known.architecture, editing, load, settings, seconds, passes, rates),
    ]


def _edit(
    base: LoadedModel,
    facts: list[Fact],
    hparams: Any,
    texts: Sequence[str],
    moments: Moments,
    weights: int,
) -> tuple[dict[str, int], dict[str, float], float]:
    """Second moments and an edit: peaks in bytes, times in seconds, and passes for a fact."""
    seconds: dict[str, float] = {}
    held, spent = _peak(lambda: moments.ensure(hparams.moment_layers), weights)
    peaks = {"second moments": held}
    seconds["second moments"] = spent
    began: dict[str, float] = {}

    def report(phase: str, done: int, total: int) -> None:
        began.setdefault(phase.partition(" ")[0], time.process_time())

    kept: list[Any] = []
    view = ModelView(base)
    started = time.process_time()
    peaks["an edit"], spent = _peak(
        lambda: kept.append(
            edit_checked(
                view, facts, "jeep", hparams, prefixes=texts, moments=moments,
                monitor=Monitor(report),
            )
        ),
        weights,
    )  # fmt: skip
    seconds["value optimisation"] = began["write"] - started
    seconds["factors and writing"] = spent - seconds["value optimisation"]
    return peaks, seconds, float(kept[0].values.steps.float().mean())


def workload(base: LoadedModel, rows: Sequence[FactTokens]) -> Workload:
    """The tokens of these facts, padded as batches of like facts are: the mean of the longest."""
    fact = [row for one in rows for row in one.rows]
    left = [one.rows[0].subject_last for one in rows]
    segment = [max(r.prediction + r.n_target - r.subject_last for r in one.rows) for one in rows]
    prefix = [
        max(r.subject_last for r in one.rows) - one.rows[0].subject_last for one in rows
    ]  # fmt: skip
    return Workload(
        facts=len(rows),
        prefix=_mean(prefix),
        left=_mean(left),
        segment=_mean(segment),
        answer=_mean([row.n_target for row in fact]),
        clients=0,
    )


def measured_rates(d: int, d_ff: int) -> Rates:
    """Operations a second of products of an edit's sizes, in float32 and float64."""
    single = max(_rate(512, d, d_ff, torch.float32) for _ in range(5))
    double = max(_rate(512, d, d_ff, torch.float64) for _ in range(5))
    return Rates(single, single, double)


def _rate(tokens: int, d: int, d_ff: int, dtype: torch.dtype) -> float:
    left, right = torch.randn(tokens, d, dtype=dtype), torch.randn(d, d_ff, dtype=dtype)
    times = 8
    began = time.process_time()
    for _ in range(times):
        left @ right
    return 2 * times * tokens * d * d_ff / (time.process_time() - began)


def _hparams(base: LoadedModel, facts: int) -> Any:
    """The model's preset, or where a search for one begins."""
    known = {p.name: p.hparams for p in presets_for(base.name) if p.editor == "jeep"}
    if known:
        return preset_hparams("jeep", known, None, {}, base.n_layers)[1]
    begin = merge(start("jeep", base.n_layers, facts), {"learning_rate": RATE})
    return validate_hparams(hparams_class("jeep"), begin, base.n_layers)


def _warm_up(base: LoadedModel, rows: Sequence[FactTokens], hparams: Any) -> None:
    """Run a little of everything: what libraries set up at their first use is no edit's memory."""
    objective = create("jeep").anchor_objective(hparams)  # type: ignore[attr-defined]
    optimise(ModelView(base), rows, replace(objective, n_steps=2))
    lower = torch.linalg.cholesky(torch.eye(256, dtype=torch.float64))
    torch.linalg.solve_triangular(lower, lower, upper=False)


def _drop_copies(base: LoadedModel) -> None:
    """Free the copies in bfloat16 that are kept of a model's matrices."""
    rounding._models.pop(base.model, None)
    gc.collect()


def _resident() -> int:
    """The resident size in bytes, without what the allocator keeps for later."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("VmRSS")


def _peak(work: Callable[[], object], before: int) -> tuple[int, float]:
    """The most that is resident during a call, in bytes beyond ``before``, and its time."""
    _resident()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    began = time.process_time()
    work()
    return _status("VmHWM") - before, time.process_time() - began


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(name + ":"))
    return 1024 * int(line.split()[1])


def _memory_rows(
    model: str,
    arch: Any,
    editing: Editing,
    load: Workload,
    settings: Settings,
    peaks: dict[str, int],
) -> list[Row]:
    found = memory.need(arch, editing, load, settings).parts
    first_edit = max(
        found["values"] - memory.factors_kept(arch, editing, load, settings), found["writing"]
    )
    copies = memory.need(arch, editing, load, settings).copies
    counted = {
        "second moments": found["moments"],
        "an edit": first_edit + copies,
        "copies in bfloat16": copies,
    }
    return [
        _row(f"{model}: memory of {name}", peaks[name] / 1e6, counted[name] / 1e6, "MB")
        for name in peaks
        if counted[name]
    ]


def _time_rows(
    model: str,
    arch: Any,
    editing: Editing,
    load: Workload,
    settings: Settings,
    seconds: dict[str, float],
    passes: float,
    rates: Rates,
) -> list[Row]:
    parts = work_of(arch, editing, load, settings, passes)
    writing = parts["writing"].times(1) + parts["factors"]
    counted = {
        "second moments": parts["second moments"],
        "value optimisation": parts["value optimisation"],
        "factors and writing": operations.Work(
            writing.matrix, writing.single, writing.double, writing.read_bytes
        ),
    }
    note = f"{rates.single / 1e9:.0f} GFLOP/s, {rates.double / 1e9:.0f} in float64, "
    note += f"{passes:.1f} passes, {load.facts} facts"
    return [
        _row(f"{model}: time of {name}", seconds[name], rates.seconds(counted[name]), "s", note)
        for name in seconds
    ]


def _row(what: str, measured: float, counted: float, unit: str, note: str = "") -> Row:
    ratio = measured / counted
    return Row(what, measured, counted, unit, ratio, ratio, ratio, note, better="near one")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(atlas.MODELS))
    parser.add_argument("--facts", type=int, default=FACTS)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="tokens for second moments")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(args.one, args.facts, args.samples, Path(folder))
        print(json.dumps([asdict(row) for row in rows]))
        return
    print("ours: measured; yardstick: counted; ratio: measured / counted\n")
    print(table(run(args.models, args.facts, args.samples)))


if __name__ == "__main__":
    main()
