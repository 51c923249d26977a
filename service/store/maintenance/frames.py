"""Checks of the library's safetensors files (``jeep_core.storage.files``), without torch."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

from service.store.files import OF_CONTENT

CHUNK_BYTES = 1 << 20
TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Torch's names, which are part of the hash."""


def what_is_wrong(path: Path) -> str | None:
    """Return why a file is damaged, else None; without a hash in it, only its frame is checked.

    Raises:
        OSError: it cannot be read now.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, size)))
            metadata = header.pop("__metadata__", {})
            ends = [int(entry["data_offsets"][1]) for entry in header.values()]
            if size != 8 + length + max(ends, default=0):
                return "is no whole safetensors file"
            wanted = metadata.get("sha256")
            found = wanted and _digest(file, 8 + length, header, metadata.get("record", ""))
    except OSError as error:
        if error.errno not in {*OF_CONTENT, errno.ENOENT}:
            raise
        return f"cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "is no whole safetensors file"
    return None if found == wanted else "is damaged: it has another hash"


def _digest(file: BinaryIO, start: int, header: dict[str, Any], record: str) -> str:
    """The hash that ``jeep_core.storage.files`` computes from tensors."""
    digest = hashlib.sha256(record.encode())
    for name, entry in sorted(header.items()):
        shape = tuple(entry["shape"])
        digest.update(f"{name} torch.{TYPES[entry['dtype']]} {shape}".encode())
        begin, end = entry["data_offsets"]
        file.seek(start + begin)
        left = end - begin
        while left > 0 and (chunk := file.read(min(left, CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()
