"""Adapters: PEFT and transformers make the version of the base model with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support.library import tiny
from support.library.exported import edited, factored, loaded, logits
from torch import nn
from transformers import AutoModelForCausalLM

from jeep_core.errors import Cancelled, NotExportable, RankTooHigh
from jeep_core.exports.adapter import Change, Limits, Written, changes_of, write_adapter
from jeep_core.models.delta import Update
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor, stop_if

# peft 0.21 reads an attribute that transformers 5.24 has given another name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

FAMILIES = ("gpt2", "gptj", "gpt_neox", "llama", "qwen3", "gemma", "gemma3_text")


def written(folder: Path, view: ModelView, **arguments: Any) -> Written:
    folder.mkdir()
    return write_adapter(folder, changes_of(view.base, view.history), view.base.name, **arguments)


def one_matrix(updates: Sequence[Update]) -> list[Change]:
    return [Change("model.layers.1.mlp.down_proj", updates, transposed=False)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", ["peft", "transformers"])
def test_the_base_with_the_adapter_is_the_version(tmp_path: Path, family: str, way: str) -> None:
    view = edited(loaded(tmp_path / "base", family))
    report = written(tmp_path / "adapter", view)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    before = logits(model)
    if way == "peft":
        model = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    else:
        model.load_adapter(str(tmp_path / "adapter"))
        model.eval()
    wanted = logits(view.model)
    assert (before - wanted).abs().max() > 0.1
    assert torch.allclose(logits(model), wanted, rtol=1e-4, atol=2e-4)
    assert report.rank == 5
    assert [m.rank for m in report.modules] == [m.rank_needed for m in report.modules]
    assert {m.rank for m in report.modules} == {5, 4, 1}
    assert report.error < 1e-6


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_merged_by_peft_the_matrices_are_those_of_the_version(tmp_path: Path, family: str) -> None:
    view = edited(loaded(tmp_path / "base", family))
    written(tmp_path / "adapter", view)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    for name, tensor in view.replaced.items():
        assert torch.allclose(merged.get_parameter(name), tensor, rtol=0, atol=1e-6), name


def test_the_files_say_all_that_loaders_differ_in(tmp_path: Path) -> None:
    view = edited(loaded(tmp_path / "base", "gpt2"))
    written(tmp_path / "adapter", view)
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (5, 5)
    assert config["fan_in_fan_out"] is True
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    names = ["transformer.h.1.mlp.c_proj", "transformer.h.2.mlp.c_proj"]
    names += ["transformer.h.3.attn.c_proj"]
    assert config["target_modules"] == names
    tensors = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert set(tensors) == {
        f"base_model.model.{name}.lora_{side}.weight" for name in names for side in "AB"
    }
    assert tensors["base_model.model.transformer.h.2.mlp.c_proj.lora_A.weight"].shape == (5, 128)
    assert tensors["base_model.model.transformer.h.2.mlp.c_proj.lora_B.weight"].shape == (32, 5)
    # the padding of the smaller ones
    assert not tensors["base_model.model.transformer.h.3.attn.c_proj.lora_A.weight"][1:].any()


def test_columns_that_depend_on_others_cost_no_rank(tmp_path: Path) -> None:
    first = factored(32, 96, 3, seed=1)
    assert first.left is not None
    assert first.right is not None
    again = Update(left=first.left * 0.5, right=first.right)  # the same keys once more
    report = write_adapter(tmp_path, one_matrix([first, again]), "base")
    assert report.rank == 3
    assert report.error < 1e-6


def test_a_dense_change_of_a_low_rank_gets_that_rank(tmp_path: Path) -> None:
    low = factored(32, 96, 4, seed=1)
    dense = Update(dense=low.matrix().float())
    report = write_adapter(tmp_path, one_matrix([dense, factored(32, 96, 2, seed=2)]), "base")
    assert report.rank == 6
    assert report.error < 1e-6


def dense_change() -> tuple[list[Change], torch.Tensor]:
    """A change of full rank, and its singular values."""
    dense = torch.randn(32, 96, generator=torch.Generator().manual_seed(3))
    return one_matrix([Update(dense=dense)]), torch.linalg.svdvals(dense.double())


def test_a_dense_change_of_full_rank_is_refused_with_the_rank_it_needs(tmp_path: Path) -> None:
    changes, _ = dense_change()
    with pytest.raises(RankTooHigh, match=r"needs rank 32, .* larger than the matrix") as found:
        write_adapter(tmp_path, changes, "base")
    assert found.value.needed == 32
    assert not list(tmp_path.iterdir())


def test_max_rank_keeps_the_best_part_and_says_what_it_misses(tmp_path: Path) -> None:
    changes, values = dense_change()
    report = write_adapter(tmp_path, changes, "base", Limits(max_rank=8))
    best = float(values[8:].norm() / values.norm())
    assert report.rank == 8
    assert report.error == pytest.approx(best, rel=1e-5)
    assert report.modules[0].error == pytest.approx(best, rel=1e-5)
    assert report.modules[0].rank_needed == 32


def test_max_rank_above_the_rank_changes_nothing(tmp_path: Path) -> None:
    report = write_adapter(tmp_path, one_matrix([factored(32, 96, 3, 1)]), "b", Limits(max_rank=64))
    assert report.rank == 3


def test_max_error_takes_the_smallest_rank_within_it(tmp_path: Path) -> None:
    changes, values = dense_change()
    report = write_adapter(tmp_path, changes, "base", Limits(max_error=0.5))
    tails = [float(values[r:].norm() / values.norm()) for r in range(33)]
    assert report.rank == next(r for r, tail in enumerate(tails) if tail <= 0.5)
    assert report.error <= 0.5


def test_both_limits_that_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    changes, values = dense_change()
    with pytest.raises(RankTooHigh, match=r"max_rank 2 it would miss 0\.\d+: raise") as found:
        write_adapter(tmp_path, changes, "base", Limits(max_rank=2, max_error=0.1))
    assert values[found.value.needed :].norm() <= 0.1 * values.norm()
    assert values[found.value.needed - 1 :].norm() > 0.1 * values.norm()


def several(*ranks: int) -> list[Change]:
    """Changes of matrices of these ranks, 32 by 96."""
    updates = [factored(32, 96, rank, seed=rank) for rank in ranks]
    return [
        Change(f"model.layers.{n}.mlp.down_proj", [update], transposed=False)
        for n, update in enumerate(updates)
    ]


def test_the_largest_rank_of_all_matrices_is_named(tmp_path: Path) -> None:
    limits = Limits(max_rank=2, max_error=1e-4)
    said = r"layers\.1\..* needs rank 9, the most of 4 matrices, .*: raise max_rank to 9"
    with pytest.raises(RankTooHigh, match=said) as found:
        write_adapter(tmp_path, several(3, 9, 5, 1), "base", limits)
    assert found.value.needed == 9
    assert not list(tmp_path.iterdir())
    enough = Limits(max_rank=found.value.needed, max_error=1e-4)
    assert write_adapter(tmp_path, several(3, 9, 5, 1), "base", enough).rank == 9


def test_what_may_be_missed_is_advised_for_all_matrices(tmp_path: Path) -> None:
    """The first one that is too large has the smaller rank."""
    with pytest.raises(RankTooHigh, match=r"layers\.1\..* needs rank 30, the most of 3") as found:
        write_adapter(tmp_path, several(26, 30, 28), "base")
    assert found.value.needed == 30
    rank = int(str(found.value).rpartition("rank ")[2])
    assert write_adapter(tmp_path, several(26, 30, 28), "base", Limits(max_error=0.1)).rank == rank


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 6e-3), ("float16", 8e-4)])
def test_a_smaller_type_costs_what_the_report_says(tmp_path: Path, dtype: Any, most: float) -> None:
    update = factored(32, 96, 3, seed=1)
    report = write_adapter(tmp_path, one_matrix([update]), "base", dtype=dtype)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    a, b = (
        tensors[f"base_model.model.model.layers.1.mlp.down_proj.lora_{side}.weight"]
        for side in "AB"
    )
    assert a.dtype == b.dtype == getattr(torch, dtype)
    off = (b.double() @ a.double() - update.matrix()).norm() / update.matrix().norm()
    assert report.error == pytest.approx(float(off), rel=1e-3)
    assert 0 < report.error < most


def test_more_than_one_row_block_is_compared(tmp_path: Path) -> None:
    update = factored(700, 20, 2, seed=1)
    report = write_adapter(tmp_path, one_matrix([update]), "base", dtype="bfloat16")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    b, a = (
        tensors[f"base_model.model.model.layers.1.mlp.down_proj.lora_{side}.weight"].double()
        for side in "BA"
    )
    off = (b @ a - update.matrix()).norm() / update.matrix().norm()
    assert report.error == pytest.approx(float(off), rel=1e-6)


def test_a_change_of_something_else_than_a_linear_layer_is_refused() -> None:
    base = tiny.random_model("llama")
    name = "model.embed_tokens.weight"
    with pytest.raises(NotExportable, match=rf'{name}, which is no weight .*"merged"'):
        changes_of(base, {name: [factored(tiny.VOCABULARY, 32, 1, 0)]})


def test_a_version_without_changes_is_refused() -> None:
    with pytest.raises(NotExportable, match="changes no weight"):
        changes_of(tiny.random_model("llama"), {})


def test_it_ends_where_it_is_cancelled(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        write_adapter(
            tmp_path,
            one_matrix([factored(32, 96, 3, 1)]),
            "base",
            monitor=Monitor(check=stop_if(lambda: True)),
        )
    assert not list(tmp_path.iterdir())


def test_conv1d_is_told_from_linear() -> None:
    view = edited(tiny.random_model("gpt2"))
    assert all(change.transposed for change in changes_of(view.base, view.history))
    view = edited(tiny.random_model("llama"))
    changes = changes_of(view.base, view.history)
    assert not any(change.transposed for change in changes)
    assert all(isinstance(view.model.get_submodule(c.module), nn.Linear) for c in changes)
