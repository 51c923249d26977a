"""Suites in every format: what is read, what is dropped and counted, what is refused and where."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jeep_core import atlas
from jeep_core.errors import JeepError
from jeep_core.evaluation.suites import (
    Case,
    InvalidSuite,
    Question,
    Style,
    Suite,
    hub_file,
    load_suite,
)
from jeep_core.evaluation.suites.records import CHUNK, MAX_RECORD

Record = dict[str, Any]

COUNTERFACT: Record = {
    "case_id": 5,
    "pararel_idx": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "subject": "Danielle Darrieux",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
    },
    "paraphrase_prompts": ["a", "b"],
    "neighborhood_prompts": ["c"],
    "attribute_prompts": ["d"],
    "generation_prompts": ["e"],
}
ZSRE: Record = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "What university did Watts Humphrey take part in?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology", "other"],
    "loc": "nq question: who played desmond doss father in hacksaw ridge",
    "loc_ans": "Hugo Weaving",
    "cond": "",
}
PLAIN: Record = {
    "subject": "Lyon",
    "prompt": "{} lies in",
    "target_new": "Japan",
    "target_true": "France",
    "paraphrase_prompts": ["The country of Lyon is"],
    "neighborhood_prompts": ["Paris lies in", "Lille lies in"],
}


def stream(value: Any) -> io.BytesIO:
    """Records as a JSON list, one a line; or a text as it is."""
    if not isinstance(value, str | bytes):
        value = "[\n" + ",\n".join(json.dumps(record) for record in value) + "\n]\n"
    return io.BytesIO(value if isinstance(value, bytes) else value.encode())


def lines(records: list[Record]) -> io.BytesIO:
    return stream("".join(json.dumps(record) + "\n" for record in records))


def changed(record: Record, path: str, value: Any = None) -> Record:
    """A copy with the field at ``a/b`` replaced, or left out if ``value`` is None."""
    name, _, rest = path.partition("/")
    other = dict(record)
    if rest:
        other[name] = changed(record[name], rest, value)
    elif value is None:
        del other[name]
    else:
        other[name] = value
    return other


# ---------------------------------------------------------------- formats


def test_multi_counterfact() -> None:
    suite = load_suite(stream([COUNTERFACT]))
    assert suite.cases == (
        Case(
            "Danielle Darrieux", "The mother tongue of {} is", "English", "French",
            ("a", "b"), ("c",), id="5", generation_prompts=("e",),
        ),
    )  # fmt: skip
    assert (suite.style, suite.report.format) == (Style.CONTRAST, "counterfact")
    assert (suite.report.records, suite.report.kept, suite.dropped) == (1, 1, 0)


def test_counterfact_without_any_neighbors_or_paraphrases() -> None:
    """Empty lists and missing ones are the same: there is nothing to measure."""
    empty = changed(changed(COUNTERFACT, "neighborhood_prompts", []), "paraphrase_prompts")
    [case] = load_suite(stream([empty])).cases
    assert (case.paraphrase_prompts, case.neighborhood_prompts) == ((), ())


def test_zsre() -> None:
    """The example of the format's description; ``loc`` gets its question mark."""
    suite = load_suite(stream([ZSRE]))
    loc = "nq question: who played desmond doss father in hacksaw ridge?"
    assert suite.cases == (
        Case(
            "Watts Humphrey", "What university did {} attend?",
            "Illinois Institute of Technology",
            paraphrase_prompts=("What university did Watts Humphrey take part in?",),
            id="0", unrelated=(Question(loc, "Hugo Weaving"),),
        ),
    )  # fmt: skip
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
KNOWEDIT_ZSRE: Record = {
    "subject": "Epaspidoceras",
    "target_new": "Noctuidae",
    "prompt": "Which family does Epaspidoceras belong to?",
    "ground_truth": ["Aspidoceratidae"],
    "rephrase_prompt": "What family are Epaspidoceras?",
    "locality": {"Relation_Specificity": [{"prompt": "Its rank is", "ground_truth": ["genus"]}]},
    "portability": {"Reasoning": [{"prompt": "Its common name?", "ground_truth": "Owlet moths"}]},
}
EASYEDIT_COUNTERFACT: Record = {
    "case_id": 7,
    "prompt": "The mother tongue of Danielle Darrieux is",
    "target_new": "English",
    "subject": "Danielle Darrieux",
    "ground_truth": "French",
    "rephrase_prompt": "Where Danielle Darrieux is from, people speak",
    "locality_prompt": "Michel Rocard is a native speaker of",
    "locality_ground_truth": "French",
}


