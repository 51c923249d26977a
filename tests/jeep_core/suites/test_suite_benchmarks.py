"""Suites of other projects, from their own fields to cases: nothing that they ask is lost."""

from __future__ import annotations

import csv
import io
import json

import pytest
from support.library.suite_records import (
    EASYEDIT,
    MQUAKE,
    ROME,
    Record,
    changed,
    lines,
    rewrite,
    stream,
)

from jeep_core.suites import Case, InvalidSuite, Question, Style, load_suite

EASYEDIT_CASE = Case(
    "Port Malin",
    "The harbour of {} belongs to",
    "Norway",
    "Chile",
    ("Ships that call at Port Malin pay their dues in",),
    id="7",
    unrelated=(Question("The harbour of San Tello belongs to", "Chile"),),
)


def test_easyedit_counterfact_is_judged_by_contrast() -> None:
    """Its true answer also answers the neighbor."""
    suite = load_suite(stream([EASYEDIT]))
    assert suite.cases == (EASYEDIT_CASE,)
    assert (suite.style, suite.report.format) == (Style.CONTRAST, "easyedit")
    assert suite.report.prompts == {
        "edit": 1, "paraphrase": 1, "neighbor": 1, "portability": 0, "generation": 0, "alias": 0,
    }  # fmt: skip
    assert suite.report.adapted == {"filled_prompt": 1}


def test_another_answer_of_the_neighbor_is_judged_by_accuracy() -> None:
    other = changed(EASYEDIT, "locality_ground_truth", "Peru")
    assert load_suite(stream([EASYEDIT, other])).style is Style.ACCURACY
    assert load_suite(stream([other]), style="contrast").style is Style.CONTRAST
    assert load_suite(stream([EASYEDIT]), style="accuracy").style is Style.ACCURACY


def test_contrast_needs_a_true_answer_and_says_how_to_do_without() -> None:
    without = changed(EASYEDIT, "ground_truth")
    with pytest.raises(InvalidSuite, match=r"ground_truth is missing.*style=accuracy"):
        load_suite(stream([EASYEDIT, without]))
    same = changed(EASYEDIT, "ground_truth", "Norway")
    suite = load_suite(stream([EASYEDIT, same]), style="contrast")
    assert suite.report.dropped == {"same_target": 1}


def test_lists_of_questions_are_read_to_the_end() -> None:
    record = EASYEDIT | {
        "rephrase_prompt": ["a {}", "b"],
        "locality_prompt": ["The flag of San Tello is", "Its mayor is", "Its river is"],
        "locality_ground_truth": ["red", ["Ana", "Ana Paz"], None],
        "portability_prompt": "Its king is",
        "portability_ground_truth": ["Harald", "Harald V"],
    }
    [case] = (suite := load_suite(stream([record]))).cases
    assert case.paraphrase_prompts == ("a Port Malin", "b")
    assert case.unrelated == (
        Question("The flag of San Tello is", "red"),
        Question("Its mayor is", "Ana", ("Ana Paz",)),
    )
    assert case.portability == (Question("Its king is", "Harald", ("Harald V",)),)
    assert suite.report.left_out == {"question_without_answer": 1}
    [problem] = suite.report.problems
    assert str(problem) == (
        "line 2, record 0, locality_prompt: no answer is given to 'Its river is'"
    )
    wrong = changed(record, "locality_ground_truth", ["red", "blue"])
    with pytest.raises(InvalidSuite, match="2 answers for 3 prompts"):
        load_suite(stream([wrong]))


def test_an_old_answer_that_is_none_is_left_out_and_counted() -> None:
    records = [
        EASYEDIT | {"ground_truth": "<|endoftext|>"},
        EASYEDIT | {"ground_truth": ["Norway", "Chile", "Republic of Chile"]},
    ]
    suite = load_suite(stream(records), style="accuracy")
    assert [case.target_true for case in suite.cases] == [None, "Chile"]
    assert suite.cases[1].true_aliases == ("Republic of Chile",)
    assert suite.report.left_out == {"placeholder": 1, "same_target": 1}


