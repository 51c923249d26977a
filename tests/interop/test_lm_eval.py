"""lm-eval through ``/v1`` against its own ``hf`` backend on the same folder: ``make interop``.

The tasks and their data are in ``tasks/``.  With ``INTEROP_MODEL`` the folder of another model
is used; the bundled GPT-J otherwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.interop.served import serving
from support.library import folders

from jeep_core.atlas import MODELS

TASKS = Path(__file__).parent / "tasks"
SCORED = ("own_choice", "own_answer", "own_text")
ALL = (*SCORED, "own_writing")
LENGTH = 256
"""Tokens of a prompt with its answer: what the bundled models were made for."""
LESS = 2
"""lm-eval reads long texts from a server in windows that are so much shorter."""


@dataclass(frozen=True)
class Run:
    """The figures of a run by task, and what was answered to every request."""

    figures: dict[str, dict[str, float]]
    answers: dict[str, list[list[Any]]]


def lm_eval(folder: Path, backend: str, arguments: str, *flags: str, tasks: str) -> Run:
    """Run lm-eval offline."""
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
    command += ["--include_path", str(TASKS), "--tasks", tasks, "--log_samples"]
    done = subprocess.run(
        [*command, "--output_path", str(out), *flags],
        cwd=TASKS,
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


@pytest.fixture(scope="session")
def model() -> Path:
    return Path(os.environ.get("INTEROP_MODEL", MODELS["atlas-gptj"])).resolve()


@pytest.fixture(scope="session")
def service(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(model, tmp_path_factory.mktemp("service")) as url:
        yield url


@pytest.fixture(scope="session")
def expected(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    given = f"pretrained={model},dtype=float32,max_length={LENGTH - LESS}"
    folder = tmp_path_factory.mktemp("hf")
    return lm_eval(folder, "hf", given, "--device", "cpu", tasks=",".join(ALL))


@pytest.mark.parametrize("concurrent", [1, 4])
@pytest.mark.parametrize("tokenizer", ["huggingface", "remote"])
def test_completions_give_the_figures_of_the_model_itself(
    tokenizer: str, concurrent: int, service: str, model: Path, expected: Run, tmp_path: Path
) -> None:
    given = {
        "model": "head",
        "base_url": f"{service}/v1/completions",
        "tokenizer_backend": tokenizer,
        "num_concurrent": concurrent,
        "max_length": LENGTH,
    }
    if tokenizer == "huggingface":
        given["tokenizer"] = model
    arguments = ",".join(f"{name}={value}" for name, value in given.items())
    run = lm_eval(
        tmp_path, "local-completions", arguments, "--batch_size", "4", tasks=",".join(ALL)
    )
    for name in SCORED:
        assert run.figures[name] == pytest.approx(expected.figures[name], rel=1e-3, nan_ok=True)
        pairs = zip(numbers(run.answers[name]), numbers(expected.answers[name]), strict=True)
        far = max(abs(a - b) for a, b in pairs)
        print(f"{tokenizer}, {concurrent} at once, {name}: log-likelihoods within {far:.1e}")
        assert far < 1e-3
    assert run.answers["own_writing"] == expected.answers["own_writing"]
    assert run.figures["own_choice"]["acc,none"] > 0.5, "the model knows some of it"


def numbers(found: Any) -> list[float]:
    """All numbers and truth values in nested lists, in order; lm-eval writes them as texts."""
    if isinstance(found, list):
        return [number for one in found for number in numbers(one)]
    if found in (True, False, "True", "False"):
        return [float(str(found) == "True")]
    return [float(found)]


def test_every_question_is_answered_in_a_chat(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-chat"
    folders.write_chat_folder(folder)
    with serving(folder, tmp_path) as url:
        given = f"model=head,base_url={url}/v1/chat/completions,max_length=64"
        run = lm_eval(
            tmp_path, "local-chat-completions", given, "--apply_chat_template",
            tasks="own_writing",
        )  # fmt: skip
    assert len(run.answers["own_writing"]) == 8
