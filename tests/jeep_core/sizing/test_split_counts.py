"""Bytes on each of several GPUs, against those of one GPU that holds everything."""

from __future__ import annotations

import pytest

from jeep_core.editors import EDITORS
from jeep_core.sizing.architecture import BYTES
from jeep_core.sizing.demand import Settings, Workload, editing_of
from jeep_core.sizing.memory import need
from jeep_core.sizing.source import known_model
from jeep_core.sizing.split import need_on, parts_of

LOAD = Workload(facts=16)


@pytest.mark.parametrize("editor", sorted(EDITORS))
def test_one_gpu_with_all_blocks_holds_what_a_model_needs(editor: str) -> None:
    arch = known_model("llama-3.1-8b").architecture
    editing = editing_of(arch, "llama-3.1-8b", editor, facts=16)
    settings = Settings(dtype="bfloat16")
    [part] = parts_of(arch, 1)
    whole = need(arch, editing, LOAD, settings)
    found = need_on(part, arch, editing, LOAD, settings)
    assert found.peaks == pytest.approx(whole.peaks)
    assert found.standing == whole.standing


@pytest.mark.parametrize("model", ["llama-3.1-70b", "gemma-3-27b", "gpt-j-6b"])
@pytest.mark.parametrize("gpus", [2, 3, 8])
def test_parts_add_up_to_the_model(model: str, gpus: int) -> None:
    arch = known_model(model).architecture
    editing = editing_of(arch, model, "jeep", facts=16)
    settings = Settings(dtype="bfloat16")
    whole = need(arch, editing, LOAD, settings)
    parts = parts_of(arch, gpus)
    assert [block for part in parts for block in part.blocks] == list(range(arch.layers))
    assert [part.ends for part in parts] == [True] + [False] * (len(parts) - 1)
    found = [need_on(part, arch, editing, LOAD, settings) for part in parts]
    assert sum(one.weights for one in found) == arch.parameters * BYTES["bfloat16"]
    assert sum(one.versions for one in found) == whole.versions
    assert max(one.weights for one in found) < 1.35 * whole.weights / gpus
    # what a prompt that joins holds is there on every GPU
    kept = LOAD.clients * LOAD.context * arch.kv_bytes(2)
    assert sum(one.decoding for one in found) >= whole.decoding >= kept
    assert all(one.total < whole.total for one in found)
