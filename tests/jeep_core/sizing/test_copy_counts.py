"""Copies of matrices in bfloat16 that plans count, against those that are held."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.library import tiny

from jeep_core.models.fused import rounding
from jeep_core.models.fused.bounds import KEPT_BYTES
from jeep_core.models.fused.twin import Twin
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.reading import reading_of
from jeep_core.moments.source import TOKENS_OF_DEFAULT
from jeep_core.sizing import copies as counting
from jeep_core.sizing.architecture import Architecture, architecture_of
from jeep_core.sizing.copies import Copies, all_of, copies
from jeep_core.sizing.demand import Editing, Settings, Workload, editing_of
from jeep_core.sizing.memory import need
from jeep_core.sizing.source import known_model
from jeep_core.sizing.split import need_on, parts_of

LOAD = Workload(2, prefix=0, left=2, segment=3, answer=1)
GPU = Settings(dtype="float32")


def architecture(base: LoadedModel) -> Architecture:
    record: dict[str, Any] = json.loads(base.model.config.to_json_string(use_diff=True))
    return architecture_of(record, base.name)


def bfloat16(arch: Architecture, editor: str) -> Editing:
    return editing_of(arch, "tiny", editor, changes={"compute_dtype": "bfloat16"})


def held(made: Iterable[Any]) -> int:
    """The bytes of copies, each memory once."""
    found = {one.rounded.untyped_storage().data_ptr(): one.rounded for one in made}
    return sum(one.untyped_storage().nbytes() for one in found.values())


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2"])
@pytest.mark.parametrize("editor", ["jeep", "ultraedit"])
@pytest.mark.parametrize("bound", [KEPT_BYTES, 0])
def test_the_copies_of_an_edit_are_counted(
    editor: str, family: str, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one on top of another one that wrote the same matrices, which are all written again."""
    for module in (rounding, counting):
        monkeypatch.setattr(module, "KEPT_BYTES", bound)
    base = tiny.random_model(family)
    arch = architecture(base)
    editing = bfloat16(arch, editor)
    layers = [layer for region in editing.regions for layer in region.layers]
    names = [base.family.weight_name(layer) for layer in layers]
    Twin(ModelView(base)).now()  # the first edit
    view = ModelView(base)
    twin = Twin(view)
    for _ in range(3):
        for name in names:
            view.replace(name, view.parameter(name) + 1)
            twin.now()
    counted = copies(arch, arch, editing, LOAD, GPU, len(names) * arch.d * arch.d_ff)
    kept = held(rounding._models[base.model].made.values())
    assert kept == pytest.approx(counted.kept, rel=0.05)
    assert held(twin._rounded._made.values()) == pytest.approx(counted.editing, rel=0.05)
    assert bool(counted.kept) == bool(bound)


@pytest.mark.parametrize("editor", ["jeep", "ultraedit"])
def test_what_is_kept_is_held_while_nothing_is_edited_and_while_clients_ask(editor: str) -> None:
    arch = known_model("smollm2-135m").architecture
    found = need(arch, bfloat16(arch, editor), LOAD, GPU)
    fewer = need(arch, editing_of(arch, "tiny", editor), replace(LOAD, per_dimension=10), GPU)
    every = all_of(arch)
    assert (found.copies, fewer.copies) == (every, 0)
    assert found.standing - fewer.standing == every
    written = 2 * arch.d * arch.d_ff * len(bfloat16(arch, editor).matrices)
    for name in ("writing", "gradients" if editor == "ultraedit" else "values"):
        assert found.peaks[name] - fewer.peaks[name] == every + written
    assert need(arch, bfloat16(arch, editor), LOAD, Settings("bfloat16")).copies == 0


def test_a_large_model_has_its_copies_during_an_edit_alone() -> None:
    arch = known_model("llama-3.1-8b").architecture
    editing = bfloat16(arch, "jeep")
    found = copies(arch, arch, editing, LOAD, GPU, 1000)
    assert found == Copies(kept=0, editing=all_of(arch), moments=all_of(arch))
    assert need(arch, editing, LOAD, GPU).standing == need(
        arch, replace(editing, bfloat16=False), LOAD, GPU
    ).standing  # fmt: skip


def test_second_moments_have_copies_where_they_are_taken_quickly() -> None:
    arch = known_model("smollm2-135m").architecture
    plain = editing_of(arch, "tiny", "jeep", changes={"compute_dtype": "model"})
    every = all_of(arch)

    def of(settings: Settings, per_dimension: int = TOKENS_OF_DEFAULT) -> Copies:
        return copies(arch, arch, plain, replace(LOAD, per_dimension=per_dimension), settings, 1)

    assert of(GPU) == Copies(kept=every)  # which the first pass makes
    # by a command of its own, whose copies go with it
    assert of(replace(GPU, layers_at_once=1)) == Copies(moments=every)
    for none in (
        of(GPU, per_dimension=10),
        of(replace(GPU, dtype="float16")),
        of(replace(GPU, device="cpu")),
        of(replace(GPU, layers_at_once=0)),
    ):
        assert none == Copies()


@pytest.mark.parametrize(("editor", "some"), [("locft", False), ("crispedit", True)])
def test_an_editor_without_second_moments_has_no_copies_for_them(editor: str, some: bool) -> None:
    arch = known_model("smollm2-135m").architecture
    editing = editing_of(arch, "tiny", editor)
    assert not editing.bfloat16
    expected = Copies(kept=all_of(arch)) if some else Copies()
    assert copies(arch, arch, editing, LOAD, GPU, 1) == expected


def test_second_moments_take_the_copies_of_edits() -> None:
    base = tiny.random_model("llama")
    name = "model.layers.0.mlp.up_proj.weight"
    read = reading_of(base, [1], bfloat16=True).view.model.get_parameter(name)
    assert read.dtype == torch.bfloat16
    edited = Twin(ModelView(base)).now().model.get_parameter(name)
    assert read.untyped_storage().data_ptr() == edited.untyped_storage().data_ptr()


@pytest.mark.parametrize("model", ["smollm2-135m", "llama-3.1-8b"])
def test_the_copies_of_several_gpus_are_those_of_the_model(model: str) -> None:
    arch = known_model(model).architecture
    editing = bfloat16(arch, "jeep")
    parts = parts_of(arch, 3)
    found = [need_on(part, arch, editing, LOAD, GPU) for part in parts]
    plain = [need_on(part, arch, replace(editing, bfloat16=False), LOAD, GPU) for part in parts]
    whole = need(arch, editing, LOAD, GPU)
    assert sum(one.copies for one in found) == whole.copies
    more = sum(
        one.parts["writing"] - other.parts["writing"]
        for one, other in zip(found, plain, strict=True)
    )
    without = need(arch, replace(editing, bfloat16=False), LOAD, GPU)
    assert more == whole.parts["writing"] - without.parts["writing"] > 0
