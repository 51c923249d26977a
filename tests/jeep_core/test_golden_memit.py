"""MEMIT against what the published code computes; see ``golden/README.md``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jeep_core.editors import create
from jeep_core.editors.base import EditContext, EditorOutcome
from jeep_core.hparams import MemitHParams
from jeep_core.loading import LoadedModel, load
from jeep_core.moments import Moments
from jeep_core.positions import KL_TEMPLATE, tokenize_prompt
from jeep_core.solve import MomentFactor
from jeep_core.values import FactTokens
from jeep_core.views import ModelView

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load(str(GOLDEN / "gpt-j-tiny"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(GOLDEN / "memit.safetensors")
    return found


class GivenMoments(Moments):
    """The published second moments instead of computed ones."""

    def factor(self, layer: int) -> MomentFactor:
        stored = load_file(GOLDEN / "second_moment.safetensors")
        return MomentFactor(stored[f"second_moment.{layer}"], f"layer {layer}")


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
    facts = [_tokens(model, request) for request in CASES["requests"]]
    context = EditContext(view=ModelView(model), facts=facts, moments=GivenMoments(model, []))
    return create("memit").run(context, hparams)


def _tokens(model: LoadedModel, request: dict[str, str]) -> FactTokens:
    templates = [
        context.replace("{}", request["prompt"])
        for group in CASES["context_templates"]
        for context in group
    ]
    subject, target = request["subject"], request["new"]
    return FactTokens(
        [tokenize_prompt(model.tokenizer, t, subject, target) for t in templates],
        tokenize_prompt(model.tokenizer, KL_TEMPLATE, subject),
    )


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    difference = found.double() - expected.double()
    assert difference.norm() <= TOLERANCE * expected.double().norm()


def test_values(outcome: EditorOutcome, golden: dict[str, torch.Tensor]) -> None:
    assert_near(outcome.values.low, golden["values"])


@pytest.mark.parametrize("layer", [0, 1])
def test_keys(outcome: EditorOutcome, golden: dict[str, torch.Tensor], layer: int) -> None:
    assert_near(outcome.keys["low", layer], golden[f"keys.{layer}"])


@pytest.mark.parametrize("layer", [0, 1])
def test_updates(
    model: LoadedModel, outcome: EditorOutcome, golden: dict[str, torch.Tensor], layer: int
) -> None:
    name = model.family.weight_name(layer)
    assert_near(outcome.delta.updates[name].matrix(), golden[f"update.{name}"])


def test_nothing_else_is_written(model: LoadedModel, outcome: EditorOutcome) -> None:
    assert list(outcome.delta.updates) == [model.family.weight_name(i) for i in (0, 1)]
