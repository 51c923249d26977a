"""Names of metrics in words, for the terminal and the console."""

from __future__ import annotations

import pytest

from jeep_core.evaluation.metric_names import in_words, of_group


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("greedy_locality", "greedy locality"),
        ("portability", "portability"),
        ("free_exact", "edit prompt, exact match"),
        ("free_contains_portability", "what follows, contains"),
        ("portability/2 hops", "what follows, 2 hops, tokens"),
        ("free_contains_portability/one / more", "what follows, one / more, contains"),
        ("free_f1_portability/one", "what follows, one, F1"),
        ("judge_locality", "neighbor, judge"),
        ("own_choice/acc_norm", "own_choice/acc_norm"),
        ("free_exact/acc", "free_exact/acc"),
    ],
)
def test_metrics_have_names_in_words(name: str, said: str) -> None:
    assert in_words(name) == said


def test_only_questions_about_what_follows_have_groups() -> None:
    assert of_group("judge_portability/2 hops") == ("2 hops", "judge")
    assert [of_group(name) for name in ("portability", "lambada/acc", "judge")] == [None] * 3
