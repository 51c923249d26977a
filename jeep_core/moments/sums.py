"""Sums Σ k kᵀ of keys, or gradients, over the tokens of a text: packing, accurate sums, files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from jeep_core.errors import JeepError
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import LoadedModel
from jeep_core.moments.reading import Documents, reading_of
from jeep_core.moments.source import PANELS
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.finite import check_tensor
from jeep_core.spec.matrices import Measured, in_order, place_of
from jeep_core.storage.files import load_whole, read_record, save_whole

BLOCK_TOKENS = 4096
"""Tokens summed in float32 before the sum is added to the float64 total."""
FULL_ENOUGH = 8
"""A batch that holds 1/8 of the tokens allowed ends where longer documents begin."""


def pack(documents: Documents, tokens: int) -> list[Documents]:
    """Batches of documents of (almost) equal length, at most ``tokens`` each, padding included.

    A longer document is a batch of its own.  Every document is in exactly one batch.
    """
    batches: list[Documents] = []
    rows: list[Sequence[int]] = []
    for document in sorted(documents, key=len):
        too_many = len(document) * (len(rows) + 1) > tokens
        longer = bool(rows) and len(document) > len(rows[-1])
        # rows[-1] is the longest so far, to whose length all rows of a batch are padded
        if rows and (too_many or (longer and len(rows[-1]) * len(rows) * FULL_ENOUGH >= tokens)):
            batches.append(rows)
            rows = []
        rows.append(document)
    return [*batches, rows] if rows else batches


def way_of_summing() -> tuple[int, ...]:
    """The settings that the bits of a sum depend on, besides batches, machine and threads."""
    return (BLOCK_TOKENS, PANELS)


def padding_share(batches: Sequence[Documents]) -> float:
    """The share of padding among the tokens that are run through the model."""
    real = sum(len(row) for rows in batches for row in rows)
    # documents of a batch are in order of length
    run = sum(len(rows) * len(rows[-1]) for rows in batches)
    return 1 - real / run if run else 0.0


class Accumulator:
    """Σ k kᵀ: float32 products within a block of tokens, blocks summed in float64.

    Only the panels on and above the diagonal are computed.  ``size`` is d_ff; ``total``
    (d_ff, d_ff) in float64 is the sum to continue, if there is one.
    """

    def __init__(self, size: int, device: torch.device, total: torch.Tensor | None = None) -> None:
        # (d_ff, d_ff) both: float32 is quick, and exact enough over one block of tokens
        self._block = torch.zeros(size, size, device=device)
        if total is None:
            total = torch.zeros(size, size, dtype=torch.float64)
        self.upper = total.to(device)
        # rows of a panel, rounded up; the last one may have fewer
        self._panel = -(-size // PANELS)

    def add(self, keys: torch.Tensor) -> None:
        """Add keys (n, d_ff) of any floating-point type, on the device of the sum, to the block."""
        keys = keys.float()
        with torch.autocast(keys.device.type, enabled=False):
            self._add(keys)

    def _add(self, keys: torch.Tensor) -> None:
        """Add float32 keys (n, d_ff), panel by panel."""
        for start in range(0, len(self._block), self._panel):
            # rows of one panel, columns from its first row on: (panel, d_ff - start)
            panel = self._block[start : start + self._panel, start:]
            panel.addmm_(keys[:, start : start + self._panel].T, keys[:, start:])

    def end_block(self, name: str = "keys") -> None:
        """Add the block to the total ``upper``, whose part below the diagonal is undefined.

        Raises:
            NumericalError: the block of ``name`` is not finite.
        """
        check_sum(self._block, name)
        self.upper += self._block
        self._block.zero_()

    def total(self) -> torch.Tensor:
        """The symmetric sum (d_ff, d_ff) in float64, over all ended blocks."""
        # panels hold some entries below the diagonal too: they are replaced, not added
        return self.upper.triu() + self.upper.triu(1).T


def check_sum(sums: torch.Tensor, name: str) -> None:
    """Raise ``NumericalError`` if a sum of k kᵀ (d_ff, d_ff) is not finite."""
    advice = (
        "the model overflows on this text: load it in bfloat16 or float32, or take another text"
    )
    check_tensor(sums, f"{name}: the second moment of its keys", advice)


@dataclass(frozen=True)
class MomentSums:
    """Σ k kᵀ per place over ``count`` tokens: ``parts`` of the ``of`` shards of one pass.

    ``keys`` are the names under which the moments will be kept; sums with the same keys may
    be merged.  ``sums`` are (d_ff, d_ff) in float64.  ``batches`` counts batches done where a
    pass was interrupted.
    """

    keys: Mapping[Measured, str]
    sums: Mapping[Measured, torch.Tensor] = field(repr=False)
    count: int = 0
    parts: frozenset[int] = frozenset({0})
    of: int = 1
    batches: int = 0

    @property
    def complete(self) -> bool:
        """Whether all shards are in."""
        return len(self.parts) == self.of

    def moments(self) -> dict[Measured, torch.Tensor]:
        """E[k kᵀ] (d_ff, d_ff) by place, in float32.

        Raises:
            JeepError: shards are missing, or there was no text.
            NumericalError: a sum is not finite.
        """
        if not self.complete:
            missing = sorted(set(range(self.of)) - self.parts)
            names = ", ".join(f"{i + 1}/{self.of}" for i in missing)
            raise JeepError(f"second moments lack shards {names}")
        if not self.count:
            raise JeepError("the corpus for second moments is empty")
        # divided in float64, rounded once
        found = {place: (total / self.count).float() for place, total in self.sums.items()}
        for place, moment in found.items():
            check_sum(moment, f"layer {place}")
        return found

    def save(self, path: Path) -> None:
        """Write to a file, atomically."""
        record = {
            "keys": {str(place): key for place, key in self.keys.items()},
            "count": self.count,
            "parts": sorted(self.parts),
            "of": self.of,
            "batches": self.batches,
        }
        save_whole(path, {f"sum.{place}": t for place, t in self.sums.items()}, record)

    @classmethod
    def load(cls, path: Path) -> MomentSums:
        """Read what ``save`` wrote.

        Raises:
            JeepError: the file holds something else.
        """
        try:
            record, tensors = read_record(path), load_whole(path)
            return cls(
                keys={place_of(name): str(key) for name, key in record["keys"].items()},
                sums={place_of(name): tensors[f"sum.{name}"] for name in record["keys"]},
                count=int(record["count"]),
                parts=frozenset(record["parts"]),
                of=int(record["of"]),
                batches=int(record["batches"]),
            )
        except Exception as error:
            raise JeepError(f"{path} holds no sums of second moments: {error}") from error


def merge(shards: Sequence[MomentSums]) -> MomentSums:
    """The sums over several shards of one pass.

    Raises:
        JeepError: shards of different passes, or a shard that is given twice.
    """
    first = shards[0]
    parts: set[int] = set()
    for shard in shards:
        if dict(shard.keys) != dict(first.keys) or shard.of != first.of:
            raise JeepError("shards of different passes: other model, text, layers or number")
        if parts & shard.parts:
            twice = min(parts & shard.parts) + 1
            raise JeepError(f"shard {twice}/{first.of} is in twice")
        parts |= shard.parts
    # in order of their numbers, so that the order they are given in changes no bit
    ordered = sorted(shards, key=lambda shard: min(shard.parts))
    sums = {
        # (shards, d_ff, d_ff) to (d_ff, d_ff)
        place: torch.stack([shard.sums[place] for shard in ordered]).sum(0)
        for place in first.keys
    }
    return replace(
        first, sums=sums, count=sum(shard.count for shard in shards), parts=frozenset(parts)
    )


def accumulate(
    base: LoadedModel,
    batches: Sequence[Documents],
    start: MomentSums,
    after_block: Callable[[MomentSums], None],
    monitor: Monitor = NOTHING,
    *,
    bfloat16: bool = False,
) -> MomentSums:
    """One pass for all places of ``start``, over the batches that it has not seen yet.

    ``monitor`` may end the pass before every batch and receives the tokens so far (phase
    "moments").  ``after_block`` is given the sums so far whenever a block ended; sums are
    symmetric only in what is returned.  ``bfloat16``: the model's own products are taken in that
    type; those of keys with themselves never are.
    """
    places = sorted(start.keys, key=in_order)
    reading = reading_of(base, places, bfloat16)
    totals = {
        place: Accumulator(reading.size(place), base.device_of(place), start.sums.get(place))
        for place in places
    }
    count, in_block = start.count, 0
    tokens = sum(len(row) for rows in batches for row in rows)

    def so_far(done: int) -> MomentSums:
        # without a copy: they are right until the next block ends
        sums = {place: total.upper for place, total in totals.items()}
        return replace(start, sums=sums, count=count, batches=done)

    with (
        torch.no_grad(),
        _float32_products(),
        giving_way(reading.view, monitor),
    ):
        for done, rows in enumerate(batches[start.batches :], start=start.batches + 1):
            monitor.check()
            new = reading.run(rows, lambda place, read: totals[place].add(read))
            count, in_block = count + new, in_block + new
            monitor.report("moments", count, tokens)
            # a block ends with a batch: a pass that is continued begins with an empty block
            if in_block >= BLOCK_TOKENS or done == len(batches):
                for place, total in totals.items():
                    total.end_block(f"layer {place}")
                in_block = 0
                after_block(so_far(done))
    return replace(
        start,
        # popped, so that each upper triangle is freed as its symmetric sum is made
        sums={place: totals.pop(place).total() for place in places},
        count=count,
        batches=0,
    )


@contextmanager
def _float32_products() -> Iterator[None]:
    """Full float32 in matrix products on a GPU (no TF32), whatever else is set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
