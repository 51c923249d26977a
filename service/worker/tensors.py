"""Between torch tensors and the store's raw bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from jeep_core.loading import tensor_bytes
from service.schemas import TensorRef
from service.store import Store
from service.store.tensors import ALIGNMENT

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}


def put(store: Store, name: str, tensor: torch.Tensor) -> TensorRef:
    """Store a floating-point tensor."""
    return store.put_tensor(name, _NAMES[tensor.dtype], list(tensor.shape), tensor_bytes(tensor))


def get(store: Store, ref: TensorRef) -> torch.Tensor:
    """A tensor of the store, its bytes verified; where it can be, a mapping of the file.

    Raises:
        CorruptTensor: the bytes do not have the hash of the reference.
    """
    tensor = torch.frombuffer(store.map_tensor(ref), dtype=_TYPES[ref.dtype]).view(ref.shape)
    aligned = tensor.data_ptr() % ALIGNMENT == 0  # not in files of earlier releases
    return tensor if aligned else tensor.clone()


def get_all(store: Store, refs: Sequence[TensorRef]) -> dict[str, torch.Tensor]:
    """Tensors by name, read and verified by several threads: hashing holds no lock.

    Raises:
        CorruptTensor: as `get`.
    """
    threads = max(1, min(len(refs), os.cpu_count() or 1))
    with ThreadPoolExecutor(threads, thread_name_prefix="tensors") as pool:
        loaded = pool.map(lambda ref: get(store, ref), refs)
        return {ref.name: tensor for ref, tensor in zip(refs, loaded, strict=True)}