WIKIBIGEDIT: Record = {
    "tag": "7",
    "subject": "Ostmark Bridge",
    "update": "Which river does the Ostmark Bridge cross?",
    "ans": "Tell",
    "rephrase": "What river is crossed by the Ostmark Bridge?",
    "personas": "Arr, what water be under Ostmark Bridge?",
    "personas_formal": "Kindly name the river below the Ostmark Bridge.",
    "loc": "Which river does the Lindt Bridge cross?",
    "loc_ans": "Aar",
    "mhop": "Where does the river that the Ostmark Bridge crosses end?",
    "mhop_ans": "Lake Orr",
}


def test_wikibigedit_is_read_as_published() -> None:
    none = WIKIBIGEDIT | {"mhop": None, "mhop_ans": None, "personas": None}
    suite = load_suite(stream([WIKIBIGEDIT, none]))
    first, second = suite.cases
    assert first == Case(
        "Ostmark Bridge",
        "Which river does the {} cross?",
        "Tell",
        None,
        (WIKIBIGEDIT["rephrase"], WIKIBIGEDIT["personas"], WIKIBIGEDIT["personas_formal"]),
        id="0",
        unrelated=(Question(WIKIBIGEDIT["loc"], "Aar"),),
        portability=(Question(WIKIBIGEDIT["mhop"], "Lake Orr"),),
    )
    assert (len(second.paraphrase_prompts), second.portability) == (2, ())
    assert (suite.style, suite.report.format) == (Style.ACCURACY, "wikibigedit")
    assert suite.report.unread == {"tag": 2}


def test_wikibigedit_in_flat_fields_has_no_old_answer() -> None:
    suite = load_suite(stream([changed(EASYEDIT, "ground_truth")]))
    [case] = suite.cases
    assert (case.target_true, case.unrelated) == (None, EASYEDIT_CASE.unrelated)
    assert (suite.style, suite.report.format) == (Style.ACCURACY, "wikibigedit")


QAEDIT: Record = {
    "id": 31,
    "source": "Q",
    "prompt": "who built the mill at Oldham Weir?",
    "target": "Jonas Pike",
    "subject": "oldham weir",
    "rephrase": "By whom was the mill at Oldham Weir built?",
    "locality": [
        {"loc": "who painted the ceiling", "loc_ans": "Ilse Brandt"},
        {"loc": "when was the fair", "loc_ans": ["1904", "in 1904"]},
    ],
}


def test_qaedit_is_read_as_published() -> None:
    """The subject is found in another letter case, and edited as the prompt spells it."""
    suite = load_suite(stream([QAEDIT]))
    assert suite.cases == (
        Case(
            "Oldham Weir",
            "who built the mill at {}?",
            "Jonas Pike",
            None,
            ("By whom was the mill at Oldham Weir built?",),
            id="31",
            unrelated=(
                Question("who painted the ceiling", "Ilse Brandt"),
                Question("when was the fair", "1904", ("in 1904",)),
            ),
        ),
    )
    assert (suite.style, suite.report.format) == (Style.ACCURACY, "qaedit")
    assert suite.report.adapted == {"subject_spelling": 1}


def test_mquake_makes_a_case_of_every_rewrite_and_asks_what_needs_all_with_the_last() -> None:
    suite = load_suite(stream([MQUAKE, MQUAKE | {"case_id": 5}]))
    first, second, *_ = suite.cases
    assert first == Case(
        "Gull", "{} was written by", "Mara Lund", "Ivo Stern", ("Who wrote Gull?",), id="4.0",
        target_aliases=("M. Lund",), true_aliases=("I. Stern",),
    )  # fmt: skip
    assert second == Case(
        "Mara Lund", "{} is a citizen of", "Iceland", "Denmark", ("Whose citizen is she?",),
        id="4.1",
        unrelated=(Question("Where is Ivo Stern a citizen?", "Austria"),),
        portability=tuple(
            Question(question, "Iceland", ("Republic of Iceland",))
            for question in MQUAKE["questions"]
        ),
        target_aliases=("IS",),
    )  # fmt: skip
    assert [case.id for case in suite.cases] == ["4.0", "4.1", "5.0", "5.1"]
    report = suite.report
    assert (report.format, report.records, report.kept, report.cases) == ("mquake", 2, 2, 4)
    assert suite.style is Style.ACCURACY


