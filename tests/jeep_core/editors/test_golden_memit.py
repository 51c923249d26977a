"""MEMIT against what the published code computes; see ``golden/README.md``."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from support.library.golden_cases import CASES, GOLDEN, GivenMoments, assert_near, fact_tokens

from jeep_core.editors import create
from jeep_core.editors.base import EditContext, EditorOutcome
from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load(str(GOLDEN / "gpt-j-tiny"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(GOLDEN / "memit.safetensors")
    return found


@pytest.fixture(scope="module")
def outcome(model: LoadedModel) -> EditorOutcome:
    theirs = CASES["hparams"]["memit"]
    hparams = MemitHParams(
        low={
            "layers": theirs["layers"],
            "clamp": theirs["clamp_norm_factor"],
            "weight_decay": theirs["v_weight_decay"],
            "moment_weight": theirs["mom2_update_weight"],
            "spread": "linear",
        },
        n_steps=theirs["v_num_grad_steps"],
        learning_rate=theirs["v_lr"],
        kl_weight=theirs["kl_factor"],
    )
    context = EditContext(ModelView(model), fact_tokens(model), GivenMoments(model, []))
    return create("memit").run(context, hparams)


def test_memit_values_equal_the_reference(
    outcome: EditorOutcome, golden: dict[str, torch.Tensor]
) -> None:
    assert_near(outcome.values.low, golden["values"])


@pytest.mark.parametrize("layer", [0, 1])
def test_memit_keys_equal_the_reference(
    outcome: EditorOutcome, golden: dict[str, torch.Tensor], layer: int
) -> None:
    assert_near(outcome.keys["low", layer], golden[f"keys.{layer}"])


@pytest.mark.parametrize("layer", [0, 1])
def test_memit_updates_equal_the_reference(
    model: LoadedModel, outcome: EditorOutcome, golden: dict[str, torch.Tensor], layer: int
) -> None:
    name = model.family.weight_name(layer)
    assert_near(outcome.delta.updates[name].matrix(), golden[f"update.{name}"])


def test_memit_writes_only_the_matrices_of_the_reference(
    model: LoadedModel, outcome: EditorOutcome
) -> None:
    assert list(outcome.delta.updates) == [model.family.weight_name(i) for i in (0, 1)]
