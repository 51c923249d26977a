"""The formats of suites, and which one a record has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from jeep_core.errors import JeepError
from jeep_core.spec.naming import known_names
from jeep_core.suites.cases import Case, Style
from jeep_core.suites.fields import Notes, Record
from jeep_core.suites.formats import (
    counterfact,
    easyedit,
    halluedit,
    knowedit,
    mquake,
    plain,
    qaedit,
    rome,
    wikibigedit,
    zsre,
)


class Format(Protocol):
    """One format: a module of this package.

    ``TRUE_FIELD``, where a module has it, names the field of the answer before the edit.
    """

    NAME: str

    @staticmethod
    def matches(record: Record) -> bool:
        """Whether a record looks like one of this format."""

    @staticmethod
    def style(records: Sequence[Record]) -> Style:
        """How a suite is judged that begins with these records, at least one."""

    @staticmethod
    def cases(record: Record, number: int, notes: Notes) -> tuple[Case, ...]:
        """The cases of one record, at least one."""


FORMATS: Mapping[str, Format] = {
    module.NAME: cast(Format, module)
    for module in (
        counterfact,
        mquake,
        rome,
        zsre,
        qaedit,
        halluedit,
        wikibigedit,
        easyedit,
        knowedit,
        plain,
    )
}
"""By name; of several that match a record the first one is taken."""

AUTO = "auto"
STYLES = (AUTO, *(style.value for style in Style))


def detect(record: Any) -> Format | None:
    """The format that a record has, if it has one of them."""
    if not isinstance(record, Mapping):
        return None
    return next((format for format in FORMATS.values() if format.matches(record)), None)


def style_of(format: Format, records: Sequence[Record]) -> Style:
    """How a suite is judged that begins with these records."""
    known = [record for record in records if format.matches(record)]
    return format.style(known) if known else Style.ACCURACY


def check_format(format: str | None) -> str | None:
    """A format's name, None for ``auto``.

    Raises:
        JeepError: there is no such format.
    """
    if format is not None and format not in (*FORMATS, AUTO):
        raise JeepError(f"no suite format {format!r}; {known_names(format, FORMATS)}")
    return None if format == AUTO else format


def check_style(style: str | Style | None) -> Style | None:
    """A style, None for ``auto``.

    Raises:
        JeepError: there is no such style.
    """
    if style is not None and style not in STYLES:
        raise JeepError(f"suites are not judged by {style!r}; {known_names(style, STYLES)}")
    return None if style in (None, AUTO) else Style(style)


class Tracked(dict[str, Any]):
    """A record that remembers which of its fields were asked for."""

    def __init__(self, record: Record) -> None:
        super().__init__(record)
        self.asked = {"case_id", "id"}

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As in any mapping."""
        self.asked.add(name)
        return super().get(name, default)
