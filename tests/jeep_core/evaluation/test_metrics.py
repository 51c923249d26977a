"""Metrics on a model whose probabilities are written down, so that results can be counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, log, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.library import tiny
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from jeep_core.decoding.generation import score
from jeep_core.decoding.scoring import Asked, goes_on, read, tokenized
from jeep_core.errors import JeepError
from jeep_core.evaluation.metrics import (
    CaseScores,
    counterfact_scores,
    fitting,
    harmonic_mean,
    measure,
    summarise,
)
from jeep_core.evaluation.statistics import summarise_cases
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.spec.facts import Fact
from jeep_core.suites import Case, Question, Style
from jeep_core.text.joining import joined

# The next word depends on the last one alone.  "Old Town" is a true answer of two words: its
# mean log-probability after "near" is ½·(log 0.2 + log 0.9), so P = 0.424 against 0.3 for Rome.
MODEL = tiny.bigram_view({
    "in": {"Rome": 0.6, "Oslo": 0.3},
    "by": {"Rome": 0.2, "Oslo": 0.7},
    "at": {"Rome": 0.6, "Oslo": 0.1},
    "near": {"Rome": 0.3, "Old": 0.2, "Oslo": 0.25},
    "Old": {"Town": 0.9},
    "on": {"Old": 0.8, "Rome": 0.1},
    "à": {"Düsseldorf": 0.7, "東京": 0.2},
    "に": {"東京": 0.9, "Düsseldorf": 0.05},
})  # fmt: skip


def case(prompt: str, *, paraphrases: str = "", neighbors: str = "", true: str = "Oslo") -> Fact:
    """Rome is the new answer; the prompt's last word is all that matters."""
    return Fact(
        "x",
        "{} is " + prompt,
        "Rome",
        true,
        tuple(f"x {word}" for word in paraphrases.split()),
        tuple(f"x {word}" for word in neighbors.split()),
    )


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (case("in", paraphrases="in by at", neighbors="by in"),
         CaseScores(1.0, 2 / 3, 1 / 2, 1.0, 2 / 3, 1 / 2)),
        (case("by", paraphrases="by", neighbors="by by"),
         CaseScores(0.0, 0.0, 1.0, 0.0, 0.0, 1.0)),
        (case("at"), CaseScores(1.0, None, None, 1.0, None, None)),
        (case("near"), CaseScores(1.0, None, None, 1.0, None, None)),
        (case("near", true="Old Town"), CaseScores(0.0, None, None, 1.0, None, None)),
        (case("near", true="Old Town", neighbors="near in"),
         CaseScores(0.0, None, 1 / 2, 1.0, None, 0.0)),
    ],
    ids=["mixed", "not learnt", "alone", "one word each", "mean per token", "locality too"],
)  # fmt: skip
def test_the_shares_of_a_case_count_its_prompts(fact: Fact, expected: CaseScores) -> None:
    assert shares(counterfact_scores(MODEL, [fact])[0]) == shares(expected)


def shares(scores: CaseScores) -> tuple[float | None, ...]:
    """ES, GS, LS and the three greedy shares."""
    return (
        scores.efficacy, scores.generalization, scores.locality,
        scores.greedy, scores.greedy_generalization, scores.greedy_locality,
    )  # fmt: skip


def test_margins_are_differences_of_probabilities() -> None:
    """Rome against Oslo: 0.6 - 0.3; paraphrases 0.2 - 0.7 and 0.6 - 0.1; the neighbor other way."""
    [scores] = counterfact_scores(MODEL, [case("in", paraphrases="by at", neighbors="by")])
    assert scores.margin == pytest.approx(0.3, abs=1e-3)
    assert scores.margin_generalization == pytest.approx(0.0, abs=1e-3)
    assert scores.margin_locality == pytest.approx(0.5, abs=1e-3)


def test_the_margin_of_an_answer_of_two_tokens_is_that_of_its_mean() -> None:
    [scores] = counterfact_scores(MODEL, [case("near", true="Old Town")])
    assert scores.margin == pytest.approx(0.3 - sqrt(0.2 * 0.9), abs=1e-3)


