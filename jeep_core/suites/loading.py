"""From a file, a stream, a bundled name or a hub id to a suite, record by record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from jeep_core import atlas
from jeep_core.errors import JeepError
from jeep_core.spec.naming import did_you_mean, known_names
from jeep_core.suites.cases import (
    SHOWN,
    Case,
    InvalidSuite,
    RecordProblem,
    Report,
    Style,
    Suite,
    of_field,
    trimmed,
)
from jeep_core.suites.fields import EMPTY, Malformed, Notes, Unusable
from jeep_core.suites.formats import counterfact, plain, zsre
from jeep_core.suites.formats.registry import (
    FORMATS,
    Format,
    Tracked,
    check_format,
    check_style,
    detect,
    style_of,
)
from jeep_core.suites.hub import SCHEME, hub_file
from jeep_core.suites.records import WRAPPERS, Found, broken, found_in, records

LOOKED_AT = 20
"""Records among which the first one of a known format decides, and that say how to judge."""


class SuiteReader:
    """Cases of a stream, one after the other; ``report`` and ``style`` are complete at the end.

    A record that does not have the format makes the whole file invalid: iteration ends with
    ``InvalidSuite``, with a problem per record.  With ``drop_bad`` such records are dropped
    and counted.  Records that have the format and cannot be edited are always dropped.

    Args:
        stream: bytes of a file, or values that were read already: each counts as one line.
        format: one of ``FORMATS``; None or ``auto``: detected from the records.
        drop_bad: see above.
        style: how the cases will be judged; None or ``auto``: as the format says.
        limit: end when so many records are kept; later ones are not read.

    Raises:
        JeepError: there is no such format or style.
    """

    def __init__(
        self,
        stream: BinaryIO | list[Any],
        format: str | None = None,
        drop_bad: bool = False,
        style: str | Style | None = None,
        limit: int | None = None,
    ) -> None:
        self._format, self._style = check_format(format), check_style(style)
        self._limit = limit
        self._found = found_in(stream) if isinstance(stream, list) else records(stream)
        self._drop_bad = drop_bad
        self.report = Report()
        self.style = Style.ACCURACY
        self.line = self.number = 0
        """First line and index (from 0) of the record that the last case is from."""

    def __iter__(self) -> Iterator[Case]:
        stream = iter(self._found)
        first = list(islice(stream, LOOKED_AT))
        if not first:
            raise broken(1, "empty", "there are no records")
        format = FORMATS[self._format] if self._format else _detect(first)
        self.report.format = format.NAME
        readable = [item.value for item in first if not isinstance(item.value, Malformed)]
        self.style = self._style or style_of(format, readable)
        wrong: list[RecordProblem] = []
        ids: set[str] = set()
        for found in chain(first, stream):
            if self.report.kept == self._limit:
                break
            self.line, self.number = found.line, self.report.records
            number = self.number
            self.report.records += 1
            notes = Notes()
            try:
                cases = self._cases(format, found, number, notes)
            except Malformed as error:
                problem = _problem(found, number, _explained(error, found, format))
                self.report.drop(problem)
                if not self._drop_bad and not isinstance(error, Unusable):
                    wrong.append(problem)
                    if len(wrong) == SHOWN:
                        break
            else:
                cases = [_with_own_id(case, ids, number) for case in cases]
                self.report.keep(cases)
                self.report.adapted += notes.adapted
                for part in notes.left_out:
                    self.report.leave_out(_problem(found, number, part))
                yield from cases
        if wrong:
            raise InvalidSuite(wrong)
        if not self.report.kept:
            raise _no_cases(self.report)

    def _cases(self, format: Format, found: Found, number: int, notes: Notes) -> list[Case]:
        if isinstance(found.value, Malformed):
            raise found.value
        record = Tracked(found.value)
        cases = [trimmed(case) for case in format.cases(record, number, notes)]
        for case in cases if self.style is Style.CONTRAST else ():
            if case.target_true is None:
                raise _no_true_answer(format, notes)
            if case.target_new.strip() == case.target_true.strip():
                message = f"new and true answer are {case.target_new!r}"
                raise Unusable("target_new", "same_target", message)
        unread = record.keys() - record.asked
        self.report.unread.update(name for name in sorted(unread) if record[name] not in EMPTY)
        return cases


def _detect(found: Sequence[Found]) -> Format:
    """The format of the first record that has a known one.

    Raises:
        InvalidSuite: none has; the first record says why.
    """
    for item in found:
        format = detect(item.value)
        if format:
            return format
    first = found[0]
    if isinstance(first.value, Malformed):
        raise broken(first.line, first.value.code, first.value.message, 0)
    message = f"the record has none of the formats {', '.join(FORMATS)}"
    lists = [name for name, value in first.value.items() if isinstance(value, list | dict)]
    if any(_holds_records(first.value[name]) for name in lists):
        message += f"; a list of records inside an object is called {', '.join(WRAPPERS)}"
    message += misspelt(first.value)
    raise broken(first.line, "unknown_format", message, 0)


def misspelt(names: Iterable[str]) -> str:
    """``; 'promt': did you mean 'prompt'?`` for names that are near those of plain facts."""
    asked = ((name, did_you_mean(name, plain.FIELDS)) for name in names if name not in plain.FIELDS)
    return "".join(f"; {name!r}: {question}" for name, question in asked if question)


def _holds_records(value: Any) -> bool:
    """Whether records are inside a value under a name that is not looked at."""
    inner = value.values() if isinstance(value, dict) else value
    return any(
        detect(item) is not None or (isinstance(item, list) and _holds_records(item))
        for item in islice(inner, 1)
    )


def _explained(error: Malformed, found: Found, format: Format) -> Malformed:
    """The error, with the format that the record seems to have if it is not the file's."""
    if isinstance(found.value, Malformed):
        return error
    seems = detect(found.value)
    if seems is None or seems is format:
        return error
    try:
        seems.cases(found.value, 0, Notes())
    except Malformed:  # it is a bad record of either
        return error
    hint = f"the file is read as {format.NAME}, and this record looks like {seems.NAME}"
    message = f"{error.message} ({hint}: give each format a file of its own)"
    return type(error)(error.field, error.code, message)


