"""lm-eval through ``/v1`` against its own ``hf`` backend on the same folder: ``make interop``.

The tasks and their data are in ``tasks/``.  With ``INTEROP_MODEL`` the folder of another model
is used; the bundled GPT-J otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.interop.lm_eval_command import Run, alike, far, lm_eval
from support.interop.served import serving
from support.library import folders

TASKS = Path(__file__).parent / "tasks"
SCORED = ("own_choice", "own_answer", "own_text")
ALL = (*SCORED, "own_writing")
LENGTH = 256
"""Tokens of a prompt with its answer: what the bundled models were made for."""
LESS = 2
"""lm-eval reads long texts from a server in windows that are so much shorter."""


@pytest.fixture(scope="session")
def service(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(model, tmp_path_factory.mktemp("service")) as url:
        yield url


@pytest.fixture(scope="session")
def expected(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    given = f"pretrained={model},dtype=float32,max_length={LENGTH - LESS}"
    folder = tmp_path_factory.mktemp("hf")
    return lm_eval(folder, "hf", given, "--device", "cpu", tasks=",".join(ALL), where=TASKS)


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
        tmp_path,
        "local-completions",
        arguments,
        "--batch_size",
        "4",
        tasks=",".join(ALL),
        where=TASKS,
    )
    for name in SCORED:
        assert run.figures[name] == pytest.approx(expected.figures[name], rel=1e-3, nan_ok=True)
        most = far(run.answers[name], expected.answers[name])
        print(f"{tokenizer}, {concurrent} at once, {name}: log-likelihoods within {most:.1e}")
        assert alike(run.answers[name], expected.answers[name])
    assert run.answers["own_writing"] == expected.answers["own_writing"]
    assert run.figures["own_choice"]["acc,none"] > 0.5, "the model knows some of it"


def test_every_question_is_answered_in_a_chat(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-chat"
    folders.write_chat_folder(folder)
    with serving(folder, tmp_path) as url:
        given = f"model=head,base_url={url}/v1/chat/completions,max_length=64"
        run = lm_eval(
            tmp_path, "local-chat-completions", given, "--apply_chat_template",
            tasks="own_writing", where=TASKS,
        )  # fmt: skip
    assert len(run.answers["own_writing"]) == 8
