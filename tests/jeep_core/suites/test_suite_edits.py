"""Records of suites as facts to edit: what facts have no place for is counted."""

from __future__ import annotations

from typing import Any

import pytest
from support.library.suite_records import (
    COUNTERFACT,
    EASYEDIT,
    KNOWEDIT_ZSRE,
    MQUAKE,
    PLAIN,
    ROME,
    ZSRE,
    changed,
    stream,
)

from jeep_core.spec.facts import Fact
from jeep_core.suites import InvalidSuite, SuiteReader
from jeep_core.suites.columns import place, rows
from jeep_core.suites.edits import facts_of, foreign_records
from jeep_core.suites.fields import Malformed


def read(records: list[Any], **options: Any) -> tuple[list[Fact], SuiteReader]:
    reader = SuiteReader(stream(records), style="accuracy", **options)
    return [one.fact for one in facts_of(reader)], reader


def test_records_of_a_suite_become_facts() -> None:
    [fact], reader = read([EASYEDIT])
    assert fact == Fact(
        "Port Malin", "The harbour of {} belongs to", "Norway", "Chile",
        ("Ships that call at Port Malin pay their dues in",),
        ("The harbour of San Tello belongs to",),
    )  # fmt: skip
    assert type(fact) is Fact
    assert reader.report.left_out == {}


def test_fields_that_only_measure_are_counted() -> None:
    _, reader = read([ZSRE | {"portability": {"New Question": "a", "New Answer": "b"}}])
    assert reader.report.left_out == {
        "unrelated_question": 1, "portability_question": 1, "alias": 1,
    }  # fmt: skip
    _, reader = read([COUNTERFACT])
    assert reader.report.left_out == {"generation_prompt": 1}


def test_an_edit_needs_no_true_answer() -> None:
    bare = changed(changed(COUNTERFACT, "requested_rewrite/target_true"), "neighborhood_prompts")
    facts, _ = read([bare, COUNTERFACT | {"case_id": 6}])
    assert [fact.target_true for fact in facts] == [None, "French"]


def test_a_record_that_contradicts_an_earlier_one_is_dropped() -> None:
    other = changed(EASYEDIT, "target_new", "Peru")
    facts, reader = read([EASYEDIT, other, EASYEDIT])
    assert [fact.target_new for fact in facts] == ["Norway", "Norway"]
    assert reader.report.dropped == {"contradiction": 1}
    [problem] = reader.report.problems
    assert (problem.line, problem.record) == (3, 1)
    assert problem.message == (
        "an earlier record gives another answer to 'The harbour of Port Malin belongs to'"
    )


def test_a_limit_counts_records_that_can_be_edited() -> None:
    """A record of several rewrites is taken whole; what follows the last one is not read."""
    lost = changed(EASYEDIT, "prompt", "no name")
    facts, reader = read([lost, EASYEDIT, 3, "x"], limit=1)
    assert (len(facts), reader.report.records, reader.report.dropped) == (1, 2, {"no_subject": 1})
    facts, _ = read([MQUAKE, MQUAKE], limit=1)
    assert [fact.subject for fact in facts] == ["Gull", "Mara Lund"]


def test_bad_records_before_the_limit_are_refused() -> None:
    bad = changed(EASYEDIT, "target_new", [])
    with pytest.raises(InvalidSuite, match="target_new is empty"):
        read([bad, EASYEDIT, EASYEDIT], limit=1)
    facts, _ = read([bad, EASYEDIT, EASYEDIT], limit=1, drop_bad=True)
    assert len(facts) == 1


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (EASYEDIT, 1),
        ([PLAIN, ROME], 2),
        ({"rows": [{"row": KNOWEDIT_ZSRE}]}, 1),
        ({"prompts": ["a", "b"], "subject": ["c", "d"], "target_new": ["e", "f"]}, 2),
        (PLAIN, None),
        ([PLAIN], None),
        ({"facts": [PLAIN]}, None),
        ({}, None),
        (3, None),
    ],
)
def test_records_of_other_formats_are_recognised(value: Any, count: int | None) -> None:
    found = foreign_records(value)
    assert (None if found is None else len(found)) == count


def test_arguments_of_a_call_become_records() -> None:
    call = {
        "prompts": ["a b", "c d"],
        "subject": ["b", "d"],
        "target_new": ["x", "y"],
        "rephrase_prompts": [None, ["e", "f"]],
        "portability_inputs": {"hop": {"prompt": [["g", "h"], None], "ground_truth": ["i", None]}},
    }
    first, second = rows(call)
    assert first == {
        "prompt": "a b", "subject": "b", "target_new": "x", "rephrase_prompt": None,
        "portability": {"hop": [{"prompt": ["g", "h"], "ground_truth": "i"}]},
    }  # fmt: skip
    assert (second["rephrase_prompt"], second["portability"]) == (["e", "f"], {})
    assert place(call, 1, "rephrase_prompt/0") == "/rephrase_prompts/1"
    single = {"prompts": "a b", "subject": "b", "target_new": "x"}
    assert rows(single) == [{"prompt": "a b", "subject": "b", "target_new": "x"}]
    assert place(single, 0, "prompt") == "/prompts"
    with pytest.raises(Malformed, match="portability_inputs must be an object"):
        rows({**call, "portability_inputs": 3})
    with pytest.raises(Malformed, match="must be an object with prompt and ground_truth"):
        rows({**call, "portability_inputs": {"hop": ["g"]}})
