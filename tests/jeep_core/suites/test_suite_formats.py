"""Suites in every format, from the format's own fields to cases."""

from __future__ import annotations

import csv
import io
import json

import pytest
from support.library.suite_records import (
    COUNTERFACT,
    KNOWEDIT_ZSRE,
    PLAIN,
    PLAIN_CASE,
    ZSRE,
    Record,
    changed,
    lines,
    stream,
)

from jeep_core import atlas
from jeep_core.suites import Case, Question, Style, load_suite


def test_multi_counterfact_becomes_cases() -> None:
    suite = load_suite(stream([COUNTERFACT]))
    assert suite.cases == (
        Case(
            "Danielle Darrieux", "The mother tongue of {} is", "English", "French",
            ("a", "b"), ("c",), id="5", generation_prompts=("e",),
        ),
    )  # fmt: skip
    assert (suite.style, suite.report.format) == (Style.CONTRAST, "counterfact")
    assert (suite.report.records, suite.report.kept, suite.dropped) == (1, 1, 0)


def test_counterfact_may_lack_neighbors_and_paraphrases() -> None:
    """Empty lists and missing ones are the same: there is nothing to measure."""
    empty = changed(changed(COUNTERFACT, "neighborhood_prompts", []), "paraphrase_prompts")
    [case] = load_suite(stream([empty])).cases
    assert (case.paraphrase_prompts, case.neighborhood_prompts) == ((), ())


def test_zsre_becomes_cases() -> None:
    """The example of the format's description; ``loc`` gets its question mark."""
    suite = load_suite(stream([ZSRE]))
    loc = "nq question: who played desmond doss father in hacksaw ridge?"
    assert suite.cases == (
        Case(
            "Watts Humphrey", "What university did {} attend?",
            "Illinois Institute of Technology",
            paraphrase_prompts=("What university did Watts Humphrey take part in?",),
            id="0", unrelated=(Question(loc, "Hugo Weaving"),), target_aliases=("other",),
        ),
    )  # fmt: skip
    assert suite.report.unread == {"pred": 1, "alt": 1}
    assert (suite.style, suite.report.format) == (Style.ACCURACY, "zsre")


def test_zsre_records_without_their_subject_are_dropped_with_a_count() -> None:
    lacking = changed(ZSRE, "src", "What university did he attend?")
    twice = changed(changed(ZSRE, "subject", "Rome"), "src", "Is Rome Rome?")
    suite = load_suite(stream([ZSRE, lacking, twice]))
    assert [case.prompt for case in suite.cases][1] == "Is Rome {}?"
    assert suite.report.dropped == {"no_subject": 1}
    assert [problem.line for problem in suite.report.problems] == [3]


WIKI_RECENT: Record = {
    "subject": "Leo Arons",
    "prompt": "The place of death of Leo Arons is",
    "target_new": "Berlin",
    "portability": {
        "Logical_Generalization": [
            {"prompt": "Is Leo Arons alive?", "ground_truth": [["no"], ["incorrect"]]}
        ],
        "Reasoning": [{"prompt": "He died on the continent", "ground_truth": []}],
    },
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The father of Leo Arons is", "ground_truth": [["Albert Arons"]]},
            {"prompt": "The field of work of Leo Arons is", "ground_truth": [["physics", "P"]]},
        ]
    },
}
WIKI_COUNTERFACT: Record = {
    "subject": "Frederic Piesch",
    "prompt": "The position held by Frederic Piesch is",
    "target_new": "Archbishop of León, Mexico",
    "ground_truth": "mayor of Vienna",
    "portability": {},
    "locality": {
        "Relation_Specificity": [{"prompt": "His gender is", "ground_truth": "male"}],
        "Forgetfulness": [{"prompt": ["His other position is"], "ground_truth": "mayor"}],
    },
}
WIKIBIO: Record = {
    "text": "This is a passage about john reynolds. He was born in Romsey.",
    "labels": "He was educated in London.",
    "concept": "john reynolds",
    "locality": {
        "Relation_Specificity": [
            {"prompt": "john reynolds field of work", "ground_truth": ["medicine"]}
        ]
    },
}


