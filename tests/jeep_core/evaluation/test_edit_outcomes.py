"""Whether an edit succeeded: outcomes of its facts, and what is measured beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import nan
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.library import tiny
from support.library.tiny import bigram_view

from jeep_core.decoding.asking import Question, Told, ask
from jeep_core.decoding.scoring import goes_on
from jeep_core.editing import edit
from jeep_core.errors import Cancelled, NumericalError
from jeep_core.evaluation import outcomes as outcomes_module
from jeep_core.evaluation.outcomes import (
    Answer,
    Figures,
    Outcome,
    Said,
    Surroundings,
    answers,
    figures,
    judged,
    locality,
    neighbor_answers,
    outcomes,
)
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.monitor import Monitor
from jeep_core.spec.facts import Fact

LONG = "one two three four five six seven eight nine ten eleven twelve"


def chain(text: str) -> dict[str, dict[str, float]]:
    words = text.split()
    return {a: {b: 0.9} for a, b in pairwise(words)}


def test_a_target_longer_than_the_shown_answer_is_written_to_its_end() -> None:
    view = bigram_view(chain(f"Lyon is {LONG}"))
    [answer] = answers(view, [Fact("Lyon", "{} is", LONG)])
    assert answer.writes_new
    assert answer.text.split() == LONG.split()


def test_every_token_of_the_target_must_be_the_most_probable_one() -> None:
    table = chain("Lyon is one two three") | {"two": {"three": 0.4, "four": 0.6}}
    facts = [Fact("Lyon", "{} is", target) for target in ("one two", "one two three")]
    assert [a.writes_new for a in answers(bigram_view(table), facts)] == [True, False]


def test_an_outcome_has_the_figures_of_its_own_fact() -> None:
    facts = [Fact("Lyon", "{} is", "one"), Fact("Nice", "{} is", "two")]
    said = Said(answers(bigram_view(chain("Lyon is one")), facts))
    values: Any = SimpleNamespace(steps=[3, 4], probability=[0.5, 0.6].__getitem__)
    found = outcomes(facts, said, said, values)
    assert [
        (one.fact.subject, one.steps, one.target_probability, one.success) for one in found
    ] == [
        ("Lyon", 3, 0.5, True),
        ("Nice", 4, 0.6, False),
    ]
    assert [one.steps for one in outcomes(facts, said, said)] == [None, None]


def test_an_answer_ends_where_the_model_s_positions_end() -> None:
    prompt = "{}" + " is" * 61  # 62 tokens of 64
    view = bigram_view({"Lyon": {"is": 0.9}, "is": {"is": 0.9}})
    [answer] = answers(view, [Fact("Lyon", prompt, "is")])
    assert answer.writes_new
    assert len(answer.text.split()) == 2


def test_answers_do_not_depend_on_what_is_measured_with_them() -> None:
    view = bigram_view(chain(f"Lyon is {LONG}"))
    short, long = Fact("Lyon", "{} is", "one"), Fact("Lyon", "{} is", LONG)
    alone = [answers(view, [fact])[0].text for fact in (short, long)]
    assert [answer.text for answer in answers(view, [short, long])] == alone


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        (" Nigeria is", "Niger", True),
        (" Niger is", "Niger", False),
        (" Niger, in", "Niger", False),
        (" Niger", "Niger", False),
        (" 1914", "19", True),
        (" U.S.A", "U.S.", False),
        (" 東京都", "東京", False),
        (" Mali", "Niger", False),
    ],
)
def test_a_longer_word_is_another_word(text: str, target: str, expected: bool) -> None:
    assert goes_on(text, target) is expected


def test_measuring_can_be_ended_in_between() -> None:
    view, rounds = bigram_view(chain("Lyon is one")), []

    def checkpoint() -> None:
        rounds.append(1)
        if len(rounds) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        answers(view, [Fact("Lyon", "{} is", "one")] * 200, Monitor(check=checkpoint))


TABLE = {
    "in": {"Rome": 0.6, "Oslo": 0.3},
    "by": {"Rome": 0.2, "Oslo": 0.7},
    "near": {"Rome": 0.9},
}
PARENT = bigram_view(TABLE)
EDITED = bigram_view({**TABLE, "by": {"Rome": 0.7, "Oslo": 0.2}})
NAMED = Fact("x", "{} in", "Rome", "Oslo", (), ("y in", "y by"))
UNNAMED = Fact("x", "{} in", "Rome", None, (), ("y in", "y by", "y near"))
LONELY = Fact("x", "{} in", "Rome", "Oslo")


class TestLocality:
    def test_where_the_old_answer_is_known_it_must_be_more_probable(self) -> None:
        assert neighbor_answers(PARENT, [NAMED]) == [[False, True]]
        assert neighbor_answers(EDITED, [NAMED]) == [[False, False]]

    def test_elsewhere_the_greedy_answer_must_stay(self) -> None:
        before, after = (neighbor_answers(view, [UNNAMED]) for view in (PARENT, EDITED))
        assert [[text.split()[0] for text in texts] for texts in (before[0], after[0])] == [
            ["Rome", "Oslo", "Rome"],
            ["Rome", "Rome", "Rome"],
        ]
        assert locality(after, before) == pytest.approx(2 / 3)

    def test_every_fact_counts_alike_and_those_without_prompts_do_not(self) -> None:
        facts = [NAMED, LONELY, UNNAMED]
        before, after = (neighbor_answers(view, facts) for view in (PARENT, EDITED))
        assert locality(before, before) == pytest.approx((1 / 2 + 1) / 2)
        assert locality(after, before) == pytest.approx((0 + 2 / 3) / 2)

    def test_a_prompt_as_long_as_the_model_allows_is_answered_as_far_as_it_goes(self) -> None:
        prompt = " ".join(["in"] * (PARENT.base.max_positions - 1))
        [[text]] = neighbor_answers(PARENT, [Fact("x", "{} in", "Rome", None, (), (prompt,))])
        assert text.split() == ["Rome"]


def test_figures_are_shares_after_the_edit_with_those_of_before() -> None:
    def outcome(p_true: float | None, writes_new: bool = False) -> Outcome:
        before = Answer(0.1, p_true, "Oslo", writes_new=False)
        return Outcome(NAMED, before, Answer(0.9, p_true, "Rome", writes_new))

    found = [outcome(0.5), outcome(None, writes_new=True), outcome(0.95)]
    before, after = Surroundings([[True, "a"]], 2.0), Surroundings([[False, "a"]], 3.0)
    assert figures(found, before, after) == Figures(
        efficacy=2 / 3,
        efficacy_before=0.0,
        success=1 / 3,
        success_before=0.0,
        locality=0.5,
        locality_before=1.0,
        perplexity=3.0,
        perplexity_before=2.0,
        perplexity_ratio=1.5,
    )
    assert figures(found, Surroundings(), Surroundings()) == Figures(2 / 3, 0.0, 1 / 3, 0.0)
    other = replace(found[1], chat_before=found[1].after, chat_after=found[0].after)
    unsaid = figures([other], Surroundings(), Surroundings())
    assert (unsaid.efficacy, unsaid.success) == (1.0, 0.0), "written, but not in a chat"


def test_an_edit_is_judged_on_the_model_it_was_given_and_on_the_edited_one(
    gptj: LoadedModel,
) -> None:
    facts = [{"subject": "Paris", "prompt": "{} is a city in the country of", "target_new": "Peru"}]
    low = {"layers": [1], "clamp": 4.0, "weight_decay": 0.0, "moment_weight": 1.0}
    hparams = {"low": low, "n_steps": 25, "learning_rate": 0.5, "kl_weight": 0.0}
    moments = Moments(gptj, tiny.TEXTS, samples=400)
    result = edit(gptj, facts, "memit", hparams=hparams, prefixes=[""], moments=moments)
    calls: list[str] = []
    monitor = Monitor(check=lambda: calls.append("check"), give_way=lambda: calls.append("way"))
    [found] = judged(gptj, result, monitor)
    assert found.before == answers(ModelView(gptj), result.facts)[0]
    assert found.after == answers(result.view, result.facts)[0]
    assert found.after.p_new > found.before.p_new
    assert (found.fact, found.steps) == (result.facts[0], 25)
    assert calls.count("check") == 2
    assert calls.count("way") > 2
    again = edit(result.view, facts, "memit", hparams=hparams, prefixes=[""], moments=moments)
    [second] = judged(result.view, again)
    assert second.before == found.after


def test_what_a_broken_version_says_is_an_error(gptj: LoadedModel) -> None:
    name = gptj.family.weight_name(1)
    view = ModelView(gptj, {name: torch.full_like(gptj.model.get_parameter(name), nan)})
    fact = Fact("Lyon", "{} lies in", "Peru", "Rome", (), ("Nice lies in",))
    for measure in (answers, neighbor_answers):
        with pytest.raises(NumericalError, match="not finite"):
            measure(view, [fact])


def test_neighbors_are_asked_as_the_fact_s_answers_join(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Question] = []

    def told(view: ModelView, questions: list[Question], check: Callable[[], None]) -> list[Told]:
        asked.extend(questions)
        return ask(view, questions, check)

    monkeypatch.setattr(outcomes_module, "ask", told)
    neighbor_answers(PARENT, [NAMED, replace(LONELY, neighborhood_prompts=("z in",), join="space")])
    assert [join for one in asked for _, join in one.answers] == ["auto"] * 4 + ["space"] * 2
    assert asked[-1] == Question("z in", [("Oslo", "space"), ("Rome", "space")])


def test_what_is_beside_the_first_facts_alone() -> None:
    asked = replace(NAMED, neighborhood_prompts=["x", "y"])
    plain = replace(NAMED, neighborhood_prompts=[])
    beside = Surroundings([[True, "a"], [False, "b"]], 2.0)  # of asked, plain, asked
    assert beside.of_facts([asked, plain]) == Surroundings([[True, "a"]], 2.0)
    assert beside.of_facts([plain]) == Surroundings(None, 2.0)
    assert Surroundings().of_facts([asked]) == Surroundings()
