"""Facts: their forms, slots, contradictions and repetitions."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from jeep_core.errors import InvalidFacts
from jeep_core.spec.facts import (
    Fact,
    deduplicate,
    fill,
    find_subject,
    normalise,
    parse_facts,
    slot_span,
)

RELATIONS = {"capital_of": "The capital of {} is", "broken": "{} and {}"}


def parse(**record: Any) -> Fact:
    [fact] = parse_facts([record], RELATIONS)
    return fact


def problems_of(*records: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(InvalidFacts) as caught:
        parse_facts(list(records), RELATIONS)
    return [(problem.pointer, problem.code) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("relation", "text"),
    [
        ("capital_of", "The capital of Peru is"),
        ("lies on the continent of", "Peru lies on the continent of"),
        ("'s capital is", "Peru's capital is"),
        ("Who rules {} in", "Who rules Peru in"),
        (", the land of", "Peru, the land of"),
        ("の首都は", "Peruの首都は"),
        (" lies in", "Peru lies in"),
    ],
)
def test_a_triple_becomes_a_template(relation: str, text: str) -> None:
    fact = parse(subject="Peru", relation=relation, object="Lima")
    assert (fact.text, fact.target_new) == (text, "Lima")
    assert fact.prompt.count("{}") == 1


def test_a_template_is_taken_as_it_is() -> None:
    fact = parse(subject="Peru", prompt="{} {x} }{ has", target_new="Lima", target_true="Quito")
    assert fact == Fact("Peru", "{} {x} }{ has", "Lima", "Quito")
    assert fact.text == "Peru {x} }{ has"


def test_in_a_plain_prompt_the_last_occurrence_of_the_subject_is_the_slot() -> None:
    fact = parse(subject="Lima", prompt="Lima, old Lima, is in", target_new="Peru")
    assert fact.prompt == "Lima, old {}, is in"
    assert fact.text == "Lima, old Lima, is in"


@pytest.mark.parametrize(
    ("text", "subject", "start"),
    [
        ("Lyon, not Lyonville, is", "Lyon", 0),
        ("Lyon is not Lyon, says", "Lyon", 12),
        ("Yorkshire lies in", "York", None),
        ("Apollo 11 flew to", "Apollo 1", None),
        ("snake_Lyon_case", "Lyon", None),
        ("Of Lyon's bridges", "Lyon", 3),
        ("Lyon-based firms", "Lyon", 0),
        ("in 'Lyon' lies", "Lyon", 4),
        ("Who wrote C++?", "C++", 10),
        ("He left Washington, D.C. for", "Washington, D.C.", 8),
        ("東京都は", "京", 1),
        ("กรุงเทพเป็นเมือง", "กรุงเทพ", 0),
        ("新しいiPhoneは", "iPhone", 3),
        ("서울은 한국의", "서울", 0),
        ("서울 아닌 서울시의", "서울", 0),
        ("한강은", "강", None),
        ("Ga\u0302\u200dteau", "Ga", None),
        ("हिन्दी", "हिन", None),
        ("Lyon", "", None),
        ("", "Lyon", None),
    ],
)
def test_a_subject_is_found_as_a_word_of_its_own(
    text: str, subject: str, start: int | None
) -> None:
    expected = None if start is None else (start, start + len(subject))
    assert find_subject(text, subject) == expected


def test_the_slot_is_not_inside_another_word() -> None:
    fact = parse(subject="Lyon", prompt="Lyon, not Lyonville, is in", target_new="Peru")
    assert fact.prompt == "{}, not Lyonville, is in"
    inside = {"subject": "York", "prompt": "Yorkshire is in", "target_new": "Peru"}
    assert problems_of(inside) == [("/facts/0/prompt", "no_subject")]


def test_a_template_that_also_names_the_subject_keeps_its_own_slot() -> None:
    fact = parse(subject="Lima", prompt="{} is Lima in", target_new="Peru")
    assert fact.prompt == "{} is Lima in"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "{} is", "target_new": "x"}, [("/facts/0/subject", "empty")]),
        ({"subject": " ", "prompt": "{} is", "target_new": "x"}, [("/facts/0/subject", "empty")]),
        (
            {"subject": "a{}b", "prompt": "{} is", "target_new": "x"},
            [("/facts/0/subject", "slot_in_subject")],
        ),
        ({"subject": "Peru", "target_new": "x"}, [("/facts/0/prompt", "empty")]),
        (
            {"subject": "Peru", "prompt": "It is in", "target_new": "x"},
            [("/facts/0/prompt", "no_subject")],
        ),
        (
            {"subject": "Peru", "prompt": "{} and {}", "target_new": "x"},
            [("/facts/0/prompt", "many_slots")],
        ),
        (
            {"subject": "Peru", "relation": "broken", "object": "x"},
            [("/facts/0/relation", "many_slots")],
        ),
        ({"subject": "Peru", "object": "x"}, [("/facts/0/relation", "empty")]),
        ({"subject": "Peru", "relation": "is"}, [("/facts/0/object", "empty")]),
        (
            {"subject": "Peru", "prompt": "{} is", "target_new": " "},
            [("/facts/0/target_new", "empty")],
        ),
        (
            {"subject": "Peru", "prompt": "{} is", "target_new": "x", "object": "x"},
            [("/facts/0/relation", "mixed_forms")],
        ),
        (
            {"subject": "Peru", "prompt": "{} is", "target_new": "x ", "target_true": "x"},
            [("/facts/0/target_true", "same_as_target")],
        ),
    ],
)
def test_a_wrong_field_is_named(record: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert problems_of(record) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("subject", 5),
        ("prompt", ["{} is"]),
        ("target_new", {"str": "x"}),
        ("target_true", 1),
        ("paraphrase_prompts", "one text instead of a list"),
        ("neighborhood_prompts", ["fine", None]),
    ],
)
def test_a_field_that_is_no_text_is_refused(field: str, value: object) -> None:
    record = {"subject": "Peru", "prompt": "{} is", "target_new": "x", field: value}
    assert problems_of(record) == [(f"/facts/0/{field}", "not_text")]


def test_the_problems_of_all_facts_are_collected() -> None:
    good = {"subject": "Peru", "prompt": "{} is", "target_new": "x"}
    assert problems_of({**good, "subject": "", "target_new": ""}, good, {**good, "prompt": ""}) == [
        ("/facts/0/subject", "empty"),
        ("/facts/0/target_new", "empty"),
        ("/facts/2/prompt", "empty"),
    ]


def test_the_message_names_the_first_problem_and_counts_the_others() -> None:
    with pytest.raises(InvalidFacts, match=r"^/rows/0/subject: .*empty.*\(and 2 more\)$"):
        parse_facts([{}], RELATIONS, pointer="/rows")


def test_text_is_composed_and_only_names_are_trimmed() -> None:
    """White space around a prompt makes other tokens, and so does white space before an answer."""
    decomposed = unicodedata.normalize("NFD", "Zürich")
    assert decomposed != "Zürich"
    fact = parse(
        subject=f" {decomposed}\t", prompt=f"\n{decomposed} is in:\n", target_new=" e\u0301 ",
        target_true="\tu\u0308\n", paraphrase_prompts=["e\u0301: "],
    )  # fmt: skip
    assert fact == Fact("Zürich", "\n{} is in:\n", " é", "\tü", ("é: ",))
    assert normalise("\u00a0e\u0301\n") == "é"


def test_prompts_for_evaluation_are_kept() -> None:
    fact = parse(
        subject="a", prompt="{} b", target_new="c", paraphrase_prompts=["d"],
        neighborhood_prompts=["e", "f"],
    )  # fmt: skip
    assert (fact.paraphrase_prompts, fact.neighborhood_prompts) == (("d",), ("e", "f"))


@pytest.mark.parametrize("subject", ["Lima", "a\\1b", "{x}", "%s", "東京"])
def test_filling_puts_the_subject_where_the_span_says(subject: str) -> None:
    template = "{x} near {} or"
    start, end = slot_span(template, subject)
    assert fill(template, subject) == f"{{x}} near {subject} or"
    assert fill(template, subject)[start:end] == subject


def test_repeated_facts_are_kept_once() -> None:
    lima = Fact("Lima", "{} is in", "Peru")
    again = Fact("Lima", "{} is in", " Peru", target_true="Chile")
    other = Fact("Lima", "{} lies in", "Peru")
    assert deduplicate([lima, other, again, lima]) == ([0, 1], {2: 0, 3: 0})
    assert deduplicate([other, lima, again, lima]) == ([0, 1], {2: 1, 3: 1})


def test_white_space_at_the_end_of_a_prompt_makes_another_question() -> None:
    """It makes other tokens: one must not be taken for the other, nor contradict it."""
    facts = [Fact("Lima", "Q: {} A:", "Peru"), Fact("Lima", "Q: {} A:\n", "Chile")]
    assert deduplicate(facts) == ([0, 1], {})
    assert facts[0].key != facts[1].key
    assert facts[0].key == Fact(" Lima ", "Q: {} A:", "x").key


def test_answers_that_join_to_one_text_are_one_and_others_contradict() -> None:
    plain = Fact("Lima", "{} is in", "Peru")
    assert deduplicate([plain, Fact("Lima", "{} is in", "Peru", join="space")]) == ([0], {1: 0})
    assert contradictions(plain, Fact("Lima", "{} is in", "Peru", join="none"))
    assert contradictions(Fact("京", "{} is in", "日本"), Fact("京", "{} is in", " 日本"))


def test_a_contradiction_by_join_alone_says_so() -> None:
    plain, bare = Fact("Lima", "{} is in", "Peru"), Fact("Lima", "{} is in", "Peru", join="none")
    with pytest.raises(InvalidFacts, match="contradicts fact 0: 'Peru' with join 'auto' for the"):
        deduplicate([plain, bare])
    with pytest.raises(InvalidFacts, match="contradicts fact 0: 'Peru' for the same prompt"):
        deduplicate([plain, Fact("Lima", "{} is in", "Chile")])


def test_the_join_is_read_and_checked() -> None:
    fact = parse(subject="Lima", prompt="{} is in", target_new="Peru", join="none")
    assert (fact.join, fact.answered) == ("none", "Lima is inPeru")
    wrong = {"subject": "Lima", "prompt": "{} is in", "target_new": "Peru", "join": "dash"}
    assert problems_of(wrong, {**wrong, "join": 3}) == [
        ("/facts/0/join", "unknown_join"),
        ("/facts/1/join", "not_text"),
    ]
    same = {"subject": "Lima", "prompt": "{} is in", "target_new": "Peru", "target_true": " Peru"}
    assert problems_of(same) == [("/facts/0/target_true", "same_as_target")]


def test_decomposed_letters_do_not_hide_a_repetition() -> None:
    one = Fact("Zürich", "{} is in", "Peru")
    two = Fact(unicodedata.normalize("NFD", "Zürich"), "{} is in", "Peru")
    assert deduplicate([one, two]) == ([0], {1: 0})


def contradictions(*facts: Fact) -> list[str]:
    with pytest.raises(InvalidFacts) as caught:
        deduplicate(facts)
    assert {problem.code for problem in caught.value.problems} == {"contradiction"}
    return [problem.pointer for problem in caught.value.problems]


def test_two_answers_to_one_question_are_refused() -> None:
    first = Fact("Lima", "{} is in", "Peru")
    assert contradictions(
        first,
        Fact("Oslo", "{} is in", "Norway"),
        Fact("Lima", "{} is in", "Chile"),
        first,
        Fact("Lima", "{} is in", "Cuba"),
    ) == ["/facts/2/target_new", "/facts/4/target_new"]


def test_two_answers_to_one_text_are_refused_whatever_its_subject() -> None:
    where = contradictions(
        Fact("Lima", "Is {} in Peru or in", "Peru"), Fact("Peru", "Is Lima in {} or in", "Chile")
    )
    assert where == ["/facts/1/target_new"]


def test_one_text_with_two_subjects_and_one_answer_is_two_facts() -> None:
    facts = [Fact("Lima", "Is {} in Peru or in", "x"), Fact("Peru", "Is Lima in {} or in", "x")]
    assert deduplicate(facts) == ([0, 1], {})


KNOWN = {"city_country": "{} is a city in", "born_in": "{} was born in", "capital": "Of {} it is"}


@pytest.mark.parametrize(
    ("relation", "said"),
    [
        ("city_contry", "did you mean 'city_country'?"),
        ("City_Country", "did you mean 'city_country'?"),
        ("city-country", "did you mean 'city_country'?"),
        ("city country", "did you mean 'city_country'?"),
        ("citycountry", "did you mean 'city_country'?"),
        ("capitol", "did you mean 'capital'?"),
        ("born in", "did you mean 'born_in'?"),
        ("head_of_state", "the known ones are born_in, capital, city_country."),
    ],
)
def test_a_misspelt_relation_is_not_taken_for_a_text(relation: str, said: str) -> None:
    record = {"subject": "Lyon", "relation": relation, "object": "Peru"}
    with pytest.raises(InvalidFacts) as found:
        parse_facts([record], KNOWN)
    [problem] = found.value.problems
    assert (problem.pointer, problem.code) == ("/facts/0/relation", "unknown_relation")
    assert said in problem.message
    assert problem.message.endswith(f"write it as a template: '{{}} {relation}'")
    [fact] = parse_facts([{**record, "relation": f"{{}} {relation}"}], KNOWN)
    assert fact.prompt == f"{{}} {relation}"


@pytest.mark.parametrize(
    "relation",
    [
        "was born in",
        "is",
        "lies in",
        "'s country is",
        "is the capital of",
        "出生于",
        "plays",
        "is a",
    ],
)
@pytest.mark.parametrize("known", [KNOWN, {}])
def test_a_text_that_follows_the_subject_is_a_template(
    relation: str, known: dict[str, str]
) -> None:
    [fact] = parse_facts([{"subject": "Lyon", "relation": relation, "object": "Peru"}], known)
    assert fact.text.startswith("Lyon")
    assert fact.text.endswith(relation)


def test_a_relation_s_name_is_refused_without_a_table() -> None:
    with pytest.raises(InvalidFacts, match="the known ones are none"):
        parse_facts([{"subject": "Lyon", "relation": "city_country", "object": "Peru"}], {})


def test_prompts_that_test_a_fact_are_filled_in() -> None:
    record = {
        "subject": "Lyon", "prompt": "{} is in", "target_new": "Peru",
        "paraphrase_prompts": ["Where is {}?", "{} or {}"], "neighborhood_prompts": ["Not {}: "],
    }  # fmt: skip
    [fact] = parse_facts([record], {})
    assert fact.paraphrase_prompts == ("Where is Lyon?", "Lyon or Lyon")
    assert fact.neighborhood_prompts == ("Not Lyon: ",)
