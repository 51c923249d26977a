"""What is dropped from a suite and counted, what is refused and where; where suites come from."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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
    lines,
    stream,
)

from jeep_core.errors import JeepError
from jeep_core.suites import InvalidSuite, Suite, hub_file, load_suite
from jeep_core.suites.records import CHUNK, MAX_RECORD

BAD_COUNTERFACT: dict[str, tuple[Record | str | list[Any], str]] = {
    "no rewrite": (changed(COUNTERFACT, "requested_rewrite"), "missing"),
    "rewrite is a text": (changed(COUNTERFACT, "requested_rewrite", "x"), "not_an_object"),
    "no subject": (changed(COUNTERFACT, "requested_rewrite/subject"), "missing"),
    "empty subject": (changed(COUNTERFACT, "requested_rewrite/subject", " "), "empty"),
    "no slot": (changed(COUNTERFACT, "requested_rewrite/prompt", "x"), "slots"),
    "two slots": (changed(COUNTERFACT, "requested_rewrite/prompt", "{} {}"), "slots"),
    "slot in subject": (changed(COUNTERFACT, "requested_rewrite/subject", "{}"), "slots"),
    "no true answer": (changed(COUNTERFACT, "requested_rewrite/target_true"), "missing"),
    "answer is a text": (
        changed(COUNTERFACT, "requested_rewrite/target_new", "x"), "not_an_object"),
    "answer is a number": (
        changed(COUNTERFACT, "requested_rewrite/target_new/str", 3), "not_text"),
    "prompts are a number": (changed(COUNTERFACT, "paraphrase_prompts", 3), "not_texts"),
    "an empty prompt": (changed(COUNTERFACT, "neighborhood_prompts", ["a", ""]), "empty"),
    "a huge prompt": (changed(COUNTERFACT, "paraphrase_prompts", ["x" * 20_001]), "too_long"),
    "no object": ([1], "not_an_object"),
}  # fmt: skip
SAME = changed(COUNTERFACT, "requested_rewrite/target_new/str", "French")


def test_one_bad_record_of_each_kind_is_refused_with_its_line() -> None:
    """Good, bad, good, bad, …: all problems are reported, at the lines they are in."""
    bad = list(BAD_COUNTERFACT.values())
    content = [record for item, _ in bad for record in (COUNTERFACT, item)]
    with pytest.raises(InvalidSuite) as caught:
        load_suite(stream([*content, SAME]))
    found = [(p.line, p.record, p.code) for p in caught.value.problems]
    assert found == [(2 * i + 3, 2 * i + 1, code) for i, (_, code) in enumerate(bad)]
    assert "line 3, record 1: requested_rewrite is missing" in str(caught.value)


def test_one_bad_record_of_each_kind_is_dropped_with_exactly_these_counts() -> None:
    bad = [record for record, _ in BAD_COUNTERFACT.values()]
    suite = load_suite(stream([*bad, COUNTERFACT, SAME, COUNTERFACT]), drop_bad=True)
    assert len(suite.cases) == 2
    assert suite.report.dropped == {
        "missing": 3, "not_an_object": 3, "empty": 2, "slots": 3, "not_text": 1,
        "not_texts": 1, "too_long": 1, "same_target": 1,
    }  # fmt: skip
    assert suite.report.records == 17 == suite.report.kept + suite.dropped


@pytest.mark.parametrize(
    ("good", "bad", "code", "field"),
    [
        (ZSRE, changed(ZSRE, "answers", []), "empty", "answers"),
        (ZSRE, changed(ZSRE, "rephrase"), "missing", "rephrase"),
        (ZSRE, changed(ZSRE, "loc_ans", ""), "empty", "loc_ans"),
        (PLAIN, changed(PLAIN, "target_new"), "empty", "target_new"),
        (PLAIN, changed(PLAIN, "target_new", 5), "not_text", "target_new"),
        (PLAIN, changed(PLAIN, "prompt", "{} {}"), "many_slots", "prompt"),
        (PLAIN, changed(PLAIN, "target_true"), "missing", "target_true"),
        (PLAIN, PLAIN | {"neighborhood_answers": ["x"]}, "other_length", "neighborhood_answers"),
        (KNOWEDIT_ZSRE, changed(KNOWEDIT_ZSRE, "target_new", []), "empty", "target_new"),
        (KNOWEDIT_ZSRE, changed(KNOWEDIT_ZSRE, "subject"), "missing", "subject"),
        (KNOWEDIT_ZSRE, changed(KNOWEDIT_ZSRE, "locality", []), "not_an_object", "locality"),
        (KNOWEDIT_ZSRE, changed(KNOWEDIT_ZSRE, "locality", {"F": "x"}), "not_a_list",
         "locality/F"),
        (KNOWEDIT_ZSRE, changed(KNOWEDIT_ZSRE, "locality", {"F": [3]}), "not_an_object",
         "locality/F/0"),
    ],
)  # fmt: skip
def test_other_formats_name_the_field(good: Record, bad: Record, code: str, field: str) -> None:
    with pytest.raises(InvalidSuite) as caught:
        load_suite(stream([good, bad]))
    [problem] = caught.value.problems
    assert (problem.line, problem.record) == (3, 1)
    assert (problem.code, problem.field) == (code, field)


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (changed(PLAIN, "prompt", "It lies in"), "no_subject"),
        (changed(PLAIN, "target_true", "Japan"), "same_target"),
        (changed(KNOWEDIT_ZSRE, "prompt", "Which family is it?"), "no_subject"),
        (changed(KNOWEDIT_ZSRE, "prompt", "Is {} {}?"), "many_slots"),
    ],
)
def test_what_cannot_be_edited_is_dropped(record: Record, code: str) -> None:
    good = PLAIN if "target_true" in record else KNOWEDIT_ZSRE
    suite = load_suite(stream([good, record]))
    assert (len(suite.cases), suite.report.dropped) == (1, {code: 1})


def test_a_broken_line_of_json_lines_is_one_bad_record() -> None:
    content = stream(f'{json.dumps(PLAIN)}\n\n{{"subject": \n{json.dumps(PLAIN)}\n7\n')
    with pytest.raises(InvalidSuite) as caught:
        load_suite(content)
    assert [(p.line, p.code) for p in caught.value.problems] == [
        (3, "not_json"), (5, "not_an_object"),
    ]  # fmt: skip
    content.seek(0)
    suite = load_suite(content, drop_bad=True)
    assert (len(suite.cases), suite.dropped) == (2, 2)


GOOD = json.dumps(PLAIN)


@pytest.mark.parametrize(
    ("content", "line", "code"),
    [
        ("", 1, "empty"),
        (" \n\n", 1, "empty"),
        ("[\n]", 2, "empty"),
        (f"[{GOOD},\n{GOOD}", 2, "not_json"),
        (f"[{GOOD}\n{GOOD}]", 2, "not_json"),
        (f"[{GOOD}]\nmore", 2, "not_json"),
        (f'[{GOOD},\n{{"subject": tru}}]', 2, "not_json"),
        ("[" + "[" * 100_000, 1, "not_json"),
        (f"[{GOOD},\n{GOOD}\n".encode() + b"\xff", 3, "not_utf8"),
        ('[{"a": "' + "x" * MAX_RECORD, 1, "not_json"),
        ("x" * (MAX_RECORD + CHUNK + 1), 1, "too_long"),
        ("{\n", 1, "not_json"),
        (f'{{"case_id": {"9" * 5000}}}', 1, "not_json"),
        (f'[{GOOD},\n{{"case_id": {"9" * 5000}}}]', 2, "not_json"),
        ('{"subject": "\\uD800"}', 1, "not_json"),
        (f'[{GOOD},\n{{"subject": "\\ud800"}}]', 2, "not_json"),
        ("subject\rname\nx\n", 1, "not_csv"),
        ('subject,prompt,paraphrase_prompts\nLyon,Lyon is in,"[""\\ud800""]"', 2, "not_json"),
        ("name;age\nx;3", 1, "unknown_format"),
        ("subject;prompt\n\n", 3, "empty"),
        ('subject,prompt,target_new\nLyon,"x', 2, "not_csv"),
        ('[{"success": [], "locality": []}]', 1, "unknown_format"),
        (f"[{json.dumps(PLAIN | {'target_true': 'Japan'})}]", 1, "no_cases"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_from_which_line_on(
    content: str | bytes, line: int, code: str
) -> None:
    with pytest.raises(InvalidSuite) as caught:
        load_suite(stream(content), drop_bad=True)
    [problem] = caught.value.problems
    assert (problem.line, problem.code) == (line, code)


def test_csv_rows_with_wrong_cells_are_refused() -> None:
    header = "subject,prompt,target_new,target_true,paraphrase_prompts\n"
    rows = "Lyon,Lyon is in,Japan,France,\nLyon,x,y,z,a,b\nLyon,Lyon is,Japan,France,[a\n"
    with pytest.raises(InvalidSuite) as caught:
        load_suite(stream(header + rows))
    found = [(p.line, p.code) for p in caught.value.problems]
    assert found == [(3, "too_many_cells"), (4, "not_json")]


def test_reading_stops_after_a_hundred_problems() -> None:
    bad = changed(PLAIN, "target_new")
    with pytest.raises(InvalidSuite) as caught:
        load_suite(lines([PLAIN, *[bad] * 300]))
    assert len(caught.value.problems) == 100


# ---------------------------------------------------------------- sources


def many() -> Suite:
    """Records over several chunks, so that some are cut by a chunk's end."""
    records = [changed(PLAIN, "subject", f"Østfold {'x' * (i % 97)}") for i in range(1500)]
    content = stream(records)
    assert len(content.getvalue()) > 3 * CHUNK
    return load_suite(content)


