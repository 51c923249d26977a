"""Records of a file one by one, with the lines they begin in: JSON lists, JSON lines, CSV.

What is read is bounded by a record, never by the file.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from jeep_core.evaluation.suites.cases import InvalidSuite, RecordProblem
from jeep_core.evaluation.suites.fields import Malformed, Record, has_half_characters
from jeep_core.evaluation.suites.plain import from_cells

CHUNK = 1 << 16
MAX_RECORD = 1 << 20
"""Characters of one record."""
HALF_CHARACTER = "an escape is half of a surrogate pair"
SPACE = " \t\r\n"
DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Found:
    """A record, or what is wrong with it; ``line`` is where it begins, from 1."""

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
    elif first == "{":
        yield from _json_lines(reader)
    else:
        yield from _csv(reader)


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
        """Leave characters behind."""
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        self.line += taken.count("\n")
        return taken

    def peek(self) -> str:
        """The next character that is no white space, or nothing; what is before it is left."""
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
            if reader.peek():
                raise broken(reader.line, "not_json", "text behind the end of the list")
            return


def _json_value(reader: _Text, number: int) -> Any:
    """The value at which the reader stands."""
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


def _json_lines(reader: _Text) -> Iterator[Found]:
    line = reader.line
    for text in reader.lines():
        if text.strip():
            try:
                value = json.loads(text)
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


def _object(value: Any) -> Record | Malformed:
    if isinstance(value, dict):
        return value
    return Malformed("", "not_an_object", "a record must be an object")


def _csv(reader: _Text) -> Iterator[Found]:
    before = reader.line - 1
    lines = reader.lines()
    header = next(lines)
    delimiter = max(DELIMITERS, key=header.count)
    try:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
    except csv.Error as error:
        raise broken(reader.line - 1, "not_csv", f"not CSV: {error}") from None
    if "subject" not in names:
        message = "neither JSON nor CSV with a header that has the column 'subject'"
        raise broken(reader.line - 1, "unknown_format", message)
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
