"""A chat program as it is published talks to ``/v1`` unchanged: ``llm`` from the package index."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.interop.served import serving
from support.library import folders

QUESTION = "Lyon?"
SHORT = {"temperature": 0, "max_tokens": 4}


@dataclass(frozen=True)
class Program:
    """``llm`` with a folder of its own, and the service that it is told of."""

    url: str
    folder: Path

    def says(self, *arguments: str) -> str:
        """The answer that it prints, greedy and short."""
        options = [part for name, value in SHORT.items() for part in ("-o", name, str(value))]
        command = [sys.executable, "-m", "llm", "-m", "jeep", *options, *arguments]
        environment = {**os.environ, "LLM_USER_PATH": str(self.folder), "OPENAI_API_KEY": "none"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.removesuffix("\n")

    def expected(self, *messages: tuple[str, str]) -> str:
        """The answer to messages without a program between."""
        asked: dict[str, Any] = {
            "model": "head",
            "messages": [{"role": role, "content": content} for role, content in messages],
            **SHORT,
        }
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=asked, timeout=300)
        return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("chat")
    folders.write_chat_folder(folder / "tiny-chat")
    own = folder / "llm"
    own.mkdir()
    with serving(folder / "tiny-chat", folder) as url:
        (own / "extra-openai-models.yaml").write_text(
            f'- model_id: jeep\n  model_name: head\n  api_base: "{url}/v1"\n'
        )
        yield Program(url, own)


def test_a_question_is_answered_as_a_stream_and_at_once(program: Program) -> None:
    expected = program.expected(("user", QUESTION))
    assert expected
    assert program.says(QUESTION) == expected
    assert program.says("--no-stream", QUESTION) == expected


def test_a_system_message_is_passed_on(program: Program) -> None:
    expected = program.expected(("system", "Go"), ("user", QUESTION))
    assert program.says("--system", "Go", QUESTION) == expected


def test_a_conversation_goes_on(program: Program) -> None:
    first = program.says(QUESTION)
    expected = program.expected(("user", QUESTION), ("assistant", first), ("user", "Osaka?"))
    assert program.says("--continue", "Osaka?") == expected


def test_what_the_service_refuses_is_shown(program: Program) -> None:
    with pytest.raises(AssertionError, match="/messages/0/content: at most 16384 characters"):
        program.says("--system", "x" * 20_000, QUESTION)
