"""The tensors of a GGUF file as safetensors, a few rows at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jeep_core.errors import UnsupportedModel
from jeep_core.models.gguf.blocks import BF16, PLAIN, Array, numbers, raw
from jeep_core.models.gguf.dialects import Tensor
from jeep_core.models.gguf.reader import Entry, Gguf, damaged

DTYPES = ("float32", "bfloat16", "float16")
_STORED = {"float32": ("F32", 4), "bfloat16": ("BF16", 2), "float16": ("F16", 2)}
"""Names and sizes of the types in safetensors."""
_AT_ONCE = 2**22
"""Elements that are dequantised at once: 16 MiB as float32."""

Report = Callable[[str, int, int], None]
"""Hears what is being done, how much of it is done, and how much there is."""


def natural_dtype(file: Gguf) -> str:
    """The smallest type that holds the matrices of a file exactly.

    A quantised number is a product of a scale and a small integer, often with a sum: only
    float32 holds it.  float16 would halve the folder and change it by up to 2⁻¹¹ of itself.
    """
    kinds = {entry.kind for entry in file.tensors.values() if len(entry.shape) > 1}
    [only] = kinds if len(kinds) == 1 else [None]
    return PLAIN.get(only, "float32") if only is not None else "float32"


def folder_bytes(file: Gguf, tensors: Sequence[Tensor], dtype: str) -> int:
    """Size of the file that :func:`write` makes, but for its header."""
    return sum(_end(file.tensors[t.source], dtype) for t in tensors)


def write(path: Path, file: Gguf, tensors: Sequence[Tensor], dtype: str, report: Report) -> None:
    """Write the tensors one after the other; vectors (norms, biases) stay in float32.

    Raises:
        UnsupportedModel: a number is not finite, or too large for ``dtype``.
        OSError: the file cannot be written.
    """
    total = folder_bytes(file, tensors, dtype)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        entry = file.tensors[tensor.source]
        end = at + _end(entry, dtype)
        shape = entry.shape[::-1] if tensor.transposed else entry.shape
        stored = _STORED[_dtype_of(entry, dtype)][0]
        header[tensor.name] = {"dtype": stored, "shape": shape, "data_offsets": (at, end)}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8
    with path.open("xb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        done = 0
        for tensor in tensors:
            for part in _parts(file, tensor, dtype):
                part.tofile(out)
                done += part.nbytes
                report("converting", done, total)


def _dtype_of(entry: Entry, dtype: str) -> str:
    return "float32" if len(entry.shape) == 1 else dtype


def _end(entry: Entry, dtype: str) -> int:
    return entry.size * _STORED[_dtype_of(entry, dtype)][1]


def _parts(file: Gguf, tensor: Tensor, dtype: str) -> Iterator[Array]:
    """The numbers of a tensor in the wanted type, in the order in which they are stored."""
    entry = file.tensors[tensor.source]
    data = raw(file, entry)  # (rows, bytes)
    dtype = _dtype_of(entry, dtype)
    if len(entry.shape) == 1 or tensor.transposed:
        whole = _finite(file, entry, numbers(data, entry.kind))
        if tensor.rows is not None:
            whole = whole.reshape(-1)[tensor.rows]
        if tensor.minus_one:
            whole = whole - 1
        yield _cast(file, entry, whole.T if tensor.transposed else whole, dtype)
        return
    step = max(1, _AT_ONCE // entry.shape[-1])
    for start in range(0, len(data), step):
        part = slice(start, start + step)
        rows = data[part] if tensor.rows is None else data[tensor.rows[part]]
        if entry.kind == BF16 and dtype == "bfloat16":
            yield np.ascontiguousarray(rows)
        else:
            yield _cast(file, entry, _finite(file, entry, numbers(rows, entry.kind)), dtype)


def _finite(file: Gguf, entry: Entry, found: Array) -> Array:
    if not np.isfinite(found).all():
        raise damaged(file.path, f"{entry.name} holds NaN or infinity")
    return found


def _cast(file: Gguf, entry: Entry, found: Array, dtype: str) -> Array:
    """float32 numbers in another type; bfloat16 as its 16 bits, rounded to even."""
    if dtype == "float32":
        return np.ascontiguousarray(found)
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(found).view(np.uint32)
        bits = bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)
        return (bits >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(found).astype(np.float16)
    if np.isinf(half).any():
        raise UnsupportedModel(
            f"{file.path} holds numbers in {entry.name} that float16 cannot: choose float32 or "
            "bfloat16"
        )
    return half