def test_records_that_chunks_cut_are_whole() -> None:
    suite = many()
    assert len(suite.cases) == 1500
    assert all(case.subject == f"Østfold {'x' * (i % 97)}".strip()
               for i, case in enumerate(suite.cases))  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("form", ["list", "lines", "csv"])
def test_it_does_not_matter_where_chunks_end(
    form: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {"subject": "Łódź", "prompt": "{} lies in", "target_new": "日本"}
    text = {
        "list": json.dumps([plain, plain], ensure_ascii=False, indent=1),
        "lines": f"{json.dumps(plain, ensure_ascii=False)}\r\n" * 2,
        "csv": "\ufeffsubject,prompt,target_new\r\n" + 'Łódź,"{} lies in",日本\r\n' * 2,
    }[form]
    monkeypatch.setattr("jeep_core.suites.records.CHUNK", size)
    suite = load_suite(stream(text))
    assert [(c.subject, c.prompt, c.target_new) for c in suite.cases] == [
        ("Łódź", "{} lies in", "日本")
    ] * 2


def test_a_format_can_be_named() -> None:
    with pytest.raises(InvalidSuite, match="requested_rewrite is missing"):
        load_suite(stream([PLAIN]), format="counterfact")
    with pytest.raises(JeepError, match=r"no suite format 'x'; there are: counterfact, mquake"):
        load_suite(stream([PLAIN]), format="x")


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JeepError, match=r"neither a file nor a bundled suite.*atlas-zsre"):
        load_suite("no-suite")
    with pytest.raises(JeepError, match=r"did you mean 'atlas-zsre'"):
        load_suite("atlas-zrse")
    with pytest.raises(JeepError, match="cannot be read"):
        load_suite(tmp_path)


