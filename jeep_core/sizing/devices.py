"""GPUs by name or by the size of their memory, and the rates that a plan assumes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jeep_core.errors import JeepError
from jeep_core.sizing.operations import Work
from jeep_core.spec.naming import known_names

SHARE = 0.3
"""The share of a vendor's dense peak that products of an edit's sizes are assumed to reach."""
MEMORY_SHARE = 0.7
"""The share of the bandwidth that reading weights is assumed to reach."""
STORED_PER_S = 1e9
"""Bytes that are hashed and written into the store in a second, assumed."""
TAKEN = 500_000_000
"""Bytes of a GPU's memory that the driver's context and libraries take, assumed …"""
FRAGMENTS = 0.04
"""… and the share that the allocator loses between blocks."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(GB|GiB|G)?", re.IGNORECASE)


class UnknownGpu(JeepError):
    """A GPU that is neither in the table nor a size."""

    code = "invalid_request"


@dataclass(frozen=True)
class Rates:
    """Operations a second in the weights' type, in float32 and in float64; bytes a second.

    ``bandwidth`` None: reading weights is not counted.
    """

    matrix: float
    single: float
    double: float
    bandwidth: float | None = None

    def seconds(self, work: Work) -> float:
        """Time of a part: its products or its reading of weights, whichever takes longer."""
        products = work.matrix / self.matrix + work.single / self.single
        products += work.double / self.double
        reading = work.read_bytes / self.bandwidth if self.bandwidth else 0.0
        return max(products, reading) + work.stored_bytes / STORED_PER_S


@dataclass(frozen=True)
class Gpu:
    """A GPU: GB (10⁹ bytes) of memory, and the vendor's dense peaks.

    TFLOP/s in 16 bits with sums in float32, in float32 and in float64, and GB/s of memory; all
    are None where only the size is known.
    """

    name: str
    gigabytes: float
    half: float | None = None
    single: float | None = None
    double: float | None = None
    bandwidth: float | None = None

    @property
    def usable(self) -> int:
        """Bytes that a model and its edits can take."""
        return int(self.gigabytes * 1e9 * (1 - FRAGMENTS)) - TAKEN

    def rates(self, dtype: str, share: float = SHARE) -> Rates | None:
        """Rates for weights of this type, or None."""
        if self.half is None or self.single is None or self.double is None:
            return None
        matrix = self.single if dtype == "float32" else self.half
        assert self.bandwidth is not None
        peak = share * 1e12
        return Rates(
            peak * matrix,
            peak * self.single,
            peak * self.double,
            MEMORY_SHARE * self.bandwidth * 1e9,
        )


_GPUS = (
    Gpu("l4", 24, 121, 30.3, 0.47, 300),
    Gpu("a10", 24, 125, 31.2, 0.49, 600),
    Gpu("rtx-3090", 24, 71, 35.6, 0.56, 936),
    Gpu("rtx-4090", 24, 165.2, 82.6, 1.29, 1008),
    Gpu("a100-80gb", 80, 312, 19.5, 19.5, 2039),
    Gpu("h100", 80, 989, 67, 67, 3350),
    Gpu("h200", 141, 989, 67, 67, 4800),
)
GPUS: Mapping[str, Gpu] = {gpu.name: gpu for gpu in _GPUS}
"""Known devices by their published peaks: SXM for A100 and later, no sparsity."""


def gpu_of(text: str) -> Gpu:
    """A GPU by its name, or one of ``24GB`` of which nothing else is known.

    Raises:
        UnknownGpu: it is neither.
    """
    name = text.strip().lower()
    if name in GPUS:
        return GPUS[name]
    found = _SIZE.fullmatch(text.strip())
    if found is None or float(found[1]) <= 0:
        raise UnknownGpu(f"--gpu {text!r} is no size such as 24GB, {known_names(name, GPUS)}")
    size = float(found[1]) * (2**30 / 1e9 if (found[2] or "").lower() == "gib" else 1)
    return Gpu(f"{size:g} GB", size)


def given(flops: float, bandwidth: float | None = None) -> Rates:
    """Rates from what a machine was measured to reach: half of it in float64."""
    return Rates(flops, flops, flops / 2, bandwidth)
