"""Where passes of value optimisation spend their time: ``python -m bench.library.passes MODEL``.

Optimises the low vectors of some facts with the hyper-parameters that are chosen for the model, on
one thread, under torch's profiler.  Prints the time of all passes against that of their matrix
products at the rate of a large product of the same type, and what the rest is.

    python -m bench.library.passes FOLDER --facts 16
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import jeep_core
from bench.library.writing_once import PROMPTS, SUBJECTS
from jeep_core.editing import prepare_facts, tokenize
from jeep_core.editors.base import objective_for
from jeep_core.models.views import ModelView
from jeep_core.probe.defaults.choose import choose
from jeep_core.values.optimiser import FactTokens, Objective, optimise
from jeep_core.values.prefixes import sample_prefixes

GROUPS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mkldnn", "linear"),
    "copies and casts": ("copy_", "cat", "clone", "contiguous", "to_copy", "fill_", "zero_"),
    "indexing": ("index", "gather", "scatter", "embedding", "nonzero", "slice_backward"),
    "softmax": ("softmax",),
    "activations": ("gelu", "silu", "tanh", "sigmoid"),
    "sums and norms": ("sum", "mean", "norm", "pow", "rsqrt"),
}


def main() -> None:
    """Profile one model and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--facts", type=int, default=16)
    parser.add_argument("--prefixes", type=int, help="instead of those that are chosen")
    parser.add_argument("--float32", action="store_true", help="Weights and products in float32.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = jeep_core.load(args.model, device="cpu", dtype="float32" if args.float32 else "auto")
    changes: dict[str, Any] = {"contexts": "plain", "optimise": "low"}
    if args.prefixes is not None:
        changes |= {"n_prefixes": args.prefixes, "early_prefixes": None}
    if args.float32:
        changes["compute_dtype"] = "model"
    with tempfile.TemporaryDirectory() as folder:
        chosen, _ = choose(base, "jeep", folder=Path(folder), changes=changes)
    hparams: Any = chosen.hparams
    objective = objective_for("jeep", hparams)
    assert objective is not None
    asked = [
        {"subject": SUBJECTS[i % 8], "prompt": PROMPTS[(i // 8 + i) % 4], "target_new": "Rome"}
        for i in range(args.facts)
    ]
    rows = tokenize(base, prepare_facts(base, asked), sample_prefixes(base, hparams.n_prefixes))
    dtype = base.dtype if objective.compute_dtype == "model" else objective.compute_dtype
    print(f"{dtype}, low region to block {objective.low.last}")
    report(base, rows, objective)


def report(base: Any, rows: list[FactTokens], objective: Objective) -> None:
    """Optimise once to warm up, once by the clock, and once under the profiler."""
    optimise(ModelView(base), rows, objective)
    began = time.process_time()
    values = optimise(ModelView(base), rows, objective)
    seconds = time.process_time() - began
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as seen:
        optimise(ModelView(base), rows, objective)
    by_group: dict[str, float] = defaultdict(float)
    by_name: dict[str, float] = defaultdict(float)
    operations = 0.0
    for event in seen.key_averages():
        by_group[_group(event.key)] += event.self_cpu_time_total / 1e6
        by_name[event.key] += event.self_cpu_time_total / 1e6
        operations += event.flops
    total = sum(by_group.values())
    rate = product_rate(base, objective.compute_dtype == "bfloat16")
    ideal = operations / rate
    print(
        f"{len(rows)} facts, {float(values.steps.float().mean()):.1f} passes a fact, "
        f"{seconds:.2f} s of CPU; {operations / 1e9:.0f} GFLOP in products, at {rate / 1e9:.0f} "
        f"GFLOP/s {ideal:.2f} s: {seconds / ideal:.2f} times that"
    )
    for name, spent in sorted(by_group.items(), key=lambda item: -item[1]):
        print(f"  {name:18s} {spent / total:6.1%}")
    for name, spent in sorted(by_name.items(), key=lambda item: -item[1])[:25]:
        print(f"    {name:50s} {spent / total:6.1%}")


def product_rate(base: Any, bfloat16: bool) -> float:
    """Operations a second of a product of 512 rows with an MLP's matrix, the best of many."""
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    projection = base.family.mlp_out_of(base.model, 0)
    matrix = projection.weight.detach().to(dtype)
    x = torch.randn(512, matrix.shape[1], dtype=dtype)
    best = float("inf")
    for _ in range(50):
        began = time.process_time()
        torch.nn.functional.linear(x, matrix)
        best = min(best, time.process_time() - began)
    return 2 * x.numel() * len(matrix) / best


def _group(name: str) -> str:
    """The group of an operation; gradients of torch's own steps count as what they compute."""
    plain = name.removeprefix("aten::").lstrip("_").removesuffix("_")
    for group, names in GROUPS.items():
        if any(plain.startswith(one.rstrip("_")) for one in names):
            return group
    return "element-wise and other"


if __name__ == "__main__":
    main()
