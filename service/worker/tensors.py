"""Between torch tensors and the store's raw bytes."""

from __future__ import annotations

import torch

from jeep_core.loading import tensor_bytes
from service.schemas import TensorRef
from service.store import Store

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
    """Read a tensor back, its bytes verified.

    Raises:
        CorruptTensor: the bytes do not have the hash of the reference.
    """
    data = bytearray(store.read_tensor(ref))
    return torch.frombuffer(data, dtype=_TYPES[ref.dtype]).view(ref.shape)
