"""The header of a GGUF file: metadata and the table of tensors.

The layout, all little-endian: ``GGUF``, version (u32), number of tensors and of metadata entries
(u64 each); the entries, each a key, the type of its value (u32) and the value; the tensors, each
a name, its sizes with the fastest first, a type and an offset; padding; the data.  Strings are a
length (u64) and UTF-8.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from jeep_core.errors import UnsupportedModel

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8",
    11: "<i8", 12: "<f8",
}  # fmt: skip
"""Types of metadata that are numbers, as numpy names them; 7 is a truth value."""
_SIZES = 4
"""Most sizes that a tensor has."""


@dataclass(frozen=True)
class Entry:
    """A tensor of the table.

    ``shape`` has the slowest size first, as in numpy; ``kind`` is the number of its type, and
    ``start`` where its data begins in the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def n_rows(self) -> int:
        """Number of rows; a vector is one row."""
        return prod(self.shape[:-1])


@dataclass(frozen=True)
class Gguf:
    """The header of a file.  Arrays of numbers are numpy arrays, arrays of strings are lists.

    ``table``: where the table of tensors begins, in bytes.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Entry]
    table: int

    @property
    def alignment(self) -> int:
        """Of the data: every tensor begins at a multiple of so many bytes after the table."""
        return int(self.metadata.get("general.alignment", 32))

    @property
    def architecture(self) -> str:
        """The architecture that the file names, or an empty text."""
        return str(self.metadata.get("general.architecture", ""))


def read(path: Path) -> Gguf:
    """Read the header of a file.

    Raises:
        UnsupportedModel: the file is no GGUF, of an unknown version, big-endian, or damaged.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise UnsupportedModel(f"{path} is no GGUF file, whatever it is called: name another")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Parser(path, data).parse()
            except (struct.error, ValueError, OverflowError, UnicodeDecodeError):
                raise damaged(path, "its header is cut off or makes no sense") from None


def damaged(path: Path, why: str) -> UnsupportedModel:
    """The error for a file that is not what was written."""
    return UnsupportedModel(f"{path} is damaged, {why}: get the file again")


class _Parser:
    """Reads on from ``at``, which is a position in ``data``."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, len(MAGIC)

    def parse(self) -> Gguf:
        version = self._number("<u4")
        if version not in VERSIONS:
            swapped = int.from_bytes(int(version).to_bytes(4, "little"), "big")
            what = "big-endian" if swapped in VERSIONS else f"of version {version}"
            raise UnsupportedModel(
                f"{self.path} is a GGUF file that is {what}, and only little-endian ones of "
                "version 2 and 3 are read: convert the model again with a current llama.cpp"
            )
        n_tensors, n_entries = self._number("<u8"), self._number("<u8")
        metadata: dict[str, Any] = {}
        for _ in range(n_entries):
            key = self._text()
            metadata[key] = self._value(self._number("<u4"))
        table_at = self.at
        table = [self._entry() for _ in range(n_tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 2**16:
            raise ValueError("alignment")
        begin = -(-self.at // alignment) * alignment
        tensors = {
            name: Entry(name, shape, kind, begin + offset) for name, shape, kind, offset in table
        }
        if len(tensors) != n_tensors:
            raise ValueError("a tensor is there twice")
        return Gguf(self.path, metadata, tensors, table_at)

    def _take(self, size: int) -> bytes:
        """The next bytes; a size beyond the end is an error before anything is allocated."""
        if size > len(self.data) - self.at:
            raise ValueError("the file ends too early")
        taken = self.data[self.at : self.at + size]
        self.at += size
        return taken

    def _number(self, dtype: str) -> Any:
        kind = np.dtype(dtype)
        return np.frombuffer(self._take(kind.itemsize), kind)[0].item()

    def _text(self) -> str:
        return self._take(self._number("<u8")).decode("utf-8", errors="replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            inner, length = self._number("<u4"), self._number("<u8")
            return self._texts(length) if inner == _STRING else self._array(inner, length)
        value = self._number(_NUMBERS[kind]) if kind in _NUMBERS else self._unknown(kind)
        return bool(value) if kind == _BOOL else value

    def _array(self, kind: int, length: int) -> Any:
        if kind not in _NUMBERS:
            self._unknown(kind)
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self._take(length * dtype.itemsize), dtype)

    def _texts(self, length: int) -> list[str]:
        """Many strings at once: vocabularies have hundreds of thousands."""
        data, at, end, texts = self.data, self.at, len(self.data), []
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(length):
            (size,) = unpack(data, at)
            at += 8
            if size > end - at:
                raise ValueError("the file ends too early")
            texts.append(data[at : at + size].decode("utf-8", errors="replace"))
            at += size
        self.at = at
        return texts

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, n_sizes = self._text(), self._number("<u4")
        if not 1 <= n_sizes <= _SIZES:
            raise ValueError("a tensor of too many sizes")
        sizes = [self._number("<u8") for _ in range(n_sizes)]
        return name, tuple(reversed(sizes)), self._number("<u4"), self._number("<u8")

    def _unknown(self, kind: int) -> Any:
        raise ValueError(f"metadata of type {kind}")
