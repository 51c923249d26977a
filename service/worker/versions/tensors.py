"""Conversion between torch tensors and the store's raw bytes."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from itertools import chain

import torch

from jeep_core.models.loading import tensor_data
from service.contracts.schemas import TensorRef
from service.store import Store
from service.store.tensors import ALIGNMENT
from service.worker.staying import hand_in

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
WRITERS = 8
"""Files that are made durable at a time."""
CACHED_BYTES = 256 * 2**20


def put(store: Store, name: str, tensor: torch.Tensor) -> TensorRef:
    """Store a tensor of floating-point numbers, integers or truth values.

    Raises:
        ValueError: it has another type; names the tensor.
    """
    if tensor.dtype not in _NAMES:
        raise ValueError(f"{name}: a version keeps no tensor of {tensor.dtype}; give a float32 one")
    return store.tensors.put(name, _NAMES[tensor.dtype], list(tensor.shape), tensor_data(tensor))


def put_all(store: Store, named: Mapping[str, torch.Tensor]) -> list[TensorRef]:
    """Store tensors, in the order of their names, by several threads."""
    with putting(store, named) as put:
        return put()[0]


@contextmanager
def putting(
    store: Store, *groups: Mapping[str, torch.Tensor]
) -> Iterator[Callable[[], list[list[TensorRef]]]]:
    """Store tensors beside the block, by several threads.

    Most of the time goes into waiting for the disk, which makes many files durable in the time of a
    few.  What is yielded waits for the references, of each group in the order of its names, and
    raises what storing has raised.  The block does not end before the threads; what they have not
    begun when it fails is left out.
    """
    lane = threading.current_thread().name
    begun: list[list[Future[TensorRef]]] = []
    try:
        for named in groups:
            begun.append([])
            for name in sorted(named):
                work = partial(put, store, name, named[name])
                begun[-1].append(hand_in(f"{lane}-tensors", WRITERS, work))
        yield lambda: [[one.result() for one in group] for group in begun]
    except BaseException:
        for one in chain(*begun):
            one.cancel()
        raise
    finally:
        wait(chain(*begun))


def get(store: Store, ref: TensorRef) -> torch.Tensor:
    """A tensor of the store, its bytes verified; a mapping of the file where possible.

    Raises:
        CorruptTensor: the bytes do not have the hash of the reference.
    """
    return of_bytes(store.tensors.map(ref), ref)


def of_bytes(data: memoryview, ref: TensorRef) -> torch.Tensor:
    """The tensor that a reference describes, over these bytes where possible."""
    dtype = _TYPES[ref.dtype]
    if not len(data):  # torch takes no empty buffer
        return torch.empty(ref.shape, dtype=dtype)
    tensor = torch.frombuffer(data, dtype=dtype).view(ref.shape)
    aligned = tensor.data_ptr() % ALIGNMENT == 0  # not in files of earlier releases
    return tensor if aligned else tensor.clone()


class TensorCache:
    """Recently read tensors of a store, by content; the oldest are evicted beyond ``limit`` bytes.

    Every edit reads the updates and keys of all live edits before it.  For one thread.
    """

    def __init__(self, store: Store, limit: int = CACHED_BYTES) -> None:
        self._store, self._limit, self._held = store, limit, 0
        # by hash, type and shape: the same bytes may be those of two tensors
        self._tensors: OrderedDict[tuple[object, ...], torch.Tensor] = OrderedDict()

    def get(self, ref: TensorRef) -> torch.Tensor:
        """A tensor, read and verified if it is not in the cache.

        Raises:
            CorruptTensor: as `get`.
        """
        key = ref.sha256, ref.dtype, *ref.shape
        tensor = self._tensors.get(key)
        if tensor is None:
            # small and many: a copy, as every mapping keeps its file open
            tensor = self._tensors[key] = get(self._store, ref).clone()
            self._held += tensor.nbytes
        self._tensors.move_to_end(key)
        while self._held > self._limit and len(self._tensors) > 1:
            _, oldest = self._tensors.popitem(last=False)
            self._held -= oldest.nbytes
        return tensor


def get_all(store: Store, refs: Sequence[TensorRef]) -> dict[str, torch.Tensor]:
    """Tensors by name, read and verified by several threads: hashing holds no lock.

    Raises:
        CorruptTensor: as `get`.
    """
    threads = max(1, min(len(refs), os.cpu_count() or 1))
    with ThreadPoolExecutor(threads, thread_name_prefix="tensors") as pool:
        loaded = pool.map(lambda ref: get(store, ref), refs)
        return {ref.name: tensor for ref, tensor in zip(refs, loaded, strict=True)}
