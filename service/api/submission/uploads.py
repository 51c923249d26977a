"""Edits whose body is not ``{"facts": […]}``: records of suites, files of them, and other forms."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Query
from pydantic_core import from_json as parsed

from jeep_core.spec.naming import known_names
from jeep_core.suites import AUTO, FORMATS, InvalidSuite, RecordProblem, Style, SuiteReader
from jeep_core.suites.columns import is_columns, place, rows
from jeep_core.suites.edits import facts_of, is_foreign
from jeep_core.suites.fields import Malformed
from jeep_core.suites.records import WRAPPERS
from service.api.http.bodies import validate
from service.api.http.problems import field_error, invalid, parameter_error
from service.api.submission.edits import Source, Submission, from_json_body, from_query
from service.api.submission.foreign_forms import FORMS
from service.api.submission.misplaced import IN_THE_QUERY, in_the_query, told_where
from service.api.submission.record_files import check_format, located
from service.api.submission.validation import check_count
from service.contracts.schemas import EditOptions
from service.contracts.schemas.reading import imported_from

OPTIONS = EditOptions.model_fields.keys()

Pointer = Callable[[int, str], str]
"""From a record's number and field to a pointer into the body."""


@dataclass(frozen=True)
class Reading:
    """Options for reading a body as a file of records; without any, its form decides."""

    format: str | None = None
    limit: int | None = None
    drop_bad: bool = False

    @property
    def asked(self) -> bool:
        """Whether the client declares the body to be a file of records."""
        return self.format is not None or self.limit is not None or self.drop_bad


def reading(
    format: Annotated[
        str | None, Query(description=f"The body is a file of records: auto, {', '.join(FORMATS)}.")
    ] = None,
    limit: Annotated[
        int | None, Query(ge=1, description="Of a file of records: read so many, the first ones.")
    ] = None,
    drop_bad: Annotated[
        bool, Query(description="Of a file of records: leave out and count bad ones.")
    ] = False,
) -> Reading:
    """The query parameters about files of records.

    Raises:
        ApiProblem: 422 for an unknown format.
    """
    check_format(format)
    return Reading(format, limit, drop_bad)


def from_file(
    body: bytes, options: dict[str, str | None], how: Reading, max_facts: int, by_line: bool
) -> Submission:
    """A file of records in any format of suites; ``by_line``: JSON, one record per line.

    Raises:
        ApiProblem: 422 with a pointer per wrong record, 413 for too many facts.
    """
    try:
        value = None if by_line else parsed(body, allow_inf_nan=True)
    except ValueError:  # several objects, or CSV, or the reader reports the error and its line
        value = None
    if value is None:
        return _imported(io.BytesIO(body), from_query(options), how, max_facts, None)
    return from_value(value, options, replace(how, format=how.format or AUTO), max_facts)


def has_records(body: bytes) -> bool:
    """Whether the first of several lines is a record of a format that is not plain facts."""
    first = next((line for line in body.split(b"\n") if line.strip()), b"")
    try:
        return is_foreign(parsed(first))
    except ValueError:
        return False


def from_value(
    value: Any, options: dict[str, str | None], how: Reading, max_facts: int
) -> Submission:
    """A JSON value: an edit as it is described, or records of suites with its other fields.

    Raises:
        ApiProblem: 422 with a pointer per wrong record or field, 413 for too many facts.
    """
    found = _records(value, how.asked)
    if found is None:
        _check_shape(value)
        misplaced = [name for name, given in options.items() if given is not None]
        if misplaced:
            message = "is a query parameter of uploads by line only: put it into the JSON body"
            raise invalid([parameter_error(name, "misplaced", message) for name in misplaced])
        return from_json_body(value, max_facts)
    _check_beside(value)
    records, rest, pointer = found
    return _imported(records, {**from_query(options), **rest}, how, max_facts, pointer)