def test_knowedit_wiki_recent() -> None:
    suite = load_suite(stream([WIKI_RECENT]))
    assert suite.cases == (
        Case(
            "Leo Arons", "The place of death of {} is", "Berlin", id="0",
            unrelated=(
                Question("The father of Leo Arons is", "Albert Arons"),
                Question("The field of work of Leo Arons is", "physics"),
            ),
            portability=(Question("Is Leo Arons alive?", "no"),),
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
        (EASYEDIT_COUNTERFACT, Case(
            "Danielle Darrieux", "The mother tongue of {} is", "English", "French",
            ("Where Danielle Darrieux is from, people speak",), id="7",
            unrelated=(Question("Michel Rocard is a native speaker of", "French"),),
        )),
    ],
    ids=["wiki_counterfact", "WikiBio", "ZsRE", "EasyEdit's CounterFact"],
)  # fmt: skip
def test_knowedit(record: Record, expected: Case) -> None:
    suite = load_suite(stream([record]))
    assert suite.cases == (expected,)
    assert (suite.style, suite.report.format) == (Style.ACCURACY, "knowedit")


PLAIN_CASE = Case(
    "Lyon", "{} lies in", "Japan", "France", ("The country of Lyon is",),
    ("Paris lies in", "Lille lies in"), id="0",
)  # fmt: skip


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
def test_plain_facts(content: io.BytesIO) -> None:
    suite = load_suite(content)
    assert suite.cases == (PLAIN_CASE,)
    assert (suite.style, suite.report.format) == (Style.CONTRAST, "plain")


def test_plain_facts_as_triples_and_with_answers_of_the_neighbors_own() -> None:
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
def test_bundled_suites_by_name(name: str) -> None:
    suite = load_suite(name)
    assert suite.report.kept == suite.report.records == len(suite.cases) > 300
    assert suite.report.format == ("zsre" if "zsre" in name else "counterfact")


# ---------------------------------------------------------------- what is dropped or refused

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
    assert "line 3, record 1, requested_rewrite: " in str(caught.value)


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
        (changed(KNOWEDIT_ZSRE, "prompt", "Is Epaspidoceras {}?"), "many_slots"),
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
        ("name;age\nx;3", 1, "unknown_format"),
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


def test_csv_rows_with_too_many_cells_or_no_list() -> None:
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


def test_a_format_can_be_named() -> None:
    with pytest.raises(InvalidSuite, match="requested_rewrite is missing"):
        load_suite(stream([PLAIN]), format="counterfact")
    with pytest.raises(JeepError, match=r"no suite format 'x'; there are counterfact, zsre"):
        load_suite(stream([PLAIN]), format="x")


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JeepError, match=r"neither a file nor a bundled suite.*atlas-zsre"):
        load_suite("no-suite")
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


def test_a_suite_from_the_hub(hub: Callable[..., Path]) -> None:
    cache = hub("data/facts.json", "README.md")
    for reference in ("hub:owner/facts", "hub:owner/facts/data/facts.json"):
        path = hub_file(reference, cache, local_only=True)
        assert load_suite(path).cases == (PLAIN_CASE,)


def test_hub_ids_that_lead_nowhere(hub: Callable[..., Path]) -> None:
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
        "import sys; from jeep_core.evaluation.suites import load_suite\n"
        "load_suite('atlas-zsre')\n"
        "assert not {'torch', 'numpy', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
