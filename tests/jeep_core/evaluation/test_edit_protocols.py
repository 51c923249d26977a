"""Figures of edits carry their protocols, in the form of those of evaluations."""

from __future__ import annotations

import pytest

from jeep_core.evaluation.protocols import EditSetting, edit_protocols

NAMES = (
    "probability", "efficacy", "greedy_success", "chat_efficacy", "target_probability", "earlier",
    "guards.efficacy", "guards.success", "guards.locality", "guards.perplexity", "guards.drift",
    "guards.ability",
)  # fmt: skip
SETTING = EditSetting(
    "both", 10, 5, checked="8 of 40 live facts", read="the first 64 tokens of mine.txt", known="own"
)


def test_every_figure_says_what_was_asked_how_it_was_judged_and_what_is_comparable() -> None:
    found = edit_protocols(NAMES, SETTING)
    assert tuple(found) == NAMES
    for one in found.values():
        assert all(vars(one).values())
    assert "more probable" in found["efficacy"].judged
    assert "10 tokens" in found["greedy_success"].judged
    assert "8 of 40 live facts" in found["earlier"].asked
    assert "of the batch" not in found["earlier"].how
    assert "5 tokens" in found["guards.locality"].judged
    assert "mine.txt" in found["guards.drift"].how
    assert "own" in found["guards.ability"].asked
    assert "true answer is shown" in found["guards.ability"].judged
    assert "e to the" in found["guards.perplexity"].judged


@pytest.mark.parametrize("whole", ["efficacy", "greedy_success"])
def test_guards_go_by_the_same_rule_without_facts_that_were_mended(whole: str) -> None:
    guard = {"efficacy": "guards.efficacy", "greedy_success": "guards.success"}[whole]
    found = edit_protocols([whole, guard], SETTING)
    assert found[whole].judged == found[guard].judged
    assert "without earlier ones" in found[guard].asked


@pytest.mark.parametrize(
    ("contexts", "efficacy", "success"),
    [
        ("plain", "as plain text;", "as plain text;"),
        ("chat", "message of a chat;", "message of a chat;"),
        ("both", "as plain text;", "as plain text and as the user's message of a chat;"),
    ],
)
def test_each_is_asked_as_the_facts_were_edited(contexts, efficacy: str, success: str) -> None:
    found = edit_protocols(NAMES, EditSetting(contexts, 10, 5))
    assert efficacy in found["efficacy"].how
    assert success in found["greedy_success"].how
    assert "message of a chat;" in found["chat_efficacy"].how
