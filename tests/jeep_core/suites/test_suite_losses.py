"""Parts of files beside their first question, and wrappings: read, or counted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.library.suite_records import (
    COUNTERFACT,
    KNOWEDIT_ZSRE,
    PLAIN,
    PLAIN_CASE,
    ZSRE,
    Record,
    changed,
    stream,
)

from jeep_core.suites import InvalidSuite, Question, Style, load_suite
from jeep_core.suites.records import MAX_RECORD


def case_of(record: Record, **options: Any) -> Any:
    [case] = load_suite(stream([record]), **options).cases
    return case


# ---------------------------------------------------------------- questions


def test_portability_questions_of_zsre_are_kept() -> None:
    """As EasyEdit adds it: one question in fields of its own; or as KnowEdit writes it."""
    one = {"Recalled Relation": "(a, b, c)", "New Question": "Where is it?", "New Answer": "Ohio"}
    assert case_of(ZSRE | {"portability": one}).portability == (Question("Where is it?", "Ohio"),)
    groups = {"Reasoning": [{"prompt": "Its town?", "ground_truth": [["Ada"], ["Ada, Ohio"]]}]}
    found = case_of(ZSRE | {"portability": groups}).portability
    assert [one.group for one in found] == list(groups)
    assert found == (Question("Its town?", "Ada", ("Ada, Ohio",)),)
    unanswered = load_suite(stream([ZSRE | {"portability": {"New Question": "Where?"}}]))
    assert unanswered.report.left_out == {"question_without_answer": 1}


@pytest.mark.parametrize("loc", ["nq question: who sang it", "nq question: who sang it?"])
def test_a_second_question_mark_is_not_added(loc: str) -> None:
    [question] = case_of(changed(ZSRE, "loc", loc)).unrelated
    assert question.prompt == "nq question: who sang it?"


def test_groups_of_questions_may_be_columns() -> None:
    columns = {"N": {"prompt": ["a", "b"], "ground_truth": ["x", ["y", "z"]]}}
    found = case_of(changed(KNOWEDIT_ZSRE, "locality", columns)).unrelated
    assert found == (Question("a", "x"), Question("b", "y", ("z",)))


def test_a_question_without_a_prompt_is_counted() -> None:
    locality = {"N": [{"prompt": "", "ground_truth": "x"}, {"prompt": "a", "ground_truth": [[]]}]}
    suite = load_suite(stream([changed(KNOWEDIT_ZSRE, "locality", locality)]))
    assert suite.cases[0].unrelated == ()
    expected = {"question_without_prompt": 1, "question_without_answer": 1}
    assert suite.report.left_out == expected
    assert [problem.field for problem in suite.report.problems] == ["locality/N/0", "locality/N/1"]


def test_what_a_dropped_record_lacks_is_not_counted_as_a_part() -> None:
    bad = changed(KNOWEDIT_ZSRE, "prompt", "no name in it")
    bad = changed(bad, "locality", {"N": [{"prompt": "a"}]})
    report = load_suite(stream([KNOWEDIT_ZSRE, bad])).report
    assert (report.dropped, report.left_out) == ({"no_subject": 1}, {})


# ---------------------------------------------------------------- subjects


def test_a_prompt_with_one_slot_is_a_template() -> None:
    case = case_of(changed(KNOWEDIT_ZSRE, "prompt", "Which family does {} belong to?"))
    assert (case.prompt, case.subject) == ("Which family does {} belong to?", "Epaspidoceras")
    assert case_of(changed(ZSRE, "src", "Where did {} study?")).prompt == "Where did {} study?"


@pytest.mark.parametrize(
    ("record", "field", "read"),
    [
        (COUNTERFACT, "paraphrase_prompts", "paraphrase_prompts"),
        (COUNTERFACT, "neighborhood_prompts", "neighborhood_prompts"),
        (COUNTERFACT, "generation_prompts", "generation_prompts"),
        (PLAIN, "paraphrase_prompts", "paraphrase_prompts"),
        (PLAIN, "neighborhood_prompts", "neighborhood_prompts"),
        (ZSRE, "rephrase", "paraphrase_prompts"),
        (KNOWEDIT_ZSRE, "rephrase_prompt", "paraphrase_prompts"),
    ],
)
def test_prompts_are_filled_in_with_the_subject(record: Record, field: str, read: str) -> None:
    suite = load_suite(stream([record | {field: "Tell me of {} now"}]))
    [case] = suite.cases
    assert getattr(case, read) == (f"Tell me of {case.subject} now",)
    assert suite.report.adapted == {"filled_prompt": 1}


@pytest.mark.parametrize(
    ("subject", "prompt", "as_written"),
    [
        ("mona lisa", "Who painted the Mona Lisa?", "Mona Lisa"),
        ("King's Lynn", "Where is King’s Lynn?", "King’s Lynn"),
        ("Saint-Denis", "Where is Saint–Denis?", "Saint–Denis"),
        ("New York", "Where is New\u00a0York?", "New\u00a0York"),
    ],
)
def test_subjects_spelled_otherwise_are_found_and_counted(
    subject: str, prompt: str, as_written: str
) -> None:
    """The edit is made on the text as it stands, so that the prompt is what was asked."""
    suite = load_suite(stream([KNOWEDIT_ZSRE | {"subject": subject, "prompt": prompt}]))
    [case] = suite.cases
    assert (case.subject, case.text) == (as_written, prompt)
    assert suite.report.adapted == {"subject_spelling": 1}


def test_a_missing_subject_names_record_field_and_reason() -> None:
    suite = load_suite(stream([KNOWEDIT_ZSRE, changed(KNOWEDIT_ZSRE, "prompt", "Which is it?")]))
    [problem] = suite.report.problems
    assert (problem.line, problem.record, problem.field) == (3, 1, "prompt")
    assert problem.message == (
        "prompt has neither '{}' nor the subject 'Epaspidoceras' as a word of its own in it: "
        "write {} in place of the subject"
    )
    with pytest.raises(InvalidSuite, match=r"\(1 no_subject\); record 0: prompt has neither"):
        load_suite(stream([changed(KNOWEDIT_ZSRE, "prompt", "Which is it?")]))


def test_fields_without_a_meaning_are_counted_by_name() -> None:
    report = load_suite(stream([PLAIN, PLAIN | {"paraphrase": ["a"], "note": "b"}])).report
    assert report.unread == {"paraphrase": 1, "note": 1}
    report = load_suite(stream([COUNTERFACT])).report
    assert report.unread == {"pararel_idx": 1, "attribute_prompts": 1}


# ---------------------------------------------------------------- wrappings

TWO = [PLAIN, PLAIN | {"id": "b"}]
PRETTY = json.dumps(PLAIN, indent=2)
ROWS = [{"row_idx": i, "row": record, "truncated_cells": []} for i, record in enumerate(TWO)]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"data": TWO}),
        json.dumps({"data": TWO}, indent=1),
        json.dumps({"version": {"a": [1, "]"]}, "data": TWO, "more": [TWO]}),
        json.dumps({"features": [{"name": "x"}], "rows": ROWS, "num_rows_total": 2}, indent=2),
        json.dumps({"facts": TWO}),
        json.dumps(ROWS),
        "".join(json.dumps(row) + "\n" for row in ROWS),
        PRETTY + "\n" + json.dumps(TWO[1], indent=2),
        json.dumps(PLAIN) + "\n" + json.dumps(TWO[1]),
    ],
    ids=["data", "data over lines", "with other values", "rows of the viewer", "facts",
         "a list of rows", "rows one a line", "objects over lines", "lines"],
)  # fmt: skip
@pytest.mark.parametrize("size", [7, 1 << 16])
def test_records_are_found_in_every_wrapping(
    content: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jeep_core.suites.records.CHUNK", size)
    suite = load_suite(stream(content))
    assert [case.id for case in suite.cases] == ["0", "b"]
    assert suite.cases[0] == PLAIN_CASE
    assert suite.report.records == 2


def test_one_object_over_several_lines() -> None:
    suite = load_suite(stream(PRETTY))
    assert (suite.cases, suite.report.records) == ((PLAIN_CASE,), 1)


def test_lists_in_objects_are_read_record_by_record() -> None:
    """The object is longer than any record may be."""
    records = [PLAIN | {"paraphrase_prompts": ["x" * 9000] * 2} for _ in range(100)]
    content = json.dumps({"data": records})
    assert len(content) > MAX_RECORD
    assert len(load_suite(stream(content)).cases) == 100


def test_a_row_that_was_cut_is_dropped_and_counted() -> None:
    cut = {"row_idx": 1, "row": PLAIN, "truncated_cells": ["prompt"]}
    suite = load_suite(stream(json.dumps({"rows": [ROWS[0], cut]})))
    assert suite.report.dropped == {"truncated": 1}
    assert suite.report.problems[0].field == "prompt"


@pytest.mark.parametrize(
    ("content", "line", "code"),
    [
        ('{"data": []}', 1, "empty"),
        ('{"data": [' + json.dumps(PLAIN), 1, "not_json"),
        ('{"data": [' + json.dumps(PLAIN) + "]\n", 2, "not_json"),
        ('{"data": [' + json.dumps(PLAIN) + "]\n} x", 2, "not_json"),
        ('{"data": [' + json.dumps(PLAIN) + '],\n"x" 3}', 2, "not_json"),
        ('{"data": [' + json.dumps(PLAIN) + '],\n"rows": []}', 2, "two_lists"),
    ],
)
def test_broken_wrappings_are_refused(content: str, line: int, code: str) -> None:
    with pytest.raises(InvalidSuite) as caught:
        load_suite(stream(content), drop_bad=True)
    [problem] = caught.value.problems
    assert (problem.line, problem.code) == (line, code)


@pytest.mark.parametrize("order", [("data", "test"), ("test", "data")])
def test_a_second_list_of_records_is_not_lost(order: tuple[str, str]) -> None:
    """Whatever its name and its place."""
    content = {name: [COUNTERFACT] for name in order}
    with pytest.raises(InvalidSuite, match="'test' is a second list of records"):
        load_suite(stream(json.dumps(content)))


def test_a_list_of_records_under_another_name_is_told_the_names() -> None:
    with pytest.raises(InvalidSuite, match="called data, rows, records, facts"):
        load_suite(stream(json.dumps({"train": [COUNTERFACT]})))


@pytest.mark.parametrize("between", ["", " ", "\t"])
def test_several_objects_in_a_line_are_read(between: str) -> None:
    one = json.dumps(PLAIN)
    assert load_suite(stream(f"{one}{between}{one}\n{one}")).report.records == 3


@pytest.mark.parametrize("content", ["null", '"text"', "5"])
def test_lines_are_counted_from_one(content: str) -> None:
    with pytest.raises(InvalidSuite) as error:
        load_suite(stream(content))
    assert error.value.problems[0].line == 1


def test_every_prompt_of_a_list_in_a_list_is_asked() -> None:
    locality = {"N": [{"prompt": [["a", "b"], "c"], "ground_truth": ["x", "y"]}]}
    found = case_of(changed(KNOWEDIT_ZSRE, "locality", locality)).unrelated
    assert found == (Question("a", "x"), Question("b", "x"), Question("c", "y"))


def test_zsre_may_have_lists_of_questions() -> None:
    lists = {"rephrase": ["a", "b"], "loc": ["c", "d?"], "loc_ans": ["x", ["y", "z"]]}
    case = case_of(ZSRE | lists)
    assert case.paraphrase_prompts == ("a", "b")
    assert case.unrelated == (Question("c?", "x"), Question("d?", "y", ("z",)))
    assert case_of(ZSRE | {"loc_ans": ["x", "y"]}).unrelated[0].answers == ("x", "y")


def test_a_field_that_is_null_gives_way_to_its_other_name() -> None:
    record = {**changed(KNOWEDIT_ZSRE, "rephrase_prompt", None), "rephrase": "a"}
    assert case_of(record).paraphrase_prompts == ("a",)


def test_plain_facts_find_subjects_that_are_spelled_otherwise() -> None:
    """As the records of every other format do."""
    record = {"subject": "port of lyon", "prompt": "The Port of Lyon is in", "target_new": "Japan"}
    suite = load_suite(stream([record]))
    assert (suite.cases[0].subject, suite.cases[0].prompt) == ("Port of Lyon", "The {} is in")
    assert suite.report.adapted == {"subject_spelling": 1}


def test_a_record_of_another_format_than_the_file_is_named() -> None:
    expected = "read as plain, and this record looks like counterfact"
    with pytest.raises(InvalidSuite, match=expected):
        load_suite(stream([PLAIN, COUNTERFACT]))


@pytest.mark.parametrize(("true", "neighbor"), [(["MIT"], "MIT"), ("MIT", ["MIT"])])
def test_a_true_answer_may_be_a_list_in_one_place_only(true: object, neighbor: object) -> None:
    record = {
        "prompt": "{} is at", "subject": "Ada", "target_new": "Rice", "ground_truth": true,
        "locality_prompt": "Bob is at", "locality_ground_truth": neighbor,
    }  # fmt: skip
    assert load_suite(stream([record])).style is Style.CONTRAST
