"""lm-eval's own command, and what it says of every request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """The figures of a run by task, and what was answered to every request."""

    figures: dict[str, dict[str, float]]
    answers: dict[str, list[list[Any]]]


def lm_eval(
    folder: Path, backend: str, arguments: str, *flags: str, tasks: str, where: Path
) -> Run:
    """Run lm-eval offline on tasks of the folder ``where``."""
    environment = {
        **os.environ,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OPENAI_API_KEY": "none",
        "TOKENIZERS_PARALLELISM": "false",
    }
    out = folder / "out"
    command = [sys.executable, "-m", "lm_eval", "--model", backend, "--model_args", arguments]
    command += ["--include_path", str(where), "--tasks", tasks, "--log_samples"]
    done = subprocess.run(
        [*command, "--output_path", str(out), *flags],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    [results] = out.rglob("results_*.json")
    answers = {}
    for name in tasks.split(","):
        [samples] = out.rglob(f"samples_{name}_*.jsonl")
        lines = [json.loads(line) for line in samples.read_text().splitlines()]
        answers[name] = [one["resps"] for one in sorted(lines, key=lambda one: one["doc_id"])]
    figures = {
        name: {key: value for key, value in found.items() if isinstance(value, int | float)}
        for name, found in json.loads(results.read_text())["results"].items()
    }
    return Run(figures, answers)


def numbers(found: Any) -> list[float]:
    """All numbers and truth values in nested lists, in order; lm-eval writes them as texts."""
    if isinstance(found, list):
        return [number for one in found for number in numbers(one)]
    if found in (True, False, "True", "False"):
        return [float(str(found) == "True")]
    return [float(found)]


def far(found: Any, expected: Any) -> float:
    """The largest difference of two lists of answers."""
    return max(abs(a - b) for a, b in zip(numbers(found), numbers(expected), strict=True))


def alike(found: Any, expected: Any) -> bool:
    """Whether answers are the same to 1e-3, and to 1e-5 of what many tokens sum up to.

    torch's log_softmax in float32, which lm-eval's ``hf`` backend takes, is up to 1e-5 too large
    for each token; this service's log-probabilities are not.
    """
    pairs = zip(numbers(found), numbers(expected), strict=True)
    return all(abs(a - b) < 1e-3 + 1e-5 * abs(b) for a, b in pairs)
