"""A GGUF file with other numbers in some of its tensors; every other byte stays.

Metadata (names, tokenizer, chat template, licence) is copied as it is, so that what a program
knew of the file still holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jeep_core.errors import NotExportable
from jeep_core.models.gguf.blocks import Array, kind_name, row_bytes
from jeep_core.models.gguf.configs import Shape
from jeep_core.models.gguf.dialects import Tensor, dialect_of, plan
from jeep_core.models.gguf.reader import Entry, Gguf
from jeep_core.monitor import NOTHING, Monitor

_COUNT = slice(8, 16)
"""Where a file says how many tensors it has, after its magic and its version."""
_PIECE = 2**24
"""Bytes that are copied at once: 16 MiB."""


@dataclass(frozen=True)
class Content:
    """The new content of a tensor: its type, and its bytes (rows, bytes per row)."""

    kind: int
    rows: Array


@dataclass(frozen=True)
class _Part:
    """A tensor of the file that is written; ``rows`` are None where the source has its data."""

    entry: Entry
    kind: int
    size: int
    rows: Array | None


def tensors_of(file: Gguf) -> dict[str, Tensor]:
    """The file's tensors by their names in transformers.

    Raises:
        UnsupportedModel: the file is of no known architecture, or lacks tensors.
    """
    shape = Shape(file)
    found = plan(file, dialect_of(file), shape.number("block_count"), shape.heads)
    return {tensor.name: tensor for tensor in found}


def as_stored(tensor: Tensor, values: Array) -> Array:
    """Numbers in the order and the shape of the file, float32.

    ``values`` are as transformers has them: (out, in), (in, out) where ``tensor.transposed``,
    or (n,).
    """
    found = np.asarray(values, np.float32)
    if tensor.transposed:
        found = found.T
    if tensor.minus_one:
        found = found + np.float32(1)
    if tensor.rows is not None:
        ordered = np.empty_like(found)
        ordered[tensor.rows] = found
        found = ordered
    return np.ascontiguousarray(found)


def write_with(
    path: Path, source: Gguf, contents: Mapping[str, Content], monitor: Monitor = NOTHING
) -> None:
    """Write the file ``source`` to ``path`` with new contents, by the file's names of tensors.

    The file is on disk when this returns.  Contents of the same types leave all but their own
    bytes as they were; another type moves the data that follows, and changes the table.

    Raises:
        NotExportable: a content has another shape than its tensor.
        OSError: the source cannot be read, or the file not be written.
        Whatever ``monitor.check`` raises.
    """
    _write(path, source, [_part(e, contents.get(e.name)) for e in source.tensors.values()], monitor)


def write_only(path: Path, source: Gguf, contents: Mapping[str, Content]) -> None:
    """Write a file with the metadata of ``source`` and these tensors alone, by the file's names.

    Raises:
        NotExportable, OSError: as `write_with`.
    """
    _write(path, source, [_part(source.tensors[n], c) for n, c in contents.items()], NOTHING)


def _part(entry: Entry, content: Content | None) -> _Part:
    kind = entry.kind if content is None else content.kind
    try:
        wanted = (entry.n_rows, row_bytes(entry, kind))
    except ValueError:
        raise NotExportable(
            f"{entry.name} has rows of {entry.shape[-1]} numbers, which are no whole blocks of "
            f"{kind_name(kind)}: take F16"
        ) from None
    rows = None if content is None else content.rows
    if rows is not None and rows.shape != wanted:
        raise NotExportable(
            f"{entry.name} has {wanted} bytes as {kind_name(kind)}, and {rows.shape} were made: "
            "the version is not of the model in the file"
        )
    return _Part(entry, kind, wanted[0] * wanted[1], rows)


def _write(path: Path, source: Gguf, parts: Sequence[_Part], monitor: Monitor) -> None:
    """The head, the table in its order, and the data in the order of the source's."""
    by_place = sorted(parts, key=lambda part: part.entry.start)
    offsets, at = {}, 0
    for part in by_place:
        offsets[part.entry.name] = at
        at += -(-part.size // source.alignment) * source.alignment
    total, done = sum(part.size for part in parts), 0
    with source.path.open("rb") as old, path.open("xb") as new:
        head = bytearray(old.read(source.table))
        head[_COUNT] = len(parts).to_bytes(8, "little")
        new.write(head)
        for part in parts:
            new.write(_row(part, offsets[part.entry.name]))
        new.write(bytes(-new.tell() % source.alignment))
        for part in by_place:
            for piece in _pieces(old, part):
                monitor.check()
                new.write(piece)
                done += len(piece)
                monitor.report("write", done, total)
            new.write(bytes(-new.tell() % source.alignment))
        new.flush()
        os.fsync(new.fileno())


def _row(part: _Part, offset: int) -> bytes:
    """A row of the table of tensors."""
    name, sizes = part.entry.name.encode(), part.entry.shape[::-1]
    row = [len(name).to_bytes(8, "little"), name, len(sizes).to_bytes(4, "little")]
    row += [size.to_bytes(8, "little") for size in sizes]
    row += [part.kind.to_bytes(4, "little"), offset.to_bytes(8, "little")]
    return b"".join(row)


def _pieces(old: BinaryIO, part: _Part) -> Iterator[bytes]:
    """The data of a tensor, a few megabytes at a time."""
    if part.rows is not None:
        yield part.rows.tobytes()
        return
    old.seek(part.entry.start)
    left = part.size
    while left:
        piece = old.read(min(left, _PIECE))
        if not piece:
            raise NotExportable(f"the source of the model ends before {part.entry.name} does")
        left -= len(piece)
        yield piece
