"""Files that are either complete or absent."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from jeep_core.errors import JeepError
from jeep_core.spec.finite import json_text
from jeep_core.storage.looking import listed
from jeep_core.storage.reading import reader

ABANDONED_S = 3600.0


def save_whole(
    path: Path, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any] | None = None
) -> None:
    """Write tensors of any shape to a file aside, flush it to disk and put it in place.

    ``record`` (anything JSON can hold) is kept in the file's header.  What earlier writers of
    this file left when they were killed is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # only old ones: another process may be writing now
    for left in listed(path.parent, f".{glob.escape(path.name)}.*.partial"):
        if time.time() - left.stat().st_mtime > ABANDONED_S:
            left.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    on_cpu = {name: t.cpu() for name, t in tensors.items()}
    text = json_text(record or {}, str(path), ensure_ascii=False)
    try:
        save_file(on_cpu, partial, {"record": text, "sha256": _digest(on_cpu, text)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_whole(path: Path) -> dict[str, torch.Tensor]:
    """The tensors (any shape) that ``save_whole`` wrote, on the CPU; older files have no hash.

    Raises:
        JeepError: they differ from what was written.
        SafetensorError, OSError: the file cannot be read.
    """
    with reader(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    wanted = metadata.get("sha256")
    if wanted is not None and wanted != _digest(tensors, metadata.get("record", "")):
        raise JeepError(f"{path} is damaged: it does not have the hash it was written with")
    return tensors


def _digest(tensors: Mapping[str, torch.Tensor], record: str) -> str:
    digest = hashlib.sha256(record.encode())
    for name, tensor in sorted(tensors.items()):
        # bytes alone would not tell a (2, 3) from a (3, 2), or int32 from float32
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_record(path: Path) -> dict[str, Any]:
    """The record that ``save_whole`` kept beside the tensors.

    Raises:
        SafetensorError, OSError: the file cannot be read.
    """
    with reader(path) as file:
        metadata = file.metadata() or {}
    record: dict[str, Any] = json.loads(metadata.get("record", "{}"))
    return record
