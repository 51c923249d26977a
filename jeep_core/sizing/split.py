"""Bytes on each of several GPUs over which the blocks of a model are spread.

The blocks are cut as ``JEEP_DEVICE=balanced`` does it: by what they weigh, with embedding, final
norm and head on the first GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from jeep_core.models.placement.device_map import balanced
from jeep_core.sizing import gradients
from jeep_core.sizing.architecture import Architecture
from jeep_core.sizing.demand import Editing, Settings, Workload, Written
from jeep_core.sizing.memory import Need, factors_kept, moments, need, put_together, values, writing

Held = Callable[[Architecture, Editing, Workload, Settings], Need]
"""What a GPU holds."""


@dataclass(frozen=True)
class Part:
    """A GPU's part of a model: its blocks, and whether the ends lie there."""

    blocks: range
    ends: bool

    def __str__(self) -> str:
        """In words."""
        found = ["embedding and head"] if self.ends else []
        if len(self.blocks):
            first, last = self.blocks[0], self.blocks[-1]
            found.append(f"blocks {first}-{last}" if last > first else f"block {first}")
        return ", ".join(found)


def parts_of(arch: Architecture, gpus: int) -> tuple[Part, ...]:
    """The parts of so many GPUs; the last ones are left out where there are more than blocks."""
    block = arch.block_parameters
    return _cut(arch.layers, block, arch.parameters - arch.layers * block, gpus)


@cache
def _cut(layers: int, block: int, ends: int, gpus: int) -> tuple[Part, ...]:
    layout = balanced([block] * layers, ends, [str(number) for number in range(gpus)])
    found = []
    for name in layout.devices:
        first = layout.blocks.index(name) if name in layout.blocks else 0
        blocks = range(first, first + layout.blocks.count(name))
        found.append(Part(blocks, name == layout.ends))
    return tuple(found)


def fullest(gpus: int) -> Held:
    """The bytes on the GPU that holds most, of so many."""
    if gpus == 1:
        return need

    def held(arch: Architecture, editing: Editing, load: Workload, settings: Settings) -> Need:
        every = (need_on(part, arch, editing, load, settings) for part in parts_of(arch, gpus))
        return max(every, key=lambda found: found.total)

    return held


def need_on(
    part: Part, arch: Architecture, editing: Editing, load: Workload, settings: Settings
) -> Need:
    """The bytes on the GPU of one part, with the first edit."""
    blocks = len(part.blocks)
    ends = arch.parameters - arch.layers * arch.block_parameters
    # logits are where the head is
    own = replace(arch, layers=blocks, vocabulary=arch.vocabulary if part.ends else 0)
    here = _within(editing, part.blocks)
    if editing.follows is not None:
        sizes = _by_gradients(own, part, here, editing, load, settings)
    else:
        kept = factors_kept(own, here, load, settings)
        sizes = {
            "moments": moments(own, here, settings) if _runs(part, editing) else 0.0,
            "values": kept + _values(own, part, editing, load, settings),
            "writing": kept + writing(own, here, load, settings),
        }
    parameters = blocks * arch.block_parameters + part.ends * ends
    return put_together(own, arch, here, load, settings, sizes, parameters)


def _within(editing: Editing, blocks: range) -> Editing:
    """The layers among these blocks, for what is counted by matrix; there may be none."""
    cut = (
        replace(one, layers=tuple(layer for layer in one.layers if layer in blocks))
        for one in editing.regions
    )
    return replace(editing, regions=tuple(one for one in cut if one.layers))


def _runs(part: Part, editing: Editing) -> bool:
    """Whether a pass that ends at the last layer written reaches this part."""
    return part.ends or any(block <= editing.last for block in part.blocks)


def _values(
    own: Architecture, part: Part, editing: Editing, load: Workload, settings: Settings
) -> float:
    """Value optimisation: as of a model that has this part's blocks above the optimised one."""
    upper = sum(block > editing.low_last for block in part.blocks)
    if not (upper or part.ends):
        return 0.0
    model = replace(own, layers=editing.low_last + 1 + max(1, upper))
    return values(model, editing, load, settings)


def _by_gradients(
    own: Architecture,
    part: Part,
    here: Editing,
    editing: Editing,
    load: Workload,
    settings: Settings,
) -> dict[str, float]:
    """The same of editors that follow gradients; one matrix is counted where none is written."""
    upper = sum(block > editing.first for block in part.blocks)
    if not (upper or part.ends or here.matrices):
        return {"moments": 0.0, "gradients": 0.0}
    region = Written("mlp", tuple(range(max(1, len(here.matrices)))), False, False)
    moved = replace(editing, regions=(region,))
    model = replace(own, layers=1 + upper)
    found = gradients.parts(model, moved, load, settings)
    kept = gradients.moments_kept(model, moved, settings.factor_bytes)
    sums = found.pop("moments", 0.0)
    return {
        "moments": 0.0 if settings.layers_at_once == 0 else sums,
        **{name: kept + size for name, size in found.items()},
    }