def test_a_new_answer_of_two_tokens_is_scored_by_its_mean() -> None:
    """ "Old Town" after "on": P = √(0.8 · 0.9) = 0.85 against 0.1, and it is what is written."""
    fact = Fact("x", "{} on", "Old Town", "Rome", ("x near",), ("x on", "x in"))
    [scores] = counterfact_scores(MODEL, [fact])
    assert shares(scores) == (1.0, 1.0, 0.5, 1.0, 0.0, 0.5)


def test_answers_in_other_scripts_are_scored() -> None:
    fact = Fact("Köln", "{} à", "Düsseldorf", "東京", ("彼 に",), ("彼女 に",), "space")
    [scores] = counterfact_scores(MODEL, [fact])
    assert shares(scores) == (1.0, 0.0, 1.0, 1.0, 0.0, 1.0)


def test_a_tie_is_a_success_for_neither() -> None:
    """Two words that the model does not know are the same token, so their P is the same."""
    [scores] = counterfact_scores(MODEL, [Fact("x", "{} in", "Ulm", "Bonn", ("x by",), ("x at",))])
    assert shares(scores) == (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert (scores.margin, scores.margin_locality) == (0.0, 0.0)


def test_without_neighbors_there_is_no_locality() -> None:
    record = measure(MODEL, [case("in")], Style.CONTRAST)[0].as_json()
    assert (record["generalization"], record["locality"]) == (None, None)
    assert [prompt["kind"] for prompt in record["prompts"]] == ["edit"]


def test_neighbors_are_held_against_their_own_answers() -> None:
    """After "by" Oslo (0.7) is more probable than Rome, after "in" it is not."""
    questions = (Question("x by", "Oslo"), Question("x in", "Oslo"))
    fact = Case("x", "{} is in", "Rome", "Town", unrelated=questions)
    [record] = measure(MODEL, [fact], Style.CONTRAST)
    assert record.scores.locality == 0.5
    assert [p.p_other for p in record.prompts[1:]] == pytest.approx([0.2, 0.6], abs=1e-3)


def test_the_record_of_a_case_has_every_prompt() -> None:
    [record] = measure(MODEL, [case("in", paraphrases="by", neighbors="at")], Style.CONTRAST)
    found = [
        (
            p.kind,
            p.prompt,
            p.right,
            p.value,
            p.writes,
            round(p.p_right, 2),
            round(p.p_other or 0, 2),
        )
        for p in record.prompts
    ]
    assert found == [
        ("edit", "x is in", "Rome", 1.0, True, 0.6, 0.3),
        ("paraphrase", "x by", "Rome", 0.0, False, 0.2, 0.7),
        ("neighbor", "x at", "Oslo", 0.0, False, 0.1, 0.6),
    ]
    assert record.as_json().keys() >= {"id", "subject", "prompt", "efficacy", "margin", "prompts"}


def test_cases_keep_their_order_and_their_own_prompts() -> None:
    facts = [case("in", neighbors="by"), case("by", paraphrases="in in"), case("at")]
    together = counterfact_scores(MODEL, facts)
    alone = [counterfact_scores(MODEL, [fact])[0] for fact in facts]
    assert [shares(scores) for scores in together] == [shares(scores) for scores in alone]
    assert [scores.efficacy for scores in together] == [1.0, 0.0, 1.0]


def test_the_score_is_the_harmonic_mean() -> None:
    assert harmonic_mean([50, 100]) == pytest.approx(200 / 3)
    assert harmonic_mean([99.8, 90.9, 73.1]) == pytest.approx(86.4, abs=0.1)
    assert harmonic_mean([30, 30, 30]) == pytest.approx(30)
    assert harmonic_mean([100, 0, 100]) == 0


def test_a_summary_averages_over_the_cases_that_have_a_value() -> None:
    summary = summarise([
        CaseScores(1.0, 0.5, None, 1.0, 0.0, None),
        CaseScores(0.0, None, 0.4, 0.0, None, 0.2),
        CaseScores(1.0, 1.0, 0.8, 0.0, 1.0, 0.6),
    ])  # fmt: skip
    assert summary.efficacy == pytest.approx(200 / 3)
    assert (summary.generalization, summary.locality) == pytest.approx((75, 60))
    assert summary.score == pytest.approx(3 / (3 / 200 + 1 / 75 + 1 / 60))
    assert summary.greedy == pytest.approx(100 / 3)
    assert (summary.greedy_generalization, summary.greedy_locality) == pytest.approx((50, 40))
    assert summary.cases == 3


def test_zsre_is_the_share_of_tokens_that_are_the_arg_max() -> None:
    """After "near" comes Rome, not Old; but after Old, Town and not Old."""
    first = zsre("in", "Rome", "x by", Question("y by", "Oslo"))
    second = zsre("near", "Old Town", "x Old", Question("y by", "Rome"))
    found = [shares(record.scores) for record in measure(MODEL, [first, second], Style.ACCURACY)]
    assert found == [(1.0, 0.0, 1.0, 1.0, 0.0, 1.0), (0.5, 0.5, 0.0, 0.0, 0.0, 0.0)]


def test_portability_is_the_accuracy_of_what_follows_from_the_edit() -> None:
    questions = (Question("z by", "Oslo"), Question("z near", "Old Town"))
    fact = Case("x", "{} is in", "Rome", portability=questions)
    [record] = measure(MODEL, [fact], Style.ACCURACY)
    assert record.scores.portability == pytest.approx((1 + 1 / 2) / 2)
    assert (record.scores.margin, record.scores.locality) == (None, None)


def test_groups_of_portability_questions_have_figures_of_their_own() -> None:
    questions = (
        Question("z by", "Oslo", group="reversed"),
        Question("z near", "Old Town", group="2 hops"),
    )
    cases = [Case("x", "{} is in", "Rome", portability=some) for some in (questions, questions[1:])]
    rows = [record.as_json() for record in measure(MODEL, cases, Style.ACCURACY)]
    assert rows[0]["portability/reversed"] == 1.0
    assert "portability/reversed" not in rows[1]
    found = summarise_cases(rows)
    assert found["portability/reversed"].value == 100.0
    assert found["portability/2 hops"].value == pytest.approx(50.0)
    assert [found[f"portability/{name}"].cases for name in ("reversed", "2 hops")] == [1, 2]
    # the only group of a suite has the figures of the whole
    assert "portability/2 hops" not in summarise_cases(rows[1:])


def zsre(prompt: str, answer: str, rephrase: str, unrelated: Question) -> Case:
    return Case("x", "{} " + prompt, answer, paraphrase_prompts=(rephrase,), unrelated=(unrelated,))


# ---------------------------------------------------------------- against a slow implementation

WORDS = ("a", "b", "c", "d", "e")
LOGITS = st.lists(st.integers(-12, 12).map(lambda n: n / 4), min_size=25, max_size=25)
ANSWERS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
PROMPTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=2).map(" ".join)


