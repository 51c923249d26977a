"""How the cost of value optimisation grows: ``python -m bench.library.scaling``.

Facts, prefixes and prompt length on the bundled GPT-J, depth and MLP width on random models of
its shape.  Every fact makes the same number of passes, so that points can be compared.  Short
points are the minimum of three runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import GPTJConfig, GPTJForCausalLM

from bench.workload import SEED, seconds, suite_facts, workload
from jeep_core.editing import tokenize
from jeep_core.models.loading import LoadedModel, wrap
from jeep_core.models.views import ModelView
from jeep_core.values.optimiser import FactTokens, Objective, optimise
from jeep_core.values.prefixes import sample_prefixes

MODEL = "atlas-gptj"
FACTS, PASSES = 16, 2
FILLER = "As every map of the world has shown for a very long time, "


@dataclass(frozen=True)
class Point:
    """One measurement: ``ms`` per fact at ``x`` of ``axis``."""

    axis: str
    x: int
    ms: float


def run() -> list[Point]:
    """All axes."""
    base, facts, objective = workload(MODEL, 1024)
    fixed = replace(objective, n_steps=PASSES, stop_probability=None)
    optimise(ModelView(base), facts[:8], fixed)
    points = [_point("facts", n, base, facts[:n], fixed) for n in (1, 4, 16, 64, 256, 1024)]
    for n in (1, 3, 6, 11):
        rows = tokenize(base, suite_facts(FACTS), sample_prefixes(base, n))
        points.append(_point("prefixes", n, base, rows, fixed))
    for n in (0, 1, 2, 4, 8):
        points.append(_longer_prompts(n, base, fixed))
    for layers in (8, 9, 12, 18):
        points.append(_random_model("layers", layers, base, fixed, n_layer=layers))
    for width in (768, 1728, 3456, 6912):
        points.append(_random_model("d_ff", width, base, fixed, n_inner=width))
    return points


def _point(
    axis: str, x: int, base: LoadedModel, facts: list[FactTokens], objective: Objective
) -> Point:
    run: Callable[[], object] = lambda: optimise(ModelView(base), facts, objective)  # noqa: E731
    repeats = 3 if len(facts) <= FACTS else 1
    return Point(axis, x, 1000 * min(seconds(run) for _ in range(repeats)) / len(facts))


def _longer_prompts(n: int, base: LoadedModel, objective: Objective) -> Point:
    """The filler is put after the subject's first occurrence, before the prompt's end."""
    cases = [
        replace(case, prompt=case.prompt.replace("{}", "{}. " + FILLER * n + "{}", 1))
        if n
        else case
        for case in suite_facts(FACTS)
    ]
    cases = [
        replace(case, prompt=case.prompt.replace("{}", case.subject, 1)) if n else case
        for case in cases
    ]
    rows = tokenize(base, cases, sample_prefixes(base, 6))
    tokens = sum(len(fact.rows[0].ids) for fact in rows) // len(rows)
    return _point("prompt tokens", tokens, base, rows, objective)


def _random_model(
    axis: str, x: int, base: LoadedModel, objective: Objective, **changes: int
) -> Point:
    config = GPTJConfig(**{**base.model.config.to_dict(), "dtype": "float32", **changes})
    torch.manual_seed(SEED)
    made: Any = GPTJForCausalLM(config)
    model = wrap(f"random-{axis}-{x}", made.eval(), base.tokenizer)
    rows = tokenize(model, suite_facts(FACTS), sample_prefixes(base, 6))
    return _point(axis, x, model, rows, objective)


def markdown(points: list[Point]) -> str:
    """One line per axis."""
    axes = dict.fromkeys(point.axis for point in points)
    lines = ["| axis | ms per fact |", "|---|---|"]
    for axis in axes:
        cells = ", ".join(f"{p.x}: {p.ms:.0f}" for p in points if p.axis == axis)
        lines.append(f"| {axis} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(markdown(run()))


if __name__ == "__main__":
    main()
