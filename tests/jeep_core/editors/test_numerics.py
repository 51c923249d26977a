"""What an edit does to numbers: rounded once, nothing for infinite λ, errors instead of nan."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.library import tiny

from jeep_core.editing import edit
from jeep_core.errors import NumericalError
from jeep_core.models.delta import Update
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.spec.facts import Fact

SUBJECTS = ("Paris", "Lima", "Oslo", "Rome", "Cairo", "Quito")
HPARAMS: dict[str, Any] = {
    "low": {"layers": [1], "clamp": 0.3, "moment_weight": 20},
    "n_steps": 2,
    "n_prefixes": 1,
}


def facts(subject: str) -> list[Fact]:
    return [Fact(subject, "{} is a city in the country of", "Peru")]


def run(base: LoadedModel | ModelView, subject: str, moments: Moments, **changes: Any) -> Any:
    hparams = {**HPARAMS, **changes}
    return edit(base, facts(subject), "memit", hparams=hparams, prefixes=[""], moments=moments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["gptj", "gpt2"])
def test_many_batches_are_rounded_once(family: str, dtype: torch.dtype) -> None:
    """Each batch edits what the ones before left; the sum is kept in full and rounded at the end.

    Adding every update to the rounded weights ends elsewhere.
    """
    base = tiny.random_model(family, dtype)
    moments, view = Moments(base, tiny.TEXTS), ModelView(base)
    name, updates = base.family.weight_name(1), []
    start = base.model.get_parameter(name)
    stepwise = start.clone()
    for subject in SUBJECTS:
        delta = run(view, subject, moments).delta
        view.apply(delta)
        matrix = delta.updates[name].matrix()
        updates.append(matrix.T if family == "gpt2" else matrix)
        stepwise = (stepwise.double() + updates[-1]).to(dtype)
    exact = start.double() + torch.stack(updates).sum(dim=0)
    assert torch.equal(view.parameter(name), exact.to(dtype))
    error = (view.parameter(name).double() - exact).norm()
    assert (stepwise.double() - exact).norm() > 1.3 * error


def test_an_infinite_weight_of_the_second_moment_changes_no_bit(gptj: LoadedModel) -> None:
    moments = Moments(gptj, tiny.TEXTS)
    low = {**HPARAMS["low"], "moment_weight": 1e30}
    result = run(gptj, "Paris", moments, low=low)
    view = ModelView(gptj)
    view.apply(result.delta)
    [layer] = result.layers
    assert layer.relative_norm < 1e-20
    assert layer.residual_after == layer.residual_before
    assert view.weights_sha256() == gptj.weights_sha256
    assert run(gptj, "Paris", moments).layers[0].relative_norm > 1e-3


def test_a_singular_second_moment_is_a_clear_error(gptj: LoadedModel) -> None:
    """A hundred tokens cannot fill 128 dimensions."""
    few = Moments(gptj, tiny.TEXTS, samples=100)
    with pytest.raises(NumericalError, match=r"^layer 1: .*second moment.*more text"):
        run(gptj, "Paris", few)


def test_every_layer_reports_norm_residual_and_condition(gptj: LoadedModel) -> None:
    low = {**HPARAMS["low"], "layers": [0, 1, 2]}
    result = run(gptj, "Paris", Moments(gptj, tiny.TEXTS), low=low)
    assert [layer.layer for layer in result.layers] == [0, 1, 2]
    for layer in result.layers:
        update: Update = result.delta.updates[layer.name]
        weight = gptj.model.get_parameter(layer.name).double().norm()
        assert layer.relative_norm == pytest.approx(float(update.matrix().norm() / weight))
        assert 0 < layer.residual_after < layer.residual_before
        assert layer.condition > 1