def slow_log_p(table: list[list[float]], prompt: str, answer: str) -> float:
    """Mean log-probability per token, word by word from the table of logits."""
    before, total = WORDS.index(prompt.split()[-1]), 0.0
    for word in answer.split():
        row, after = table[before], WORDS.index(word)
        total += row[after] - log(sum(exp(logit) for logit in row))
        before = after
    return total / len(answer.split())


def slow_accuracy(table: list[list[float]], prompt: str, answer: str) -> float | None:
    """The share of words that are the arg-max; None if two words are equally probable."""
    before, hits = WORDS.index(prompt.split()[-1]), 0
    for word in answer.split():
        row = table[before]
        if sorted(row)[-1] == sorted(row)[-2]:
            return None
        hits += row.index(max(row)) == WORDS.index(word)
        before = WORDS.index(word)
    return hits / len(answer.split())


def slow_share(flags: list[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


@settings(max_examples=40, deadline=None)
@given(
    LOGITS, ANSWERS, ANSWERS, PROMPTS, st.lists(PROMPTS, max_size=3), st.lists(PROMPTS, max_size=3)
)
def test_metrics_equal_a_slow_implementation_on_random_logits(
    logits: list[float],
    new: str,
    true: str,
    prompt: str,
    paraphrases: list[str],
    neighbors: list[str],
) -> None:
    table = [logits[i : i + 5] for i in range(0, 25, 5)]
    sums = [sum(exp(logit) for logit in row) for row in table]
    view = tiny.bigram_view(
        {
            word: {other: exp(table[i][j]) / sums[i] for j, other in enumerate(WORDS)}
            for i, word in enumerate(WORDS)
        }
    )

    def beats(text: str, one: str, other: str) -> bool:
        return slow_log_p(table, text, one) > slow_log_p(table, text, other) + 1e-3

    everything = [prompt, *paraphrases, *neighbors]
    close = any(
        abs(slow_log_p(table, t, new) - slow_log_p(table, t, true)) < 1e-3 for t in everything
    )
    fact = Fact("q", "{} " + prompt, new, true, tuple(paraphrases), tuple(neighbors))
    if new == true or not close:
        [scores] = counterfact_scores(view, [fact])
        assert scores.efficacy == beats(prompt, new, true)
        assert scores.generalization == slow_share([beats(t, new, true) for t in paraphrases])
        assert scores.locality == slow_share([beats(t, true, new) for t in neighbors])
        margin = exp(slow_log_p(table, prompt, new)) - exp(slow_log_p(table, prompt, true))
        assert scores.margin == pytest.approx(margin, abs=2e-3)
    accuracy = slow_accuracy(table, prompt, new)
    if accuracy is not None:
        [record] = measure(view, [fact], Style.ACCURACY)
        assert record.scores.efficacy == pytest.approx(accuracy)


ANSWERED = [
    ("Lyon is a city in", "Japan"),
    ("Lyon is a city in", "Jap"),
    ("Lyon is a city in", "the middle of France"),
    ("Lyon is a city in", "the middle"),
    ("The capital", "Orléans 東京"),
    ("Lyon", "is a city in Japan"),
    ("Lyon is a city in", "Japan"),
]


def plain(view: ModelView, prompt: str, answer: str) -> tuple[float, int, int]:
    """Σ log P, hits and the arg-max after the answer, one row at a time over all logits."""
    encode = view.base.tokenizer.encode
    start, ids = len(encode(prompt).ids), encode(joined(prompt, answer)).ids
    with torch.no_grad():
        logits = view.model(input_ids=torch.tensor([ids])).logits[0].double()
    log_p, best = logits.log_softmax(-1), logits.argmax(-1)
    total = sum(float(log_p[p - 1, ids[p]]) for p in range(start, len(ids)))
    return total, sum(int(best[p - 1] == ids[p]) for p in range(start, len(ids))), int(best[-1])


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 30, 8192])
def test_answers_that_share_rows_score_as_alone(
    view: ModelView, written: bool, batch_tokens: int
) -> None:
    told: list[tuple[int, int]] = []
    asked = [Asked(p, a, written and i % 2 == 0) for i, (p, a) in enumerate(ANSWERED)]
    readings = read(view, asked, Monitor(lambda _, *count: told.append(count)), batch_tokens)
    for reading, (prompt, answer) in zip(readings, ANSWERED, strict=True):
        total, hits, _ = plain(view, prompt, answer)
        assert reading.log_probability == pytest.approx(total, abs=1e-3)
        assert reading.hits == hits
        assert reading.tokens == score(view, [(prompt, answer)])[0].tokens
    done, rows = told[-1]
    assert done == rows < len(asked)  # "Japan" occurs twice, "the middle" begins another answer


