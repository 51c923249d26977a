"""Files that are either whole or not there."""

from __future__ import annotations

import glob
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

ABANDONED_S = 3600.0


def save_whole(
    path: Path, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any] | None = None
) -> None:
    """Write a safetensors file aside, flush it to disk and put it in place.

    ``record`` (anything JSON can hold) is kept in the file's header.  What earlier writers of
    this file left when they were killed is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if time.time() - left.stat().st_mtime > ABANDONED_S:
            left.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    metadata = {"record": json.dumps(record or {}, ensure_ascii=False)}
    try:
        save_file({name: t.cpu() for name, t in tensors.items()}, partial, metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file aside, flush it to disk and put it in place."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_record(path: Path) -> dict[str, Any]:
    """What ``save_whole`` kept beside the tensors."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    record: dict[str, Any] = json.loads(metadata.get("record", "{}"))
    return record