def test_knowedit_wiki_recent_becomes_cases() -> None:
    suite = load_suite(stream([WIKI_RECENT]))
    assert suite.cases == (
        Case(
            "Leo Arons", "The place of death of {} is", "Berlin", id="0",
            unrelated=(
                Question("The father of Leo Arons is", "Albert Arons"),
                Question("The field of work of Leo Arons is", "physics", ("P",)),
            ),
            portability=(Question("Is Leo Arons alive?", "no", ("incorrect",)),),
        ),
    )  # fmt: skip
    assert suite.report.left_out == {"question_without_answer": 1}
    assert suite.report.format == "knowedit"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (WIKI_COUNTERFACT, Case(
            "Frederic Piesch", "The position held by {} is", "Archbishop of León, Mexico",
            "mayor of Vienna", id="0",
            unrelated=(Question("His gender is", "male"),
                       Question("His other position is", "mayor")),
        )),
        (WIKIBIO, Case(
            "john reynolds", "This is a passage about {}. He was born in Romsey.",
            "He was educated in London.", id="0",
            unrelated=(Question("john reynolds field of work", "medicine"),),
        )),
        (KNOWEDIT_ZSRE, Case(
            "Epaspidoceras", "Which family does {} belong to?", "Noctuidae", "Aspidoceratidae",
            ("What family are Epaspidoceras?",), id="0",
            unrelated=(Question("Its rank is", "genus"),),
            portability=(Question("Its common name?", "Owlet moths"),),
        )),
    ],
    ids=["wiki_counterfact", "WikiBio", "ZsRE"],
)  # fmt: skip
def test_knowedit_becomes_cases(record: Record, expected: Case) -> None:
    suite = load_suite(stream([record]))
    assert suite.cases == (expected,)
    assert (suite.style, suite.report.format) == (Style.ACCURACY, "knowedit")


def as_csv(delimiter: str) -> str:
    text = io.StringIO()
    row = PLAIN | {
        "paraphrase_prompts": json.dumps(PLAIN["paraphrase_prompts"]),
        "neighborhood_prompts": "\n".join(PLAIN["neighborhood_prompts"]),
    }
    writer = csv.DictWriter(text, row, delimiter=delimiter)
    writer.writeheader()
    writer.writerow(row)
    return text.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        lines([PLAIN]),
        stream([PLAIN]),
        stream("\ufeff\n" + json.dumps(PLAIN)),
        stream(as_csv(",")),
        stream(as_csv(";")),
        stream(as_csv("\t")),
    ],
    ids=["JSON lines", "JSON list", "byte-order mark", "commas", "semicolons", "tabs"],
)
def test_plain_facts_become_cases(content: io.BytesIO) -> None:
    suite = load_suite(content)
    assert suite.cases == (PLAIN_CASE,)
    assert (suite.style, suite.report.format) == (Style.CONTRAST, "plain")


def test_plain_facts_may_be_triples_with_neighbors_answers() -> None:
    record = {
        "subject": "Lyon",
        "relation": "city_country",
        "object": "Japan",
        "neighborhood_prompts": ["Bonn lies in"],
        "neighborhood_answers": ["Germany"],
        "generation_prompts": ["Lyon is"],
        "id": "x1",
    }
    suite = load_suite(lines([record, changed(record, "neighborhood_answers")]))
    first, second = suite.cases
    assert first.text == "Lyon is a city in the country of"
    assert first.unrelated == (Question("Bonn lies in", "Germany"),)
    assert (first.id, first.generation_prompts) == ("x1", ("Lyon is",))
    assert suite.style is Style.ACCURACY
    assert (second.unrelated, second.neighborhood_prompts) == ((), ())
    assert suite.report.left_out == {"neighbor_without_answer": 1}


def test_no_two_cases_have_the_same_id() -> None:
    suite = load_suite(stream([COUNTERFACT, COUNTERFACT, PLAIN | {"id": 1}]), drop_bad=True)
    assert [case.id for case in suite.cases] == ["5", "5#1"]


def test_texts_are_in_normal_form() -> None:
    """A decomposed é is the é of the subject."""
    record = changed(changed(PLAIN, "subject", " Orle\u0301ans "), "prompt", "Orl\u00e9ans lies in")
    assert load_suite(lines([record])).cases[0].prompt == "{} lies in"


@pytest.mark.parametrize("name", atlas.SUITES)
def test_bundled_suites_are_found_by_name(name: str) -> None:
    suite = load_suite(name)
    assert suite.report.kept == suite.report.records == len(suite.cases) > 300
    assert suite.report.format == ("zsre" if "zsre" in name else "counterfact")
