"""A model folder from a GGUF file."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jeep_core.errors import UnsupportedModel
from jeep_core.models.gguf.blocks import check_data, kinds
from jeep_core.models.gguf.configs import Shape, config_of, generation_of
from jeep_core.models.gguf.dialects import Tensor, dialect_of, plan
from jeep_core.models.gguf.reader import Gguf, read
from jeep_core.models.gguf.tokenizers import tokenizer_of
from jeep_core.models.gguf.weights import DTYPES, Report, folder_bytes, natural_dtype, write

__all__ = ["VERSION", "Conversion", "Report", "check_room", "convert", "prepare"]

VERSION = 1
"""Of the conversion: folders made by an older one are made again."""
ROOM = 64 * 2**20
"""Bytes that a folder needs beside the weights, at most: the tokenizer."""


@dataclass(frozen=True)
class Conversion:
    """The plan of a conversion; nothing is written yet.

    ``dtype`` is that of the matrices, ``bytes`` the size of the weights in the folder, and
    ``quantisation`` names the types in the file.
    """

    file: Gguf
    tensors: Sequence[Tensor]
    config: Mapping[str, Any]
    dtype: str
    bytes: int

    @property
    def quantisation(self) -> str:
        """The types of the file's tensors, the most frequent first."""
        return kinds(self.file.tensors.values())

    @property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        return sum(self.file.tensors[t.source].size for t in self.tensors)


def prepare(path: Path, dtype: str = "auto") -> Conversion:
    """Read a file's header and check that all of it can be converted.

    ``dtype`` is float32, bfloat16, float16 or auto: what holds the matrices exactly.

    Raises:
        UnsupportedModel: the file is damaged, or of a kind that is not converted.
        OSError: it cannot be read.
    """
    if dtype not in ("auto", *DTYPES):
        raise UnsupportedModel(f"dtype {dtype!r} is not one of: auto, {', '.join(DTYPES)}")
    file = read(path)
    _refuse_parts(file)
    dialect = dialect_of(file)
    check_data(file)
    chosen = natural_dtype(file) if dtype == "auto" else dtype
    config = config_of(file, dialect, chosen)
    shape = Shape(file)
    tensors = plan(file, dialect, shape.number("block_count"), shape.heads)
    return Conversion(file, tensors, config, chosen, folder_bytes(file, tensors, chosen))


def convert(conversion: Conversion, folder: Path, report: Report) -> None:
    """Write the files of the model into an empty folder.

    Raises:
        UnsupportedModel: the vocabulary or a number cannot be converted.
        OSError: the folder cannot be written; ENOSPC before anything is, if it has no room.
    """
    check_room(folder, conversion.bytes + ROOM)
    tokenizer, tokenizer_config = tokenizer_of(conversion.file, conversion.config["vocab_size"])
    records = {
        "config.json": conversion.config,
        "generation_config.json": generation_of(conversion.file),
        "tokenizer_config.json": tokenizer_config,
    }
    for name, record in records.items():
        text = json.dumps(record, ensure_ascii=False, indent=2)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    weights = folder / "model.safetensors"
    write(weights, conversion.file, conversion.tensors, conversion.dtype, report)
    with weights.open("rb") as file:
        os.fsync(file.fileno())


def check_room(folder: Path, needed: int) -> None:
    """Check that the disk of a folder has room for ``needed`` bytes.

    Raises:
        OSError: it has not (ENOSPC).
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        text = (
            f"No space left on device ({needed / 2**20:,.0f} MiB needed, {free / 2**20:,.0f} free)"
        )
        raise OSError(errno.ENOSPC, text, str(folder))


def _refuse_parts(file: Gguf) -> None:
    """Refuse files that hold a part of a model, or something beside one."""
    parts = file.metadata.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        number = int(file.metadata.get("split.no", 0)) + 1
        raise UnsupportedModel(
            f"{file.path} is part {number} of {parts} of a split GGUF: merge them with "
            "llama-gguf-split --merge FIRST-PART OUT.gguf and take that"
        )
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise UnsupportedModel(f"{file.path} holds no whole model but a part of the type {kind!r}")
