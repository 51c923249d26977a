"""Files of safetensors written from others, a few megabytes at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch

from jeep_core.errors import NotExportable
from jeep_core.exports.folders import HashingFile
from jeep_core.models.checkpoints.weights import HARMLESS

CHUNK = 8 * 2**20
"""Bytes that are read at once; a multiple of every number's size."""
FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
NAMES = {dtype: name for name, dtype in FLOATS.items()}


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: ``start`` and ``end`` are offsets from the file's beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Layout:
    """The header of a file, its tensors in the order of their bytes."""

    entries: tuple[Entry, ...]
    metadata: Mapping[str, str]


def read_layout(path: Path) -> Layout:
    """The header of a file that `jeep_core.models.checkpoints.files` has accepted."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(size))
    metadata = header.pop("__metadata__", {})
    entries = [
        Entry(name, one["dtype"], tuple(one["shape"]), *(8 + size + n for n in one["data_offsets"]))
        for name, one in header.items()
    ]
    return Layout(tuple(sorted(entries, key=lambda e: (e.start, e.end))), metadata)


def dtype_after(entry: Entry, dtype: torch.dtype | None) -> str:
    """The type in which a tensor is written, if ``dtype`` is asked for.

    Integers, truth values and the buffers that older checkpoints hold stay as they are.
    """
    if dtype is None or entry.dtype not in FLOATS or HARMLESS.search(entry.name):
        return entry.dtype
    return NAMES[dtype]


def bytes_after(entry: Entry, dtype: torch.dtype | None) -> int:
    """How many bytes it then has."""
    wanted = dtype_after(entry, dtype)
    if wanted == entry.dtype:
        return entry.end - entry.start
    return prod(entry.shape) * FLOATS[wanted].itemsize


def rewrite(
    source: Path,
    out: HashingFile,
    replaced: Mapping[str, torch.Tensor],
    dtype: torch.dtype | None,
    read: Callable[[Entry, bytes], None],
) -> None:
    """Write a file with the tensors of ``source``, in its order, those of ``replaced`` instead.

    ``replaced`` are tensors of any shape, by their names in the file.  ``dtype``: the type that
    floating-point tensors get; None: each keeps its own.  ``read`` is shown every chunk of the
    source.

    Raises:
        NotExportable: a number is too large for ``dtype``.
        OSError: a file cannot be read or written.
    """
    layout = read_layout(source)
    out.write(_header(layout, dtype))
    with source.open("rb") as file:
        for entry in layout.entries:
            wanted = dtype_after(entry, dtype)
            if entry.name in replaced:
                for part in _parts(replaced[entry.name]):
                    out.write(_converted(entry.name, part, wanted))
                continue
            for chunk in _chunks(file, entry):
                read(entry, chunk)
                same = wanted == entry.dtype
                out.write(chunk if same else _converted(entry.name, numbers(entry, chunk), wanted))


def numbers(entry: Entry, chunk: bytes) -> torch.Tensor:
    """The numbers (n,) in a chunk of a floating-point tensor; they are only read."""
    return torch.frombuffer(bytearray(chunk), dtype=FLOATS[entry.dtype])


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor of any shape."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _header(layout: Layout, dtype: torch.dtype | None) -> bytes:
    """Length and text of the header; the data begins at a multiple of eight."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **layout.metadata}}
    at = 0
    for entry in layout.entries:
        end = at + bytes_after(entry, dtype)
        header[entry.name] = {
            "dtype": dtype_after(entry, dtype),
            "shape": entry.shape,
            "data_offsets": (at, end),
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _chunks(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    file.seek(entry.start)
    left = entry.end - entry.start
    while left:
        chunk = file.read(min(CHUNK, left))
        if not chunk:
            raise NotExportable(
                f"{file.name} is shorter than it was when the model was loaded: copy it again and "
                "start the worker again"
            )
        left -= len(chunk)
        yield chunk


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor of any shape as flat parts of a chunk's size, on the CPU."""
    flat = tensor.detach().contiguous().flatten()
    step = CHUNK // flat.element_size()
    for start in range(0, len(flat), step):
        yield flat[start : start + step].to("cpu")


def _converted(name: str, part: torch.Tensor, dtype: str) -> bytes:
    """The bytes of numbers (n,) in another type, each rounded once.

    Raises:
        NotExportable: one is too large for it.
    """
    found = part.to(FLOATS[dtype])
    if not bool(found.isfinite().all()):
        raise NotExportable(
            f"{name} holds numbers that {str(FLOATS[dtype]).removeprefix('torch.')} cannot: choose "
            "dtype bfloat16 or float32"
        )
    return raw(found)
