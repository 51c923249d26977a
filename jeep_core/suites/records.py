"""Records of a file one by one, with the lines they begin in: JSON lists, JSON lines, CSV.

A JSON list may be inside an object (``{"data": […]}``, ``{"rows": [{"row": …}]}``), and an object
may go over several lines.  What is read at once is bounded by a record, not by the file.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from jeep_core.spec.naming import did_you_mean
from jeep_core.suites.cases import InvalidSuite, RecordProblem
from jeep_core.suites.fields import Malformed, Record, Unusable, has_half_characters
from jeep_core.suites.formats.plain import from_cells

CHUNK = 1 << 16
MAX_RECORD = 1 << 20
"""Characters of one record."""
HALF_CHARACTER = "an escape is half of a surrogate pair"
SPACE = " \t\r\n"
DELIMITERS = ",;\t"
WRAPPERS = ("data", "rows", "records", "facts")
"""Names under which an object holds a list of records."""
VIEWER = {"row_idx", "row", "truncated_cells"}
"""Fields that the hub's viewer puts around a row."""
COLUMNS = ("subject", "concept", "requested_rewrite")
"""CSV of any format has one of them."""


@dataclass(frozen=True)
class Found:
    """A record, or its error; ``line`` is its first line, from 1."""

    line: int
    value: Record | Malformed


def records(stream: BinaryIO) -> Iterator[Found]:
    """The records of a UTF-8 stream.

    Raises:
        InvalidSuite: from the place on from which nothing can be read any more.
    """
    reader = _Text(stream)
    first = reader.peek()
    if not first:
        raise broken(1, "empty", "there are no records")
    if first == "[":
        yield from _json_list(reader)
        if reader.peek():
            raise broken(reader.line, "not_json", "text after the end of the list")
    elif first == "{":
        yield from _json_objects(reader)
    else:
        yield from _csv(reader)


def found_in(values: Iterable[Any]) -> Iterator[Found]:
    """Records of a list that was read already, as if each were on its own line."""
    return (Found(line, _object(value)) for line, value in enumerate(values, start=1))


def broken(line: int, code: str, message: str, record: int | None = None) -> InvalidSuite:
    """The error of a file that cannot be read from a line on."""
    return InvalidSuite([RecordProblem(line, record, "", code, message)])


class _Text:
    """Characters of a stream: a buffer that is filled as needed, and the line it begins in."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.buffer, self.line, self.ended = "", 1, False

    def fill(self) -> bool:
        """Read on; False at the end.

        Raises:
            InvalidSuite: the bytes are not UTF-8.
        """
        chunk = self._stream.read(CHUNK)
        try:
            self.buffer += self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line = self.line + self.buffer.count("\n") + error.object[: error.start].count(b"\n")
            raise broken(line, "not_utf8", "the text is not UTF-8") from None
        self.ended = not chunk
        return bool(chunk)

    def take(self, count: int) -> str:
        """Take characters from the buffer's beginning."""
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        self.line += taken.count("\n")
        return taken

    def peek(self) -> str:
        """The next character that is not white space, or nothing; the space before it is taken."""
        while True:
            rest = self.buffer.lstrip(SPACE)
            self.take(len(self.buffer) - len(rest))
            if rest:
                return rest[0]
            if not self.fill():
                return ""

    def lines(self) -> Iterator[str]:
        """The rest line by line, line ends included."""
        while True:
            end = self.buffer.find("\n") + 1
            if not end and not self.ended and len(self.buffer) <= MAX_RECORD:
                self.fill()
                continue
            if not end and len(self.buffer) > MAX_RECORD:
                raise broken(self.line, "too_long", f"a line has over {MAX_RECORD:,} characters")
            if not self.buffer:
                return
            yield self.take(end or len(self.buffer))


def _json_list(reader: _Text) -> Iterator[Found]:
    reader.take(1)
    number = 0
    if reader.peek() == "]":
        raise broken(reader.line, "empty", "there are no records")
    while True:
        reader.peek()
        line, value = reader.line, _json_value(reader, number)
        yield Found(line, _object(value))
        number += 1
        mark = reader.peek()
        if mark not in ("]", ","):
            what = f"expected ',' or ']', found {mark!r}" if mark else "the list has no end"
            raise broken(reader.line, "not_json", what, number)
        reader.take(1)
        if mark == "]":
            return


def _json_value(reader: _Text, number: int) -> Any:
    """The value at the reader's position."""
    decoder = json.JSONDecoder()
    while True:
        try:
            value, end = decoder.raw_decode(reader.buffer)
        except RecursionError:
            raise broken(reader.line, "not_json", "nested too deeply", number) from None
        except json.JSONDecodeError as error:
            if len(reader.buffer) > MAX_RECORD or not reader.fill():
                line = reader.line + reader.buffer[: error.pos].count("\n")
                raise broken(line, "not_json", f"not JSON: {error.msg}", number) from None
            continue
        except ValueError as error:  # a number of thousands of digits
            raise broken(reader.line, "not_json", f"not JSON: {error}", number) from None
        if end == len(reader.buffer) and reader.fill():
            continue  # a number may go on
        if has_half_characters(reader.take(end), value):
            raise broken(reader.line, "not_json", HALF_CHARACTER, number)
        return value


def _json_objects(reader: _Text) -> Iterator[Found]:
    """The records of a file that begins with an object: a list inside it, or objects."""
    place, several_lines = _first_object(reader)
    if place:
        reader.take(place)
        yield from _json_list(reader)
        _after_list(reader)
    elif several_lines:
        number = 0
        while reader.peek():
            line = reader.line
            yield Found(line, _object(_json_value(reader, number)))
            number += 1
    else:
        yield from _json_lines(reader)


