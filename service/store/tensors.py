"""Tensors by content: one file per SHA-256 of the raw bytes, in safetensors format.

The format is a length, a JSON header and the bytes, so it is written here without a tensor
library: the api reads and streams it, and no dtype needs a numpy equivalent.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from uuid import uuid4

from service.contracts.schemas import TensorRef
from service.store.errors import CorruptTensor, MissingTensor
from service.store.files import OF_CONTENT, fsync_folder, write_new

KEY = "data"
"""The one tensor of a stored file."""

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes per element of each safetensors dtype."""

ALIGNMENT = 64
"""The format asks for 8 bytes; matrix routines want the data of a mapped file at more."""

_CHUNK = 1 << 20


def safetensors_header(
    tensors: Sequence[TensorRef], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The bytes before the data of a safetensors file with ``tensors`` in this order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for ref in tensors:
        end = offset + byte_count(ref)
        header[ref.name] = {
            "dtype": ref.dtype,
            "shape": ref.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def byte_count(ref: TensorRef) -> int:
    """Size of a tensor's data in bytes; ValueError for a dtype the format does not have."""
    if ref.dtype not in ITEM_BYTES:
        raise ValueError(f"{ref.name}: unknown dtype {ref.dtype!r}")
    return prod(ref.shape) * ITEM_BYTES[ref.dtype]


class Tensors:
    """The tensors of a store (``store.tensors``).  Only the worker writes them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # folders whose names are durable as far as this process knows
        self._durable: set[Path] = set()

    def path(self, sha256: str) -> Path:
        """The path of the file with this hash."""
        return self._root / "tensors" / sha256[:2] / f"{sha256}.safetensors"

    def put(
        self, name: str, dtype: str, shape: Sequence[int], data: bytes | memoryview
    ) -> TensorRef:
        """Store raw little-endian bytes; the same bytes are stored once, whatever their name.

        An existing file is verified and, if it is damaged, written again.
        """
        ref = TensorRef(
            name=name, dtype=dtype, shape=list(shape), sha256=hashlib.sha256(data).hexdigest()
        )
        size = memoryview(data).nbytes
        if size != byte_count(ref):
            raise ValueError(f"{name}: {size} bytes are no {dtype} tensor of shape {ref.shape}")
        target = self.path(ref.sha256)
        if not self._is_intact(ref):
            self._write(target, ref, data)
        return ref

    def _is_intact(self, ref: TensorRef) -> bool:
        if not self.has(ref):
            return False
        try:
            for _ in self.chunks(ref):
                pass
        except CorruptTensor:
            return False
        return True

    def _write(self, target: Path, ref: TensorRef, data: bytes | memoryview) -> None:
        aside = self._root / "staging" / f"{ref.sha256}.{uuid4().hex}"
        header = safetensors_header([ref.model_copy(update={"name": KEY})])
        try:
            write_new(aside, [header, data])
            target.parent.mkdir(exist_ok=True)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
        fsync_folder(target.parent)
        if target.parent not in self._durable:  # its name, once it is there, stays
            fsync_folder(target.parent.parent)
            self._durable.add(target.parent)

    def read(self, ref: TensorRef) -> bytes:
        """The raw bytes, verified; raises as :meth:`chunks`."""
        return b"".join(self.chunks(ref))

    def map(self, ref: TensorRef) -> memoryview:
        """The raw bytes as a private mapping of their file, verified; nothing is copied.

        The file is never changed and may be removed while it is mapped.  Raises as
        :meth:`chunks`.
        """
        path = self.path(ref.sha256)
        with _damage_of(ref, path):
            with path.open("rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            mapping.madvise(mmap.MADV_WILLNEED)
            start = 8 + int.from_bytes(mapping[:8], "little")
            data = memoryview(mapping)[start:]
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise CorruptTensor(f"tensor {ref.name} is damaged: {path}")
        return data

    def chunks(self, ref: TensorRef) -> Iterator[bytes]:
        """The raw bytes piece by piece.

        Raises:
            CorruptTensor, MissingTensor: the file is damaged, which shows at the end at the
                latest, or is not there; the message names tensor and file.
            OSError: it cannot be read now.
        """
        path = self.path(ref.sha256)
        digest = hashlib.sha256()
        with _damage_of(ref, path), path.open("rb") as file:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != ref.sha256:
            raise CorruptTensor(f"tensor {ref.name} is damaged: {path}")

    def has(self, ref: TensorRef) -> bool:
        """Whether a file of the right size exists (its bytes are verified on reading)."""
        return _is_whole(self.path(ref.sha256), byte_count(ref))


@contextmanager
def _damage_of(ref: TensorRef, path: Path) -> Iterator[None]:
    """Turn what shows in the block that a tensor's file is damaged, or gone, into one sentence.

    Memory, file descriptors and disks that are not there for it now show nothing of the kind.
    """
    try:
        yield
    except FileNotFoundError:
        raise MissingTensor(f"tensor {ref.name} is missing: {path}") from None
    except (OverflowError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in OF_CONTENT:
            raise
        raise CorruptTensor(f"tensor {ref.name} is unreadable: {path}: {error}") from None


def _is_whole(path: Path, data_bytes: int) -> bool:
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        return path.stat().st_size == 8 + header_bytes + data_bytes
    except FileNotFoundError:
        return False