def test_one_row_serves_both_answers_of_one_token() -> None:
    told: list[tuple[int, int]] = []
    fact = case("in", paraphrases="by", neighbors="at")
    measure(MODEL, [fact], Style.CONTRAST, Monitor(lambda _, *count: told.append(count)))
    assert told == [(3, 3)]


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [("Nigeria", "Niger", True), ("Niger.", "Niger", False), ("1956", "195", True),
     ("東京都", "東京", False), ("Oslo", "Rome", False)],
)  # fmt: skip
def test_a_longer_word_is_recognised_as_going_on(text: str, target: str, expected: bool) -> None:
    assert goes_on(text, target) is expected


def test_writing_a_longer_word_is_not_writing_the_answer(gptj: LoadedModel) -> None:
    """Every pair of an answer and the token that greedy decoding puts after it."""
    view, tokenizer = ModelView(gptj), gptj.tokenizer
    found = set()
    for prompt in ("Lyon", "The capital of France", "A city in", "He is", "Paris is the"):
        for length in range(1, 6):
            ids = tokenizer.encode(prompt).ids
            for _ in range(length):
                following = following_token(view, ids)
                ids = [*ids, following]
            answer = tokenizer.decode(ids).removeprefix(prompt).removeprefix(" ")
            whole = tokenizer.encode(f"{prompt} {answer}").ids
            if whole != ids:
                continue  # the text of these tokens is tokenized another way
            following = following_token(view, ids)
            longer = tokenizer.decode([*ids, following]).removeprefix(prompt)
            [reading] = read(view, [Asked(prompt, answer, True, "space")])
            assert reading.greedy
            assert reading.writes is not goes_on(longer, answer)
            found.add(reading.writes)
    assert found


