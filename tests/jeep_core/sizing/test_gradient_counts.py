"""What editors that optimise no values are counted to need, against what they do."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.library import tiny
from torch.autograd.graph import saved_tensors_hooks

from jeep_core.editors import hparams_class
from jeep_core.editors.record import PAIRED_ROWS as PAIRED
from jeep_core.editors.record import EditorRecord, Following
from jeep_core.errors import InvalidHParams
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.sizing import demand, gradients
from jeep_core.sizing.architecture import Architecture, architecture_of
from jeep_core.sizing.demand import Editing, Settings, Workload, Written, editing_of
from jeep_core.spec.facts import Fact
from jeep_core.spec.positions import PromptTokens, fact_rows
from jeep_core.values.gradient_pairs import enter, gradient_pairs, read, shifted
from jeep_core.values.objective import FactTokens

FACT = Fact("Paris", "{} is a city in the country of", "Peru")
REGIONS = (Written("mlp", (1,), False, False),)
TUNING = Editing("tuned", REGIONS, 1, 3, follows=Following((1,), 3, tunes=True))
ONCE = Editing("paired", REGIONS, 1, 1, follows=Following((1,), every_token=True))


def architecture(base: LoadedModel) -> Architecture:
    record: dict[str, Any] = json.loads(base.model.config.to_json_string(use_diff=True))
    return architecture_of(record, base.name)


def workload(row: PromptTokens, facts: int = 1) -> Workload:
    left = row.subject_last
    segment = row.prediction + row.n_target - left
    return Workload(facts, prefix=0, left=left, segment=segment, answer=row.n_target)


class Saved:
    """Counts the bytes that a forward pass keeps, each tensor once, and those of no weight."""

    def __init__(self, base: LoadedModel) -> None:
        self.bytes = 0
        self.seen = {one.untyped_storage().data_ptr() for one in base.model.parameters()}
        self.kept: list[torch.Tensor] = []

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.kept.append(tensor.detach())
            self.bytes += storage.nbytes()
        return tensor.detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_what_a_backward_pass_keeps_is_what_is_counted(family: str, dtype: torch.dtype) -> None:
    base = tiny.random_model(family, dtype)
    view, arch = ModelView(base), architecture(base)
    row = FactTokens(*fact_rows(base.tokenizer, FACT, ("",))).rows[0]
    tuned, paired = Saved(base), Saved(base)
    delta = torch.zeros(base.hidden_size, base.mlp_size).requires_grad_()
    tuned.seen.add(delta.untyped_storage().data_ptr())
    entered = enter(view, [row] * 8, 1)
    taken = saved_tensors_hooks(tuned, lambda tensor: tensor)
    with torch.enable_grad(), shifted(view, {1: delta}), taken:
        read(view, [row] * 8, entered).nll(8)
    with saved_tensors_hooks(paired, lambda tensor: tensor):
        gradient_pairs(view, [row] * 8, [1])
    for editing, found in ((TUNING, tuned), (ONCE, paired)):
        counted = 8 * gradients.kept(arch, editing, workload(row), dtype.itemsize)
        assert found.bytes == pytest.approx(counted, rel=0.15), editing.editor


@pytest.mark.parametrize("editor", ["ft-wd", "locft", "crispedit", "ultraedit", "mend", "malmen"])
def test_passes_batches_and_layers_are_those_of_the_hyper_parameters(editor: str) -> None:
    arch = architecture(tiny.random_model("llama"))
    field = "layer" if editor == "ft-wd" else "layers"
    found = editing_of(arch, "tiny", editor, changes={field: 2 if editor == "ft-wd" else [2]})
    values = {name: one.default for name, one in hparams_class(editor).model_fields.items()}
    follows = found.follows
    assert follows is not None
    assert found.regions[0].layers == (2,)
    assert follows.batch == values.get("batch_facts", PAIRED)
    assert found.passes == values.get("n_passes", values.get("n_steps", 1))
    assert follows.rank == values.get("rank", 0)
    assert follows.ends == int(values.get("end_of_text", False))


def test_more_passes_rows_and_layers_cost_more() -> None:
    arch = architecture(tiny.random_model("llama"))
    load, settings = workload(PromptTokens((1,) * 9, 3, 6, 2), 16), Settings("float32", "cpu")

    def cost(editing: Editing, passes: float = 1) -> float:
        parts = gradients.work_of(arch, editing, load, settings, passes)
        shares = [work.operations for name, work in parts.items() if name != "measuring"]
        return sum(shares)

    deeper = replace(TUNING, regions=(Written("mlp", (2,), False, False),))
    assert cost(TUNING, 2) > 1.5 * cost(TUNING)
    assert cost(deeper) < cost(TUNING), "blocks below the layer have no backward pass"
    solved = replace(ONCE, follows=Following((1,), solves=True))
    assert cost(replace(solved, rows=3)) > 2 * cost(solved)
    searched = replace(ONCE, follows=Following((1,), solves=True, tries=9))
    assert cost(searched) > 3 * cost(solved)
    network = Following((1,), every_token=True, blocks=2, rank=64)
    assert cost(replace(ONCE, follows=network)) > cost(ONCE)


def test_an_editor_whose_record_says_nothing_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arch = architecture(tiny.random_model("llama"))
    silent = EditorRecord(hparams_class("locft"), "nowhere:Editor")
    monkeypatch.setattr(demand, "record_of", lambda _: silent)
    with pytest.raises(InvalidHParams, match="the memory and time of locft are not counted"):
        editing_of(arch, "tiny", "locft")


@pytest.mark.parametrize(("dtype", "expected"), [("float32", True), ("bfloat16", False)])
@pytest.mark.parametrize("editor", ["jeep", "ultraedit", "locft"])
def test_a_float32_model_without_a_preset_is_edited_with_bfloat16_products(
    editor: str, dtype: str, expected: bool
) -> None:
    """As a probe has it on a device that is quick at them."""
    arch = architecture(tiny.random_model("llama"))
    found = editing_of(arch, "tiny", editor, dtype=dtype)
    assert found.bfloat16 is (expected and editor != "locft")
    given = {"compute_dtype": "model"} if editor != "locft" else {}
    assert not editing_of(arch, "tiny", editor, dtype=dtype, changes=given).bfloat16
