"""How the answers of a suite's case join its prompts."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import pytest
from support.library import tiny

from jeep_core.decoding.scoring import Asked, read
from jeep_core.evaluation.metrics import measure
from jeep_core.models.views import ModelView
from jeep_core.suites import Case, Question, Style
from jeep_core.text.joining import JOINS


def test_a_case_is_asked_as_it_says_that_its_answers_join() -> None:
    view = ModelView(tiny.random_model("gptj"))
    case = Case(
        "Lyon", "{} is in", "東京", "Peru", ("So Lyon is in",), ("Nice is in",),
        portability=(Question("Rome is in", "東京"),),
    )  # fmt: skip
    found = {}
    for join in JOINS:
        [record] = measure(view, [replace(case, join=join)], Style.CONTRAST)
        found[join] = record.prompts
        for prompt in record.prompts:
            [right] = read(view, [Asked(prompt.prompt, prompt.right, join=join)])
            assert prompt.p_right == pytest.approx(exp(right.mean), rel=1e-4)
    for i, prompt in enumerate(found["auto"]):
        same = "space" if prompt.right == "Peru" else "none"
        assert prompt.p_right == pytest.approx(found[same][i].p_right, rel=1e-4)
        other = {"space": "none", "none": "space"}[same]
        assert prompt.p_right != pytest.approx(found[other][i].p_right, rel=1e-2)