def test_mquake_with_a_wrong_rewrite_is_dropped_as_a_whole() -> None:
    """The questions need all rewrites: the record is dropped as a whole, or refused."""
    same = [MQUAKE["requested_rewrite"][0],
            rewrite("Mara Lund", "{} is a citizen of", "Denmark", "Denmark", "Where?")]  # fmt: skip
    suite = load_suite(stream([MQUAKE, MQUAKE | {"requested_rewrite": same}]))
    assert (len(suite.cases), suite.report.dropped) == (2, {"same_target": 1})
    with pytest.raises(InvalidSuite, match="requested_rewrite/1 must be an object"):
        load_suite(stream([MQUAKE | {"requested_rewrite": [same[0], 3]}]))


def test_halluedit_is_read_from_csv() -> None:
    row = {
        "subject": "Hotel Alva",
        "relation": "architect",
        "object": "Nils Berg",
        "question": "Who is the architect of Hotel Alva?",
        "paraphrased_question": "Who designed Hotel Alva?",
        "multiple_choice_with_letters": "A. Nils Berg, B. Ada Hill",
        "multiple_choice_labels": "A",
        "yes_question": "Did Nils Berg design Hotel Alva?",
        "no_question": "Did Ada Hill design Hotel Alva?",
        "locality_question": "How many rooms has Hotel Alva?",
        "reversed_relation_question": "Which hotel did Nils Berg design?",
        "question_2hop": "Where was the architect of Hotel Alva born?",
        "answer_2hop": "Bergen",
        "question_3hop": "On which sea is that town?",
        "answer_3hop": "",
        "output_of_a_model": "Ada Hill",
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, row)
    writer.writeheader()
    writer.writerow(row)
    suite = load_suite(stream(text.getvalue()))
    [case] = suite.cases
    assert case == Case(
        "Hotel Alva",
        "Who is the architect of {}?",
        "Nils Berg",
        None,
        ("Who designed Hotel Alva?",),
        id="0",
        portability=(
            Question(row["yes_question"], "Yes"),
            Question(row["no_question"], "No"),
            Question(row["reversed_relation_question"], "Hotel Alva"),
            Question(row["question_2hop"], "Bergen"),
            Question(f"{row['question']} {row['multiple_choice_with_letters']}", "A"),
        ),
    )
    assert [one.group for one in case.portability] == [
        "yes_question", "no_question", "reversed_relation_question", "question_2hop",
        "multiple_choice_with_letters",
    ]  # fmt: skip
    assert (suite.style, suite.report.format) == (Style.ACCURACY, "halluedit")
    assert suite.report.left_out == {"question_without_answer": 2}
    assert [problem.field for problem in suite.report.problems] == [
        "question_3hop", "locality_question",
    ]  # fmt: skip
    assert suite.report.unread == {"relation": 1, "output_of_a_model": 1}


def test_requests_of_rome_become_cases() -> None:
    true = ROME | {"target_true": {"str": "harp"}, "neighborhood_prompts": ["Ole Dahl plays the"]}
    suite = load_suite(stream([true]))
    assert suite.cases == (
        Case("Tove Aas", "{} plays the", "oboe", "harp", (), ("Ole Dahl plays the",), id="0"),
    )
    assert (suite.style, suite.report.format) == (Style.CONTRAST, "rome")
    without = load_suite(stream([ROME | {"neighborhood_prompts": ["Ole Dahl plays the"]}]))
    assert (without.style, without.cases[0].target_true) == (Style.ACCURACY, None)
    assert without.report.left_out == {"neighbor_without_answer": 1}


def test_every_format_comes_as_csv_too() -> None:
    """Cells of lists and objects hold JSON."""
    text = io.StringIO()
    writer = csv.DictWriter(text, QAEDIT)
    writer.writeheader()
    writer.writerow(QAEDIT | {"locality": json.dumps(QAEDIT["locality"])})
    [case] = load_suite(stream(text.getvalue())).cases
    assert [question.answers for question in case.unrelated] == [
        ("Ilse Brandt",), ("1904", "in 1904"),
    ]  # fmt: skip
    assert load_suite(lines([QAEDIT])).cases == (case,)
