"""Cases of an evaluation: which fall short, of suites and of tasks of lm-eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.api.console.pages.measuring.cases import listed, missed, shown


def of_suite(**scores: float | None) -> dict[str, Any]:
    whole = {"efficacy": 1.0, "generalization": None, "locality": 1.0, "portability": None}
    return {"id": "1", "prompt": "Lyon is in", "target_new": "Japan", "scores": whole | scores}


def of_task(answer: Any = "Japan", **metrics: Any) -> dict[str, Any]:
    return {"id": "own/1", "prompt": "Lyon is in", "expected": answer, "answers": [[-1.5, False]],
            "metrics": {f"own/{name}": one for name, one in metrics.items()}}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "short"),
    [
        (of_suite(), []),
        (of_suite(efficacy=0.0), ["efficacy"]),
        (of_suite(generalization=0.5), ["generalization"]),
        (of_suite(portability=0.0), ["portability"]),
        (of_suite(margin=-0.5), []),
        (of_task(acc=1.0), []),
        (of_task(acc=0.0, acc_norm=1.0), ["own/acc"]),
        (of_task(word_perplexity=[-12.5, 3]), []),
    ],
)
def test_cases_that_fall_short_are_those_that_are_listed(
    case: dict[str, Any], short: list[str], tmp_path: Path
) -> None:
    assert missed(case) is bool(short)
    assert [name for name, _ in shown(case).short] == short
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (case, of_suite(), case)))
    assert len(listed(path, "missed", 0, 9)) == 2 * bool(short)
    assert len(listed(path, "all", 1, 1)) == 1


def test_documents_of_tasks_have_their_answers_and_names() -> None:
    found = shown(of_task(0, acc=0, bits=[-12.5, 3], nll=-12.345678))
    assert (found.prompt, found.right, found.short) == ("Lyon is in", "0", [("own/acc", 0)])
    assert found.figures == [("own/bits", "[-12.5, 3]"), ("own/nll", "-12.35")]
    assert found.answers == ["[-1.5, False]"]
