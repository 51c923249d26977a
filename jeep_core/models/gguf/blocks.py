"""The data of tensors: types, quantised blocks, and the numbers they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jeep_core.errors import UnsupportedModel
from jeep_core.models.gguf.reader import Entry, Gguf, damaged

F32, F16, BF16 = 0, 1, 30
PLAIN = {F32: "float32", F16: "float16", BF16: "bfloat16"}
"""Types that are not quantised, by number."""
Array = np.ndarray


def check_data(file: Gguf) -> None:
    """Check that every tensor is there to its end and of a type that can be read.

    Raises:
        UnsupportedModel: a type cannot be dequantised, or the file ends too early.
    """
    size = file.path.stat().st_size
    for kind in {entry.kind for entry in file.tensors.values()}:
        _check_kind(file, kind)
    for entry in file.tensors.values():
        try:
            end = entry.start + entry.n_rows * row_bytes(entry)
        except ValueError:
            raise damaged(file.path, f"{entry.name} has rows that are no whole blocks") from None
        if end > size:
            raise damaged(
                file.path, f"it ends before {entry.name} does ({size:,} of {end:,} bytes at least)"
            )


def kinds(entries: Iterable[Entry]) -> str:
    """The types of tensors, the most frequent first: ``Q4_1, F32``."""
    return ", ".join(kind_name(kind) for kind, _ in Counter(e.kind for e in entries).most_common())


def kind_name(kind: int) -> str:
    """The name of a type, as llama.cpp has it."""
    types = _gguf().GGMLQuantizationType
    return str(types(kind).name) if kind in list(types) else f"number {kind}"


def kind_named(name: str) -> int:
    """The number of a type by its name."""
    return int(_gguf().GGMLQuantizationType[name])


def row_bytes(entry: Entry, kind: int | None = None) -> int:
    """Bytes of one row, in the entry's own type or in another one.

    Raises:
        ValueError: its length is no multiple of the type's block.
    """
    stored = _gguf().GGMLQuantizationType(entry.kind if kind is None else kind)
    block, size = _gguf().GGML_QUANT_SIZES[stored]
    if entry.shape[-1] % block:
        raise ValueError(entry.name)
    return int(entry.shape[-1] // block * size)


def raw(file: Gguf, entry: Entry) -> Array:
    """The bytes of a tensor (rows, bytes per row), mapped from the file."""
    shape = (entry.n_rows, row_bytes(entry))
    return np.memmap(file.path, np.uint8, "r", offset=entry.start, shape=shape)


def numbers(rows: Array, kind: int) -> Array:
    """The float32 numbers (r, n) that rows of bytes (r, b) stand for."""
    types = _gguf().GGMLQuantizationType
    found: Array = _dequantize()(np.ascontiguousarray(rows), types(kind))
    return found.astype(np.float32, copy=False)


def encoded(rows: Array, kind: int) -> Array | None:
    """The bytes (r, b) that hold float32 numbers (r, n) in a type.

    None: the package gguf does not write this type (K-quants, for example), or not rows of this
    length.
    """
    _gguf()
    from gguf.quants import QuantError, quantize

    types = _gguf().GGMLQuantizationType
    try:
        found: Array = quantize(np.ascontiguousarray(rows, np.float32), types(kind))
    except (NotImplementedError, QuantError):
        return None
    return np.ascontiguousarray(found).view(np.uint8)


def _check_kind(file: Gguf, kind: int) -> None:
    types = _gguf().GGMLQuantizationType
    if kind in list(types):
        block = np.zeros((1, _gguf().GGML_QUANT_SIZES[types(kind)][1]), np.uint8)
        try:
            numbers(block, kind)
            return
        except NotImplementedError:
            pass
    names = [entry.name for entry in file.tensors.values() if entry.kind == kind]
    raise UnsupportedModel(
        f"{file.path} holds tensors of the type {kind_name(kind)} ({names[0]} and {len(names) - 1} "
        "more), which cannot be dequantised here: take a file in another quantisation, Q8_0 or "
        "Q4_K_M for example"
    )


def _gguf() -> Any:
    """The package gguf, imported on first use.

    Raises:
        UnsupportedModel: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UnsupportedModel(
            f"a GGUF file needs the package gguf ({error.name} is missing): pip install "
            "'jeep-edit[worker]'"
        ) from None
    return gguf


def _dequantize() -> Callable[..., Array]:
    _gguf()
    from gguf.quants import dequantize

    return dequantize