def _first_object(reader: _Text) -> tuple[int, bool]:
    """Where in the buffer the list of records in the first object begins, or 0; and, if there is
    no such list, whether the object is whole and goes over several lines.  Nothing is taken.
    """
    decoder = json.JSONDecoder()
    while True:
        text, place, mark = reader.buffer, 1, ","
        others: list[str] = []
        try:
            while mark == ",":
                name, place = decoder.raw_decode(text, _blank(text, place))
                colon = _blank(text, place)
                place = _blank(text, colon + 1)
                if text[colon : colon + 1] != ":":
                    break
                if name in WRAPPERS and text[place : place + 1] == "[":
                    if others:
                        raise _second_list(others[0], reader.line)
                    return place, False
                value, place = decoder.raw_decode(text, place)
                if _are_records(value):
                    others.append(str(name))
                place = _blank(text, place)
                mark, place = text[place : place + 1], place + 1
            if mark == "}":
                return 0, "\n" in text[:place]
        except RecursionError:
            return 0, False
        except ValueError:
            pass
        if len(text) > MAX_RECORD or not reader.fill():
            return 0, False


def _are_records(value: Any) -> bool:
    """Whether a value beside the list of records is another one, which must not be lost."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return any(column in unwrapped(value[0]) for column in (*COLUMNS, "src", "prompt"))


def _second_list(name: str, line: int) -> InvalidSuite:
    message = f"{name!r} is a second list of records: upload it as a file of its own"
    return broken(line, "two_lists", message)


def _blank(text: str, place: int) -> int:
    """The next place that is not white space."""
    while place < len(text) and text[place] in SPACE:
        place += 1
    return place


def _after_list(reader: _Text) -> None:
    """Read the rest of an object after its list of records: other values have no meaning here."""
    while (mark := reader.peek()) == ",":
        reader.take(1)
        reader.peek()
        name = _json_value(reader, 0)
        if reader.peek() != ":":
            raise broken(reader.line, "not_json", "expected ':'")
        reader.take(1)
        if reader.peek() == "[" and name in WRAPPERS:
            raise _second_list(name, reader.line)
        if _are_records(_json_value(reader, 0)):
            raise _second_list(name, reader.line)
    if mark != "}":
        what = f"expected ',' or '}}', found {mark!r}" if mark else "the object has no end"
        raise broken(reader.line, "not_json", what)
    reader.take(1)
    if reader.peek():
        raise broken(reader.line, "not_json", "text after the end of the object")


def _json_lines(reader: _Text) -> Iterator[Found]:
    line = reader.line
    for text in reader.lines():
        if text.strip():
            try:
                for value in _values(text):
                    if has_half_characters(text, value):
                        yield Found(line, Malformed("", "not_json", HALF_CHARACTER))
                    else:
                        yield Found(line, _object(value))
            except json.JSONDecodeError as error:
                yield Found(line, Malformed("", "not_json", f"not JSON: {error.msg}"))
            except ValueError as error:  # a number of thousands of digits
                yield Found(line, Malformed("", "not_json", f"not JSON: {error}"))
            except RecursionError:
                yield Found(line, Malformed("", "not_json", "nested too deeply"))
        line = reader.line


def _values(text: str) -> Iterator[Any]:
    """The value of a line, or several in succession."""
    decoder, place = json.JSONDecoder(), _blank(text, 0)
    while place < len(text):
        value, place = decoder.raw_decode(text, place)
        yield value
        place = _blank(text, place)


def _object(value: Any) -> Record | Malformed:
    if not isinstance(value, dict):
        return Malformed("", "not_an_object", "a record must be an object")
    row: dict[str, Any] = unwrapped(value)
    cut = value.get("truncated_cells") if row is not value else None
    if cut:
        name = cut[0] if isinstance(cut, list) and isinstance(cut[0], str) else "a cell"
        message = f"{name} was cut off by what made the file: fetch the whole row"
        return Unusable(name, "truncated", message)
    return row


def unwrapped(value: Any) -> Any:
    """A row without the fields that the hub's viewer puts around it; any other value as it is."""
    if isinstance(value, dict) and isinstance(value.get("row"), dict) and value.keys() <= VIEWER:
        return value["row"]
    return value


def _near(name: str) -> str:
    return did_you_mean(name, COLUMNS, f"; {name[:40]!r}: ")


def _csv(reader: _Text) -> Iterator[Found]:
    before = reader.line - 1
    lines = reader.lines()
    header, headed = next(lines), before + 1
    delimiter = max(DELIMITERS, key=header.count)
    try:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
    except csv.Error as error:
        raise broken(headed, "not_csv", f"not CSV: {error}") from None
    if not any(name in names for name in COLUMNS):
        message = "neither JSON nor CSV with a header that has the column 'subject'"
        message += next((near for name in names if (near := _near(name))), "")
        raise broken(headed, "unknown_format", message)
    if not reader.peek():
        raise broken(reader.line, "empty", "there are no records")
    rows = csv.DictReader(lines, names, delimiter=delimiter, strict=True)
    while True:
        line = before + 2 + rows.line_num
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise broken(line, "not_csv", f"not CSV: {error}") from None
        try:
            yield Found(line, from_cells(row))
        except Malformed as error:
            yield Found(line, error)
