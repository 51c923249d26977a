"""Sums Σ k kᵀ of keys, or gradients, over the tokens of a text: packing, accurate sums, files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from jeep_core.errors import JeepError, is_no_damage
from jeep_core.executors.here import HERE
from jeep_core.executors.work import Bench, Executor, Work
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.reading import Documents, reading_of, size_of, tokens_of
from jeep_core.moments.source import PANELS
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.finite import check_tensor
from jeep_core.spec.matrices import Measured, in_order, place_of
from jeep_core.storage.files import load_whole, read_record, save_whole

TASK = "jeep_core.moments.sums:block_unit"
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


class BlockSum:
    """Σ k kᵀ (d_ff, d_ff) of a block of tokens, in float32, which is exact enough over so few.

    Only the panels on and above the diagonal are computed and held.  ``size`` is d_ff.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        # PANELS times (panel, d_ff - start)
        self._panels = [
            torch.zeros(min(_panel(size), size - start), size - start, device=device)
            for start in range(0, size, _panel(size))
        ]

    def add(self, keys: torch.Tensor) -> None:
        """Add keys (n, d_ff) of any floating-point type, on the device of the sum."""
        keys = keys.float()
        with torch.autocast(keys.device.type, enabled=False):
            self._add(keys)

    def _add(self, keys: torch.Tensor) -> None:
        """Add float32 keys (n, d_ff), panel by panel."""
        start = 0
        for panel in self._panels:
            # rows of one panel, columns from its first row on
            panel.addmm_(keys[:, start : start + len(panel)].T, keys[:, start:])
            start += len(panel)

    def panels(self, name: str = "keys") -> list[torch.Tensor]:
        """The panels (panel, d_ff - start), from the first row on.

        Raises:
            NumericalError: one of ``name`` is not finite.
        """
        for panel in self._panels:
            check_sum(panel, name)
        return self._panels


class TotalSum:
    """The float64 sum of blocks, in the order in which they are added.

    ``upper`` (d_ff, d_ff) is undefined below the diagonal; ``size`` is d_ff, ``total`` the sum to
    continue, if there is one.
    """

    def __init__(self, size: int, device: torch.device, total: torch.Tensor | None = None) -> None:
        if total is None:
            total = torch.zeros(size, size, dtype=torch.float64)
        self.upper = total.to(device)

    def add(self, panels: Sequence[torch.Tensor]) -> None:
        """Add the panels (panel, d_ff - start) of a `BlockSum` of this size, on any device."""
        start = 0
        for panel in panels:
            self.upper[start : start + len(panel), start:] += panel.to(self.upper.device)
            start += len(panel)

    def total(self) -> torch.Tensor:
        """The symmetric sum (d_ff, d_ff) in float64."""
        # panels hold some entries below the diagonal too: they are replaced, not added
        return self.upper.triu() + self.upper.triu(1).T


def _panel(size: int) -> int:
    """Rows of a panel, rounded up; the last one may have fewer."""
    return -(-size // PANELS)


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
            if is_no_damage(error):
                raise
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


@dataclass(frozen=True)
class Common:
    """The places that all blocks of a pass share, and whether products are in bfloat16."""

    places: tuple[Measured, ...]
    bfloat16: bool


def accumulate(
    base: LoadedModel,
    batches: Sequence[Documents],
    start: MomentSums,
    after_block: Callable[[MomentSums], None],
    monitor: Monitor = NOTHING,
    *,
    bfloat16: bool = False,
    executor: Executor = HERE,
) -> MomentSums:
    """One pass for all places of ``start``, over the batches that it has not seen yet.

    Blocks of at least ``BLOCK_TOKENS`` tokens, which the batches alone decide about, are summed by
    ``executor`` and added in their order, so the sums have the same bits whoever does them.

    ``monitor`` may end the pass before every batch and receives the tokens so far (phase
    "moments").  ``after_block`` is given the sums so far whenever a block was added; sums are
    symmetric only in what is returned.  ``bfloat16``: the model's own products are taken in that
    type; those of keys with themselves never are.

    Raises:
        NumericalError: the keys of a place are not finite.
        WorkersLost, NoCluster: the executor's workers are gone.
        Whatever ``monitor.check`` raises.
    """
    places = tuple(sorted(start.keys, key=in_order))
    totals = {
        place: TotalSum(size_of(base, place), base.device_of(place), start.sums.get(place))
        for place in places
    }
    blocks = _blocks(batches[start.batches :], places)
    sizes = [sum(tokens_of(rows, places) for rows in block) for block in blocks]
    count, done = start.count, start.batches
    said, tokens = -1, sum(len(row) for rows in batches for row in rows)

    def add(number: int, found: Mapping[Measured, Sequence[torch.Tensor]]) -> None:
        nonlocal count, done
        for place, panels in found.items():
            totals[place].add(panels)
        count, done = count + sizes[number], done + len(blocks[number])
        # without a copy: they are right until the next block is added
        sums = {place: total.upper for place, total in totals.items()}
        after_block(replace(start, sums=sums, count=count, batches=done))

    def report(phase: str, read: int, _: int) -> None:
        nonlocal said
        if start.count + read > said:
            said = start.count + read
            monitor.report(phase, said, tokens)

    work = Work(TASK, "moments", Common(places, bfloat16), blocks, sizes, streamed=True)
    executor.run(work, Bench(ModelView(base), monitor.reporting(report)), add)
    return replace(
        start,
        # popped, so that each upper triangle is freed as its symmetric sum is made
        sums={place: totals.pop(place).total() for place in places},
        count=count,
        batches=0,
    )


def _blocks(batches: Sequence[Documents], places: Sequence[Measured]) -> list[list[Documents]]:
    """Batches that are summed together: from the first one on, until there are tokens enough."""
    found: list[list[Documents]] = []
    tokens = BLOCK_TOKENS
    for rows in batches:
        if tokens >= BLOCK_TOKENS:
            found.append([])
            tokens = 0
        found[-1].append(rows)
        tokens += tokens_of(rows, places)
    return found


@torch.no_grad()
def block_unit(
    bench: Bench, common: Common, unit: Sequence[Documents]
) -> dict[Measured, list[torch.Tensor]]:
    """The panels (panel, d_ff - start) of Σ k kᵀ over a block of batches, by place.

    Raises:
        NumericalError: the keys of a place are not finite.
        Whatever ``monitor.check`` raises; it is called before every batch.
    """
    base, monitor = bench.view.base, bench.monitor
    # its matrices may be in another type, so it is made once for all blocks
    reading = bench.made(
        "reading of moments", lambda: reading_of(base, common.places, common.bfloat16)
    )
    sums = {place: BlockSum(size_of(base, place), base.device_of(place)) for place in common.places}
    total, count = sum(tokens_of(rows, common.places) for rows in unit), 0
    with _float32_products(), giving_way(reading.view, monitor):
        for rows in unit:
            monitor.check()
            count += reading.run(rows, lambda place, read: sums[place].add(read))
            monitor.report("moments", count, total)
    return {place: found.panels(f"layer {place}") for place, found in sums.items()}


@contextmanager
def _float32_products() -> Iterator[None]:
    """Full float32 in matrix products on a GPU (no TF32), whatever else is set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
