"""The device of every block, as text: ``0-39@cuda:0,40-79@cuda:1``, or ``balanced``.

Nothing here needs torch: settings are checked, and plans made, without it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from jeep_core.errors import UnsupportedModel

BALANCED = "balanced"
"""Over all GPUs of the machine, so that the fullest has as little as possible."""
ENDS = "ends"
"""Embedding, final norm and head, which lie together: where tokens come in and logits come out."""
DEVICE = r"cpu|mps|cuda(:[0-9]+)?"
"""The devices that a setting may name."""
HOW = "write ranges of blocks with their devices, as in 0-39@cuda:0,40-79@cuda:1, or balanced"
MOST_BLOCKS = 100_000
"""More than any model has: a slip of the pen shall not be counted through."""
_PART = re.compile(rf"({ENDS}|(\d+)(?:-(\d+))?)@(.+)")
_WITHIN_BLOCKS = ("tp", "tp_plan", "tensor_parallel")


@dataclass(frozen=True)
class Layout:
    """The device of every block by name, and of the ``ends``."""

    ends: str
    blocks: tuple[str, ...]

    @property
    def devices(self) -> tuple[str, ...]:
        """Each device once, that of the ends first."""
        return tuple(dict.fromkeys((self.ends, *self.blocks)))

    def __str__(self) -> str:
        """As it is written in a setting; a single device by its name."""
        if len(self.devices) == 1:
            return self.ends
        parts = [] if self.ends == self.blocks[0] else [f"{ENDS}@{self.ends}"]
        start = 0
        for device, group in groupby(self.blocks):
            last = start + len(list(group)) - 1
            parts.append(f"{start}@{device}" if start == last else f"{start}-{last}@{device}")
            start = last + 1
        return ",".join(parts)


def is_map(text: str) -> bool:
    """Whether this names several devices, not a single one."""
    return "@" in text or text == BALANCED or text in _WITHIN_BLOCKS


def check_form(text: str, device: str = ".+") -> None:
    """Refuse a map that is none for any model; ``device`` is what a device's name must match.

    Raises:
        UnsupportedModel: it is not written as one, or has a block twice.
    """
    if text == BALANCED:
        return
    for _, name in _parts(text):
        if not re.fullmatch(device, name):
            raise UnsupportedModel(f"device map {text!r}: {name!r} is no device; {HOW}")


def layout_of(text: str, n_layers: int) -> Layout:
    """The layout of a model with ``n_layers`` blocks that a map describes.

    Where it does not name the ends, they are beside the first block.

    Raises:
        UnsupportedModel: it is not written as one, or has a block twice, or not all blocks, or some
            that the model lacks.
    """
    named = dict(_parts(text))
    unknown = sorted(block for block in named if block is not None and block >= n_layers)
    have = f"this model has the blocks 0-{n_layers - 1}"
    if unknown:
        raise UnsupportedModel(f"device map {text!r}: there is no block {unknown[0]}; {have}")
    missing = [block for block in range(n_layers) if block not in named]
    if missing:
        raise UnsupportedModel(f"device map {text!r}: block {missing[0]} has no device; {have}")
    blocks = tuple(named[block] for block in range(n_layers))
    return Layout(named.get(None, blocks[0]), blocks)


def balanced(blocks: Sequence[int], ends: int, devices: Sequence[str]) -> Layout:
    """The layout in which the fullest device holds least.

    Args:
        blocks: bytes of each block.
        ends: bytes of what lies beside them, on the first device.
        devices: names; the last ones stay empty where there are more than are of use.
    """
    sums = [0]
    for size in blocks:
        sums.append(sums[-1] + size)
    # some device is exactly full in the best layout: with blocks alone, or with the ends as well
    spans = {b - a for i, a in enumerate(sums) for b in sums[i:]}
    bounds = sorted(spans | {ends + b for b in sums})
    best = bisect_left(bounds, True, key=lambda bound: _filled(blocks, ends, bound) <= len(devices))
    return Layout(devices[0], tuple(devices[i] for i in _places(blocks, ends, bounds[best])))


def _filled(blocks: Sequence[int], ends: int, bound: int) -> int:
    """How many devices of ``bound`` bytes it takes; too many to have where a part is larger."""
    if bound < max(ends, *blocks):
        return len(blocks) + 2
    return _places(blocks, ends, bound)[-1] + 1


def _places(blocks: Sequence[int], ends: int, bound: int) -> list[int]:
    """The number of each block's device, each filled up to ``bound`` before the next."""
    found, device, held = list[int](), 0, ends
    for size in blocks:
        if held + size > bound:
            device, held = device + 1, 0
        held += size
        found.append(device)
    return found


def _parts(text: str) -> list[tuple[int | None, str]]:
    """Block and device; None are the ends."""
    if text in _WITHIN_BLOCKS:
        raise UnsupportedModel(
            f"device {text!r}: matrices are not divided among devices (tensor parallelism), since "
            f"an edit reads and writes whole ones: spread the blocks instead; {HOW}"
        )
    found: dict[int | None, str] = {}
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise UnsupportedModel(f"device map {text!r}: {part.strip()!r} makes no sense; {HOW}")
        name, first, last, device = match.groups()
        for block in [None] if name == ENDS else _span(text, part, first, last or first):
            if block in found:
                what = "the ends have" if block is None else f"block {block} has"
                raise UnsupportedModel(f"device map {text!r}: {what} two devices; {HOW}")
            found[block] = device
    return list(found.items())


def _span(text: str, part: str, first: str, last: str) -> range:
    # by their length first: a number of thousands of digits is not even read
    if max(len(first), len(last)) > len(str(MOST_BLOCKS)) or int(last) >= MOST_BLOCKS:
        raise UnsupportedModel(
            f"device map {text!r}: {part.strip()!r} has more blocks than any model; {HOW}"
        )
    span = range(int(first), int(last) + 1)
    if not span:
        raise UnsupportedModel(f"device map {text!r}: {part.strip()!r} has no block; {HOW}")
    return span