def _problem(found: Found, number: int, error: Malformed) -> RecordProblem:
    return RecordProblem(found.line, number, error.field, error.code, error.message)


def _with_own_id(case: Case, ids: set[str], number: int) -> Case:
    if case.id in ids:
        case = replace(case, id=f"{case.id}#{number}")
    ids.add(case.id)
    return case


def _no_true_answer(format: Format, notes: Notes) -> Malformed:
    """Why a case cannot be judged by contrast."""
    for error in notes.left_out:
        if error.code == "same_target":
            return Unusable(error.field, error.code, error.message)
    name = getattr(format, "TRUE_FIELD", "")
    if not name:
        message = f"{format.NAME} has no true answers to judge by contrast: choose style=accuracy"
        return Malformed("", "no_true_answers", message)
    message = f"{name} is missing, which judging by contrast needs: give it, or style=accuracy"
    return Malformed(name, "missing", message)


def _no_cases(report: Report) -> InvalidSuite:
    reasons = ", ".join(f"{n} {code}" for code, n in report.dropped.items())
    first = report.problems[0]
    field = of_field(first.field, first.message)
    message = f"no record can be used ({reasons}); record {first.record}{field}: {first.message}"
    return broken(1, "no_cases", message)


def load_suite(
    source: str | Path | BinaryIO,
    format: str | None = None,
    drop_bad: bool = False,
    name: str | None = None,
    style: str | Style | None = None,
) -> Suite:
    """A suite from a bundled name, a local file, an open binary stream or a hub id (``hub:…``).

    ``format`` is one of ``FORMATS``; default: detected from the records.  ``style`` is how the
    cases are judged; default: as the format says.

    Raises:
        InvalidSuite: with line and record number of each problem, see ``SuiteReader``.
        JeepError: there is no such file or format.
    """
    label = name or (str(source) if isinstance(source, str | Path) else "stream")
    try:
        with _opened(source) as stream:
            reader = SuiteReader(stream, format, drop_bad, style)
            cases = tuple(reader)
    except OSError as error:
        raise JeepError(f"{label} cannot be read: {error.strerror}") from error
    return Suite(label, cases, reader.style, reader.report)


def _opened(source: str | Path | BinaryIO) -> Any:
    if not isinstance(source, str | Path):
        return nullcontext(source)
    if str(source).startswith(SCHEME):
        return hub_file(str(source)).open("rb")
    path = atlas.SUITES.get(str(source), Path(source))
    if not path.exists():
        known = known_names(str(source), atlas.SUITES)
        raise JeepError(f"{source} is neither a file nor a bundled suite; {known}")
    return path.open("rb")


def load_counterfact(source: str | Path) -> Suite:
    """A (Multi-)CounterFact file, or a bundled suite by name."""
    return load_suite(source, counterfact.NAME)


def load_zsre(source: str | Path) -> Suite:
    """A zsRE file (``zsre_mend_eval.json``), or the bundled one by name."""
    return load_suite(source, zsre.NAME)
