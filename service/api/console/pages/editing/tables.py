"""Texts that hold facts: tables with or without a header, JSON, and the files of datasets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jeep_core.errors import InvalidFacts
from jeep_core.spec.chats import parse_chat_facts
from jeep_core.spec.facts import SLOT, Fact, find_subject, normalise
from jeep_core.suites import AUTO, InvalidSuite, RecordProblem, SuiteReader
from jeep_core.suites.columns import is_columns, rows
from jeep_core.suites.edits import facts_of, is_foreign
from jeep_core.suites.fields import Malformed
from jeep_core.suites.formats.plain import from_cells
from jeep_core.suites.records import COLUMNS, Found, records
from jeep_core.text.chat import ChatTemplate
from service.contracts.schemas import FactIn

NAMES: Mapping[str, tuple[str, ...]] = {
    "subject": ("about",),
    "prompt": ("question",),
    "relation": (),
    "target_new": ("new answer", "answer", "new", "target"),
    "object": (),
    "target_true": ("true answer", "old answer", "answer now", "old", "ground truth"),
    "paraphrase_prompts": ("rephrasings", "paraphrases", "paraphrase"),
    "neighborhood_prompts": ("neighbours", "neighbors", "neighbour", "neighbor"),
    "join": (),
}
"""Columns of a table by the fields of a fact, with other words for them."""
IN_ORDER = ("subject", "prompt", "target_new", "target_true")
"""Columns of a table without a header."""
LEAST = 3
TABLE, PLAIN = "table", "facts"
_KNOWN = {
    said: name for name, others in NAMES.items() for said in (name.replace("_", " "), *others)
}


@dataclass
class Reading:
    """The facts of a text as an edit takes them; ``unread``: losses beyond ``problems``."""

    format: str
    facts: list[dict[str, Any]] = field(default_factory=list)
    records: int = 0
    problems: list[str] = field(default_factory=list)
    unread: int = 0


def read_facts(
    body: bytes,
    format: str | None,
    most: int,
    relations: Mapping[str, str],
    chat: ChatTemplate | None,
) -> Reading:
    """Read ``most`` facts at most.

    Args:
        body: the text, in UTF-8.
        format: a format of suites; None: what the text looks like.
        most: later facts are left out, and said to be.
        relations: templates by name.
        chat: the model's template, if it has one.

    Raises:
        InvalidSuite: it cannot be read at all, from some place on.
    """
    if format not in (None, AUTO):
        return _dataset(body, format, most)
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        problem = RecordProblem(1, None, "", "not_utf8", "the text is not UTF-8")
        raise InvalidSuite([problem]) from None
    if text.lstrip()[:1] in ("[", "{"):
        found = [*_values(body)]
        if any(is_foreign(one.value) for one in found):
            return _dataset(body, AUTO, most)
        return _facts(found, most, PLAIN, relations, chat)
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise InvalidSuite([RecordProblem(1, None, "", "empty", "there are no facts in it")])
    delimiter = "\t" if "\t" in lines[0] else max(",;", key=lines[0].count)
    header = _header(lines[0], delimiter)
    if header is None and set(COLUMNS) & set(_cells(lines[0], delimiter)):
        return _dataset(body, AUTO, most)
    return _facts(_table(text, delimiter, header), most, TABLE, relations, chat)


def _values(body: bytes) -> Iterator[Found]:
    """The records of JSON; the fields of an EasyEdit call become one each."""
    for one in records(io.BytesIO(body)):
        if isinstance(one.value, Mapping) and is_columns(one.value):
            try:
                yield from (Found(one.line, row) for row in rows(one.value))
            except Malformed as error:
                yield Found(one.line, error)
        else:
            yield one


def _dataset(body: bytes, format: str | None, most: int) -> Reading:
    """The facts of a file in a format of suites.

    Raises:
        InvalidSuite: see `read_facts`.
    """
    stream: Any = io.BytesIO(body)
    if body.lstrip()[:1] in (b"[", b"{") and any(
        isinstance(one.value, Mapping) and "prompts" in one.value for one in _first(body)
    ):
        stream = [one.value for one in _values(body) if not isinstance(one.value, Malformed)]
    reader = SuiteReader(stream, format, drop_bad=True, style="accuracy", limit=most)
    facts = [_sent(one.fact) for one in facts_of(reader)]
    report = reader.report
    lost = sum(report.dropped.values()) + sum(report.left_out.values())
    said = [f"line {one.line}: {one.message}" for one in report.problems]
    return Reading(report.format, facts, report.records, said, max(0, lost - len(said)))


def _first(body: bytes) -> list[Found]:
    return [next(records(io.BytesIO(body)))]


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _header(line: str, delimiter: str) -> list[str] | None:
    """The fields of a table's columns, unknown ones as written; None: the line is no header."""
    said = [" ".join(cell.lower().replace("_", " ").split()) for cell in _cells(line, delimiter)]
    names = [_KNOWN.get(cell, cell) for cell in said]
    whole = "subject" in names and {"prompt", "relation"} & {*names}
    return names if whole and {"target_new", "object"} & {*names} else None


