"""``jeep evaluate``: what it asks for, and how it shows figures of free answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from support.service.finished_jobs import interval
from typer.testing import CliRunner

from service.cli import app
from service.cli.commands import evaluations
from service.client import Client
from service.contracts.jobs import JobStatus, Progress, now
from service.contracts.schemas.evaluation import (
    Evaluation,
    EvaluationComparison,
    EvaluationPoint,
    EvaluationResult,
    JudgeRecord,
    MetricProtocol,
    Target,
)

PROTOCOL = MetricProtocol(
    asked="edits", how="as plain text", judged="as equal texts", comparable="the same"
)


def evaluation() -> Evaluation:
    names = (
        "efficacy", "free_exact", "free_contains_generalization", "free_kept", "judge",
        "portability/2 hops", "free_contains_portability/2 hops",
    )  # fmt: skip
    point = EvaluationPoint(
        label="head", version="v1", cases=2, seconds=0.1,
        metrics={name: interval(50) for name in names},
    )  # fmt: skip
    result = EvaluationResult(
        evaluation_id="eval_1", suite="mine", style="contrast", seed=0, points=[point],
        protocols={"free_exact": PROTOCOL, "efficacy": PROTOCOL}, suite_sha256="5" * 64,
        judge=JudgeRecord(model="gpt-x", address="http://j/v1", answers=4, unclear=1),
    )  # fmt: skip
    return Evaluation(
        id="eval_1", job_id="job_1", status=JobStatus.SUCCEEDED, suite="mine",
        targets=[Target(label="head", version="v1")], editor=None, preset=None, hparams={},
        limit=None, seed=0, created_at=now(), progress=Progress(), result=result,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "free"),
    [
        ((), None),
        (("--free",), {}),
        (("--free-tokens", "8"), {"max_new_tokens": 8}),
        (("--judge",), {"judge": {}}),
        (
            ("--judge-model", "m", "--judge-address", "http://j/v1"),
            {"judge": {"model": "m", "address": "http://j/v1"}},
        ),
    ],
)
def test_options_become_the_field_of_the_request(
    words: tuple[str, ...], free: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def evaluate(self: Client, suite: str, versions: Any, **options: Any) -> Any:
        asked.append(options)
        return SimpleNamespace(id="job_1", resource_id="eval_1")

    monkeypatch.setattr(Client, "evaluate", evaluate)
    monkeypatch.setattr(evaluations, "finish", lambda *_: evaluation())
    shown = CliRunner().invoke(app, ["evaluate", "mine", *words])
    assert shown.exit_code == 0, shown.output
    assert asked[0]["free"] == free


def test_measuring_shows_the_figures_and_where_their_definitions_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = evaluation()
    monkeypatch.setattr(Client, "evaluate", lambda *_, **__: SimpleNamespace(id="", resource_id=""))
    monkeypatch.setattr(Client, "wait", lambda *_: SimpleNamespace(status=JobStatus.SUCCEEDED))
    monkeypatch.setattr(Client, "evaluation", lambda *_: shown)
    measured = CliRunner().invoke(app, ["evaluate", "mine"])
    assert measured.exit_code == 0, measured.output
    assert "50.0 (49.0 to 52.0)" in measured.output
    assert "Asked:" not in measured.output
    assert f"jeep evaluations show {shown.id}" in measured.output
    assert "Asked:" in CliRunner().invoke(app, ["evaluations", "show", shown.id]).output


def test_figures_are_shown_with_how_they_came_about() -> None:
    console = Console(width=200, record=True)
    console.print(evaluations.evaluation_table(evaluation()))
    lines = console.export_text().splitlines()

    def line_of(*words: str) -> str:
        [found] = [line for line in lines if all(word in line for word in words)]
        return found

    for words in (
        ("edit prompt", "exact match"), ("rephrasing", "contains"), ("neighbor", "as base"),
        ("2 hops", "tokens"), ("2 hops", "contains"),
    ):  # fmt: skip
        assert "50.0 (49.0 to 52.0)" in line_of(*words)
    assert line_of("SHA-256").strip() == f"SHA-256 of mine: {'5' * 64}"
    assert "1 of 4 answers" in line_of("gpt-x at http://j/v1")
    assert line_of("as equal texts").strip() == "free_exact, ES: as equal texts"
    assert line_of("Asked:") == "Asked: as plain text. Compare with: the same."


def test_a_comparison_is_shown_with_how_it_came_about() -> None:
    compared = EvaluationComparison(
        a="base", b="head", cases=2, differences={"efficacy": interval(5)}, better=[], broken=[],
        protocols={"efficacy": PROTOCOL}, notes=["only base has figures of fluency"],
    )  # fmt: skip
    console = Console(width=200, record=True)
    console.print(evaluations.comparison_table(compared))
    text = console.export_text()
    assert "Note: only base has figures of fluency." in text
    assert "Asked: as plain text. Compare with: the same." in text
    assert "ES: as equal texts" in text