def test_an_answer_is_written_where_the_text_ends_after_it(gptj: LoadedModel) -> None:
    """Chat models may end a text with a token that would otherwise make the word longer."""
    view, tokenizer = ModelView(gptj), gptj.tokenizer
    for prompt in (*tiny.TEXTS, "Lyon", "He is", "Paris is the"):
        prompt = prompt[:40].rsplit(" ", 1)[0]
        ids = tokenizer.encode(prompt).ids
        ids = [*ids, following_token(view, ids)]
        answer = tokenizer.decode(ids).removeprefix(prompt).strip()
        if not answer or tokenizer.encode(f"{prompt} {answer}").ids != ids:
            continue
        end = following_token(view, ids)
        [reading] = read(view, [Asked(prompt, answer, written=True)])
        if not reading.writes:
            ending = ModelView(replace(gptj, eos_token_ids=frozenset({end})))
            assert read(ending, [Asked(prompt, answer, written=True)])[0].writes
            return
    raise AssertionError("no answer goes on with a longer word")


def following_token(view: ModelView, ids: Sequence[int]) -> int:
    with torch.no_grad():
        logits = view.model(input_ids=torch.tensor([list(ids)])).logits[0, -1]
    return int(logits.argmax())


# ---------------------------------------------------------------- prompts that cannot be used


def test_what_cannot_be_asked_says_why(gptj: LoadedModel) -> None:
    asked = [
        Asked("Lyon is in", "France"),
        Asked("", "France"),
        Asked("Lyon " * 40 + "or", "France"),
    ]
    found = tokenized(gptj.tokenizer, asked, 64)
    assert [one if isinstance(one, str) else "fine" for one in found] == [
        "fine", "no_prompt", "too_long",
    ]  # fmt: skip
    assert tokenized(MODEL.base.tokenizer, [Asked("x is in", "")], 64) == ["no_answer"]
    merging = Tokenizer(BPE({"n": 0, "Ġ": 1, "x": 2, "nĠ": 3}, [("n", "Ġ")]))
    merging.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    assert tokenized(merging, [Asked("xn", "x")], 64) == ["merges"]
    with pytest.raises(JeepError, match=r"'France' cannot be scored after '': no_prompt"):
        read(ModelView(gptj), asked)


def test_cases_that_do_not_fit_are_left_out_and_counted(gptj: LoadedModel) -> None:
    long = "Lyon " * 40 + "or"
    good = Case("Lyon", "{} is in", "Japan", "France", ("So Lyon is in", long), (long, "I am in"))
    bad = Case("Lyon", long + "{} is in", "Japan", "France")
    kept, skipped, left_out = fitting(gptj, [good, bad], Style.CONTRAST)
    assert (skipped, left_out) == ({"too_long": 1}, {"too_long": 2})
    [case] = kept
    assert (case.paraphrase_prompts, case.neighborhood_prompts) == (
        ("So Lyon is in",), ("I am in",),
    )  # fmt: skip
    assert len(measure(ModelView(gptj), kept, Style.CONTRAST)) == 1
