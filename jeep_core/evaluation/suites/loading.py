"""From a file, a stream, a bundled name or a hub id to a suite, record by record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from jeep_core import atlas
from jeep_core.errors import JeepError
from jeep_core.evaluation.suites import counterfact, knowedit, plain, zsre
from jeep_core.evaluation.suites.cases import (
    SHOWN,
    Case,
    InvalidSuite,
    RecordProblem,
    Report,
    Style,
    Suite,
    trimmed,
)
from jeep_core.evaluation.suites.fields import Malformed, Record, Unusable
from jeep_core.evaluation.suites.hub import SCHEME, hub_file
from jeep_core.evaluation.suites.records import Found, broken, records

LOOKED_AT = 20
"""Records among which the first one of a known format decides."""


class Format(Protocol):
    """One format: a module of this package."""

    NAME: str

    @staticmethod
    def matches(record: Record) -> bool:
        """Whether a record looks like one of this format."""

    @staticmethod
    def case(record: Record, number: int, left_out: Counter[str]) -> Case:
        """One record."""


FORMATS: Mapping[str, Format] = {
    module.NAME: cast(Format, module) for module in (counterfact, zsre, knowedit, plain)
}


class SuiteReader:
    """Cases of a stream, one after the other; ``report`` and ``style`` are complete at the end.

    A record that does not have the format makes the whole file invalid: iteration ends with
    :class:`InvalidSuite`, with a problem per record.  With ``drop_bad`` such records are dropped
    and counted.  Records that have the format and cannot be edited are always dropped.
    """

    def __init__(self, stream: BinaryIO, format: str | None = None, drop_bad: bool = False) -> None:
        if format is not None and format not in FORMATS:
            raise JeepError(f"no suite format {format!r}; there are {', '.join(FORMATS)}")
        self._stream, self._format, self._drop_bad = stream, format, drop_bad
        self.report = Report()
        self.style = Style.ACCURACY

    def __iter__(self) -> Iterator[Case]:
        stream = records(self._stream)
        first = list(islice(stream, LOOKED_AT))
        format = FORMATS[self._format] if self._format else _detect(first)
        self.report.format = format.NAME
        self.style = _style(format, first)
        wrong: list[RecordProblem] = []
        ids: set[str] = set()
        for found in chain(first, stream):
            number = self.report.records
            self.report.records += 1
            try:
                case = self._case(format, found, number)
            except Malformed as error:
                problem = RecordProblem(found.line, number, error.field, error.code, str(error))
                self.report.drop(problem)
                if not self._drop_bad and not isinstance(error, Unusable):
                    wrong.append(problem)
                    if len(wrong) == SHOWN:
                        break
            else:
                self.report.kept += 1
                if case.id in ids:
                    case = replace(case, id=f"{case.id}#{number}")
                ids.add(case.id)
                yield case
        if wrong:
            raise InvalidSuite(wrong)
        if not self.report.kept:
            reasons = ", ".join(f"{n} {code}" for code, n in self.report.dropped.items())
            raise broken(1, "no_cases", f"no record can be used ({reasons})")

    def _case(self, format: Format, found: Found, number: int) -> Case:
        if isinstance(found.value, Malformed):
            raise found.value
        case = trimmed(format.case(found.value, number, self.report.left_out))
        if self.style is Style.CONTRAST and case.target_true is None:
            message = "target_true is missing, which the first record has"
            raise Malformed("target_true", "missing", message)
        if (
            self.style is Style.CONTRAST
            and case.target_new.strip() == str(case.target_true).strip()
        ):
            message = f"new and true answer are {case.target_new!r}"
            raise Unusable("target_new", "same_target", message)
        return case


def _detect(found: Sequence[Found]) -> Format:
    """The format of the first record that has a known one.

    Raises:
        InvalidSuite: none has; the first record says why.
    """
    for item in found:
        for format in FORMATS.values():
            if not isinstance(item.value, Malformed) and format.matches(item.value):
                return format
    first = found[0]
    if isinstance(first.value, Malformed):
        raise broken(first.line, first.value.code, first.value.message, 0)
    message = f"the record has none of the formats {', '.join(FORMATS)}"
    raise broken(first.line, "unknown_format", message, 0)


def _style(format: Format, first: Iterable[Found]) -> Style:
    style: Style | None = getattr(format, "STYLE", None)
    if style is not None:
        return style
    readable = (item.value for item in first if not isinstance(item.value, Malformed))
    return plain.style_of(next((r for r in readable if format.matches(r)), {}))


def load_suite(
    source: str | Path | BinaryIO,
    format: str | None = None,
    drop_bad: bool = False,
    name: str | None = None,
) -> Suite:
    """A suite from a bundled name, a local file, an open binary stream or a hub id (``hub:…``).

    ``format`` is one of ``FORMATS``; default: seen from the records.

    Raises:
        InvalidSuite: with line and record number of what is wrong, see :class:`SuiteReader`.
        JeepError: there is no such file or format.
    """
    label = name or (str(source) if isinstance(source, str | Path) else "stream")
    try:
        with _opened(source) as stream:
            reader = SuiteReader(stream, format, drop_bad)
            cases = tuple(reader)
    except OSError as error:
        raise JeepError(f"{label} cannot be read: {error.strerror}") from None
    return Suite(label, cases, reader.style, reader.report)


def _opened(source: str | Path | BinaryIO) -> Any:
    if not isinstance(source, str | Path):
        return nullcontext(source)
    if str(source).startswith(SCHEME):
        return hub_file(str(source)).open("rb")
    path = atlas.SUITES.get(str(source), Path(source))
    if not path.exists():
        known = ", ".join(atlas.SUITES)
        raise JeepError(f"{source} is neither a file nor a bundled suite ({known})")
    return path.open("rb")


def load_counterfact(source: str | Path) -> Suite:
    """A (Multi-)CounterFact file, or a bundled suite by name."""
    return load_suite(source, counterfact.NAME)


def load_zsre(source: str | Path) -> Suite:
    """A zsRE file (``zsre_mend_eval.json``), or the bundled one by name."""
    return load_suite(source, zsre.NAME)