@pytest.fixture
def hub(tmp_path: Path) -> Callable[..., Path]:
    """A cache of the hub as huggingface_hub keeps it."""

    def add(*files: str) -> Path:
        folder = tmp_path / "datasets--owner--facts"
        snapshot = folder / "snapshots" / ("0" * 40)
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        for name in files:
            path = snapshot / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps([PLAIN]), encoding="utf-8")
        return tmp_path

    return add


def test_a_suite_is_loaded_from_the_hub(hub: Callable[..., Path]) -> None:
    cache = hub("data/facts.json", "README.md")
    for reference in ("hub:owner/facts", "hub:owner/facts/data/facts.json"):
        path = hub_file(reference, cache, local_only=True)
        assert load_suite(path).cases == (PLAIN_CASE,)


def test_hub_ids_that_lead_nowhere_are_refused(hub: Callable[..., Path]) -> None:
    cache = hub("a.json", "b.csv")
    wrong = {
        "hub:owner": "a hub id is",
        "hub:owner/facts": r"name one of its files \(a.json, b.csv\)",
        "hub:owner/facts/c.json": "no file 'c.json'",
        "hub:owner/other": "cannot be fetched",
    }
    for reference, message in wrong.items():
        with pytest.raises(JeepError, match=message):
            hub_file(reference, cache, local_only=True)


def test_suites_need_no_torch() -> None:
    code = (
        "import sys; from jeep_core.suites import load_suite\n"
        "load_suite('atlas-zsre')\n"
        "assert not {'torch', 'numpy', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_prompts_keep_their_white_space_and_answers_what_they_begin_with() -> None:
    record = changed(COUNTERFACT, "requested_rewrite/prompt", "\nQ: {}?\nA:\n")
    record = changed(record, "requested_rewrite/subject", " Danielle ")
    record = changed(record, "requested_rewrite/target_new/str", "\tEnglish\n")
    record = changed(record, "paraphrase_prompts", ["So:\n"])
    [case] = load_suite(stream([record])).cases
    assert (case.subject, case.prompt) == ("Danielle", "\nQ: {}?\nA:\n")
    assert (case.target_new, case.paraphrase_prompts) == ("\tEnglish", ("So:\n",))
    plain = {**PLAIN, "prompt": "{} A:\n", "target_new": " Peru ", "join": "none"}
    [case] = load_suite(stream([plain])).cases
    assert (case.prompt, case.target_new, case.join) == ("{} A:\n", " Peru", "none")
    question = changed(ZSRE, "src", f"Where is {ZSRE['subject']}?\n")
    question = changed(question, "loc", "nq question: who ")
    [case] = load_suite(stream([question])).cases
    assert case.prompt == "Where is {}?\n"
    assert case.unrelated[0].prompt == "nq question: who?"


def test_a_subject_inside_another_word_is_not_edited() -> None:
    record = {**PLAIN, "subject": "Lyon", "prompt": "Lyon, not Lyonville, is in"}
    [case] = load_suite(stream([record])).cases
    assert case.prompt == "{}, not Lyonville, is in"
    inside = {**PLAIN, "subject": "York", "prompt": "Yorkshire is in"}
    suite = load_suite(stream([record, inside]))
    assert suite.report.dropped == {"no_subject": 1}


def test_answers_that_differ_in_blanks_only_are_the_same() -> None:
    new = changed(COUNTERFACT, "requested_rewrite/target_new/str", " French")
    assert load_suite(stream([COUNTERFACT, new])).report.dropped == {"same_target": 1}
