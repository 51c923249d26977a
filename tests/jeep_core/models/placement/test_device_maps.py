"""Maps of blocks to devices: how they are written, what is refused, and the balanced one."""

from __future__ import annotations

from itertools import combinations_with_replacement, pairwise

import pytest
from support.library.folders import MakeFolder, config

from jeep_core.errors import UnsupportedModel
from jeep_core.models.loading import load
from jeep_core.models.placement.device_map import Layout, balanced, check_form, is_map, layout_of


@pytest.mark.parametrize(
    ("text", "ends", "blocks"),
    [
        ("0-3@cuda:0", "cuda:0", ["cuda:0"] * 4),
        ("0-1@cuda:0,2-3@cuda:1", "cuda:0", ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]),
        (" 3@cpu, 0-2@cuda:1", "cuda:1", ["cuda:1", "cuda:1", "cuda:1", "cpu"]),
        ("ends@cpu,0-3@cuda", "cpu", ["cuda"] * 4),
    ],
)
def test_a_map_names_the_device_of_every_block(text: str, ends: str, blocks: list[str]) -> None:
    layout = layout_of(text, 4)
    assert (layout.ends, list(layout.blocks)) == (ends, blocks)
    assert layout.devices[0] == ends
    again = str(layout)
    assert layout == (layout_of(again, 4) if is_map(again) else Layout(again, (again,) * 4))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0-1@cuda:0", "block 2 has no device; this model has the blocks 0-3"),
        ("1-3@cuda:0", "block 0 has no device"),
        ("0-1@cuda:0,3@cuda:1", "block 2 has no device"),
        ("0-4@cuda:0", "there is no block 4; this model has the blocks 0-3"),
        ("0-2@cuda:0,2-3@cuda:1", "block 2 has two devices"),
        ("ends@cpu,ends@cuda,0-3@cpu", "the ends have two devices"),
        ("3-0@cuda:0", "'3-0@cuda:0' has no block"),
        ("model.layers.0@cuda:0", "'model.layers.0@cuda:0' makes no sense; write ranges"),
        ("0-3@", "'0-3@' makes no sense"),
        ("0-3@cuda:0,", "'' makes no sense"),
        ("0-99999999999@cpu", "'0-99999999999@cpu' has more blocks than any model"),
        (f"{'9' * 5000}@cpu", "has more blocks than any model"),
        ("tp", "matrices are not divided among devices (tensor parallelism)"),
    ],
)
def test_what_fits_no_model_is_refused(text: str, said: str) -> None:
    assert is_map(text)
    with pytest.raises(UnsupportedModel) as refused:
        layout_of(text, 4)
    assert said in str(refused.value)
    assert text in str(refused.value)


def test_a_long_map_is_looked_through_once() -> None:
    # looking each block up among all of them took a minute
    check_form("0-49999@cuda:0,50000-99999@cuda:1")
    with pytest.raises(UnsupportedModel, match="block 99999 has two devices"):
        check_form("0-99999@cuda:0,99999@cuda:1")


def test_names_of_devices_are_checked_without_a_model() -> None:
    check_form("0-39@cuda:0,40-79@cuda:1", "cpu|cuda(:[0-9]+)?")
    check_form("balanced", "cpu")
    with pytest.raises(UnsupportedModel, match="'gpu1' is no device"):
        check_form("0-39@cuda:0,40-79@gpu1", "cpu|cuda(:[0-9]+)?")


def test_a_device_that_is_not_there_is_refused_before_weights_are_read(
    make_folder: MakeFolder,
) -> None:
    folder = make_folder("llama", lambda made: (made / "model.safetensors").chmod(0))
    with pytest.raises(UnsupportedModel, match="device 'cuda:7' cannot be used here"):
        load(str(folder), device="0-1@cpu,2-3@cuda:7")
    for device in ("meta", "0-1@cpu,2-3@meta"):
        with pytest.raises(UnsupportedModel, match="device 'meta' cannot be used here"):
            load(str(folder), device=device)
    with pytest.raises(UnsupportedModel, match="'balanced' needs two GPUs"):
        load(str(folder), device="balanced")


def test_quantised_weights_are_refused_with_a_map_as_without(make_folder: MakeFolder) -> None:
    folder = make_folder("llama", config(quantization_config={"quant_method": "gptq", "bits": 4}))
    with pytest.raises(UnsupportedModel, match="quantised weights cannot be edited"):
        load(str(folder), device="0-1@cpu,2-3@cpu")


@pytest.mark.parametrize("ends", [0, 3, 7, 50])
@pytest.mark.parametrize("blocks", [[4] * 9, [1, 2, 3, 4, 5, 6], [5]])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_fullest_device_of_a_balanced_map_holds_least(
    blocks: list[int], ends: int, count: int
) -> None:
    def fullest(cuts: tuple[int, ...]) -> int:
        bounds = [0, *cuts, len(blocks)]
        sums = [0, *(sum(blocks[a:b]) for a, b in pairwise(bounds))]
        return max(sums[1] + ends, *sums[2:], 0)

    # every way to cut the blocks; a device may get none
    cuts = combinations_with_replacement(range(len(blocks) + 1), count - 1)
    least = min(map(fullest, cuts))
    names = [f"cuda:{i}" for i in range(count)]
    layout = balanced(blocks, ends, names)
    held = dict.fromkeys(names, 0) | {"cuda:0": ends}
    for device, size in zip(layout.blocks, blocks, strict=True):
        held[device] += size
    assert max(held.values()) == least
    assert list(layout.blocks) == sorted(layout.blocks)