def _check_beside(value: Any) -> None:
    """Refuse what stands beside records and would be dropped although it was meant for the edit.

    Other projects' files have fields of their own around their records; ``facts`` is our form.

    Raises:
        ApiProblem: 422 with a pointer per field.
    """
    if not isinstance(value, dict):
        return
    errors = [in_the_query(name) for name in IN_THE_QUERY[:2] if name in value]
    known = ("facts", *OPTIONS)
    if isinstance(value.get("facts"), list):
        unknown = [name for name in value if name not in known and name not in IN_THE_QUERY[:2]]
    else:  # of theirs nothing is called that, and without it the edit would be another one
        unknown = ["exact"] if "exact" in value else []
    none = "there is no such field here; "
    said = [
        field_error(f"/{name}", "extra_forbidden", none + known_names(name, known))
        for name in unknown
    ]
    errors += told_where(said, value)
    if errors:
        raise invalid(errors)


def _records(value: Any, plain_too: bool) -> tuple[list[Any], dict[str, Any], Pointer] | None:
    """The records in a JSON value, the fields of an edit beside them, and their sources."""

    def meant(items: Sequence[Any]) -> bool:
        return plain_too or any(map(is_foreign, items))

    if isinstance(value, list):
        return (value, {}, _listed("")) if meant(value) else None
    if not isinstance(value, dict):
        return None
    rest = {name: entry for name, entry in value.items() if name in OPTIONS}
    record = {name: entry for name, entry in value.items() if name not in OPTIONS}
    for name in WRAPPERS:
        items = value.get(name)
        if isinstance(items, list):
            return (items, rest, _listed(f"/{name}")) if meant(items) else None
    if is_columns(record):
        try:
            return rows(record), rest, lambda number, field: place(record, number, field)
        except Malformed as error:
            raise invalid([_in_columns(error, value)]) from None
    return ([record], rest, lambda _, field: f"/{field}") if meant([record]) else None


def _in_columns(error: Malformed, value: Any) -> dict[str, str]:
    """The error of a field beside columns: of an edit's own field it says where that belongs."""
    if error.code == "unknown_field" and error.field in IN_THE_QUERY:
        return in_the_query(error.field)
    [told] = told_where([field_error(f"/{error.field}", error.code, str(error))], value)
    return told


def _listed(where: str) -> Pointer:
    return lambda number, field: f"{where}/{number}" + (f"/{field}" if field else "")


def _imported(
    source: Any, given: dict[str, Any], how: Reading, max_facts: int, pointer: Pointer | None
) -> Submission:
    """Facts of records; ``pointer`` is None where these are lines of a file.

    Raises:
        ApiProblem: 422, 413.
    """
    if isinstance(source, list) and how.limit is None:
        check_count(len(source), max_facts)
    reader = SuiteReader(source, how.format, how.drop_bad, Style.ACCURACY, how.limit)
    try:
        found = facts_of(reader)
    except InvalidSuite as error:
        raise invalid([_pointed(one, pointer) for one in error.problems], "invalid_facts") from None
    check_count(len(found), max_facts)
    sources = []
    for one in found:
        where = pointer(one.record, "") if pointer else f"/lines/{one.line}"
        sources.append(Source(where, None if pointer else one.line, one.record))
    imported = imported_from(reader.report, len(found))
    if pointer:
        for problem in imported.problems:
            problem.line = None
    facts = [one.fact for one in found]
    return Submission(validate(EditOptions, given), facts, sources, imported)


def _pointed(problem: RecordProblem, pointer: Pointer | None) -> dict[str, str]:
    """A record's problem as an error of the answer."""
    found = located(problem)
    if pointer is None or problem.record is None:
        return found
    return {**found, "pointer": pointer(problem.record, problem.field).rstrip("/")}


def _check_shape(value: Any) -> None:
    """Refuse a value that is not an object with facts, with an example of each form.

    Raises:
        ApiProblem: 422.
    """
    if not isinstance(value, dict):
        raise invalid([field_error("", "wrong_shape", FORMS)])
    if "facts" not in value:
        raise invalid([field_error("/facts", "missing", FORMS)])