def _table(text: str, delimiter: str, header: list[str] | None) -> Iterator[Found]:
    """The rows of a table as records; blank rows are none."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    names = header or list(IN_ORDER)
    first = header is not None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Found(line, Malformed("", "not_csv", f"not a row of a table: {error}"))
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if first:
            first = False
            continue
        yield Found(line, _row(cells, names))


def _row(cells: list[str], names: list[str]) -> dict[str, Any] | Malformed:
    while len(cells) > len(names) and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) < LEAST or len(cells) > len(names):
        message = (
            f"a row has {len(cells)} cells; it needs subject, prompt and new answer, and may have "
            "the true answer"
        )
        return Malformed("", "cells", message)
    try:
        found = dict(from_cells({n: c for n, c in zip(names, cells, strict=False) if n}))
    except Malformed as error:
        return error
    return _with_relation(found)


def _with_relation(record: dict[str, Any]) -> dict[str, Any]:
    """A prompt that does not name its subject is taken for a relation, or for what follows it."""
    subject, prompt = normalise(record.get("subject") or ""), record.get("prompt")
    if not subject or prompt is None or SLOT in prompt or find_subject(prompt, subject):
        return record
    rest = {k: v for k, v in record.items() if k not in ("prompt", "target_new")}
    return {**rest, "relation": prompt.strip(), "object": record.get("target_new")}


def _facts(
    found: Iterator[Found] | list[Found],
    most: int,
    format: str,
    relations: Mapping[str, str],
    chat: ChatTemplate | None,
) -> Reading:
    """The facts of records that are written as an edit takes them."""
    reading = Reading(format)
    unknown: dict[str, None] = {}
    for one in found:
        reading.records += 1
        if isinstance(one.value, Malformed):
            reading.problems.append(f"line {one.line}: {one.value}")
            continue
        if len(reading.facts) == most:
            reading.unread += 1
            continue
        given = {name: value for name, value in one.value.items() if name in FactIn.model_fields}
        unknown |= dict.fromkeys(name for name in one.value if name not in given)
        try:
            [fact] = parse_chat_facts([given], relations, chat)
        except InvalidFacts as error:
            said = "; ".join(problem.message for problem in error.problems)
            reading.problems.append(f"line {one.line}: {said}")
        else:
            reading.facts.append(_sent(fact))
    if unknown:
        reading.problems.append(f"not read: {', '.join(unknown)}")
    if reading.unread:
        message = f"only the first {most} are taken, as many as one edit may have (JEEP_MAX_FACTS)"
        reading.problems.append(message)
    return reading


def _sent(fact: Fact) -> dict[str, Any]:
    """A fact as an edit takes it, without what is empty."""
    said: dict[str, Any] = {"subject": fact.subject, "target_new": fact.target_new}
    if fact.messages is None:
        said["prompt"] = fact.prompt
    else:
        said["messages"] = [{"role": role, "content": text} for role, text in fact.messages]
    if fact.target_true:
        said["target_true"] = fact.target_true
    for name in ("paraphrase_prompts", "neighborhood_prompts"):
        if texts := list(getattr(fact, name)):
            said[name] = texts
    return said if fact.join == "auto" else {**said, "join": fact.join}
