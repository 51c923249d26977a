"""PMET and ROME against what the published code computes; see ``golden/README.md``."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.library.golden_cases import CASES, GOLDEN, GivenMoments, assert_near, fact_tokens

from jeep_core.editors import create
from jeep_core.editors.base import EditContext, EditorOutcome
from jeep_core.editors.pmet.hparams import PmetHParams
from jeep_core.editors.rome.hparams import RomeHParams
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load(str(GOLDEN / "gpt-j-tiny"), device="cpu", dtype="float32")


def pmet_hparams() -> PmetHParams:
    theirs = CASES["hparams"]["pmet"]
    return PmetHParams.model_validate(
        {
            "low": {
                "layers": theirs["layers"],
                "clamp": theirs["clamp_norm_factor"],
                "weight_decay": theirs["v_weight_decay"],
                "moment_weight": theirs["mom2_update_weight"],
            },
            "n_steps": theirs["v_num_grad_steps"],
            "learning_rate": theirs["v_lr"],
            "kl_weight": theirs["kl_factor"],
        }
    )


@pytest.fixture(scope="module")
def pmet(model: LoadedModel) -> EditorOutcome:
    context = EditContext(ModelView(model), fact_tokens(model), GivenMoments(model, []))
    return create("pmet").run(context, pmet_hparams())


def test_pmet_values_at_both_projections_equal_the_reference(pmet: EditorOutcome) -> None:
    golden = load_file(GOLDEN / "pmet.safetensors")
    assert pmet.values is not None
    assert pmet.values.attention is not None
    assert_near(pmet.values.low, golden["values_mlp"])
    assert_near(pmet.values.attention, golden["values_attn"])


@pytest.mark.parametrize("layer", [0, 1])
def test_pmet_updates_equal_the_reference(
    model: LoadedModel, pmet: EditorOutcome, layer: int
) -> None:
    """From our values; 20 steps make a rounding about a thousand times larger."""
    name = model.family.weight_name(layer)
    golden = load_file(GOLDEN / "pmet.safetensors")
    assert_near(pmet.delta.updates[name].matrix(), golden[f"update.{name}"], 2e-4)


@pytest.mark.parametrize("layer", [0, 1])
def test_pmet_updates_for_the_published_values_equal_the_reference(
    model: LoadedModel, pmet: EditorOutcome, layer: int
) -> None:
    name = model.family.weight_name(layer)
    golden = load_file(GOLDEN / "pmet.safetensors")
    assert pmet.values is not None
    given = replace(pmet.values, low=golden["values_mlp"])
    context = EditContext(
        ModelView(model), fact_tokens(model), GivenMoments(model, []), values=given
    )
    updates = create("pmet").run(context, pmet_hparams()).delta.updates
    assert_near(updates[name].matrix(), golden[f"update.{name}"], 1e-5)


@pytest.mark.parametrize("number", range(4))
def test_rome_factors_equal_the_reference(model: LoadedModel, number: int) -> None:
    """Theirs inverts C in float32 at a condition of 4e5: 1e-4 of u is their rounding.

    δ after 20 steps moves by up to 1e-4 when rounding changes, as it does with the company of
    other facts in a batch, hence the wider bound on the left factor.
    """
    theirs = CASES["hparams"]["rome"]
    hparams = RomeHParams(
        layer=theirs["layers"][0],
        clamp=theirs["clamp_norm_factor"],
        weight_decay=theirs["v_weight_decay"],
        n_steps=theirs["v_num_grad_steps"],
        learning_rate=theirs["v_lr"],
        kl_weight=theirs["kl_factor"],
    )
    fact = fact_tokens(model)[number]
    context = EditContext(ModelView(model), [fact], GivenMoments(model, []))
    outcome = create("rome").run(context, hparams)
    update = outcome.delta.updates[model.family.weight_name(1)]
    golden = load_file(GOLDEN / "rome.safetensors")
    assert update.left is not None
    assert update.right is not None
    assert_near(update.right[:, 0], golden["left"][number], 2e-4)
    assert_near(update.left[:, 0], golden["right"][number], 1e-3)


def test_rome_edits_one_fact_after_the_other(model: LoadedModel) -> None:
    """Facts behind the first are optimised on what the ones before them have written."""
    hparams = RomeHParams(layer=1, n_steps=8)
    facts = fact_tokens(model)[:3]
    together = EditContext(ModelView(model), facts, GivenMoments(model, []))
    outcome = create("rome").run(together, hparams)
    view = ModelView(model)
    for fact in facts:
        one = create("rome").run(EditContext(view.fork(), [fact], GivenMoments(model, [])), hparams)
        view.apply(one.delta)
    name = model.family.weight_name(1)
    assert_near(together.view.parameter(name), view.parameter(name))
    single = EditContext(ModelView(model), facts[2:], GivenMoments(model, []))
    alone = create("rome").run(single, hparams)
    assert outcome.values is not None
    assert alone.values is not None
    assert not torch.allclose(outcome.values.delta_low[2], alone.values.delta_low[0], rtol=1e-3)
