"""An edit on the accelerator: in 16 bit, close to the CPU's, and undone without a trace."""

from __future__ import annotations

import pytest
import torch

import jeep_core
from jeep_core import atlas
from jeep_core.evaluation.metrics import counterfact_scores, summarise
from jeep_core.models.loading import texts_of
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.suites import load_counterfact

FACTS = 16


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("model", ["atlas-gptj", "atlas-llama"])
def test_a_batch_is_edited_and_the_model_keeps_every_bit(device, model, dtype):
    base = jeep_core.load(model, device=device, dtype=dtype)
    cases = load_counterfact("atlas-counterfact-validation").cases[:FACTS]
    moments = Moments(base, texts_of(atlas.CORPUS), samples=20_000)
    result = jeep_core.edit(base, cases, moments=moments)
    view = ModelView(base)
    view.apply(result.delta)
    summary = summarise(counterfact_scores(view, cases))
    assert summary.efficacy >= 80
    assert summary.locality >= 80
    again = jeep_core.load(model, device=device, dtype=dtype)
    assert again.weights_sha256 == base.weights_sha256
    assert ModelView(base).weights_sha256() == base.weights_sha256 != view.weights_sha256()


def test_float32_values_agree_with_the_cpu(device):
    cases = load_counterfact("atlas-counterfact-validation").cases[:4]
    found = []
    for where in ("cpu", device):
        base = jeep_core.load("atlas-llama", device=where, dtype="float32")
        moments = Moments(base, texts_of(atlas.CORPUS), samples=20_000)
        hparams = {"n_steps": 5}
        result = jeep_core.edit(base, cases, hparams=hparams, moments=moments)
        found.append(result.values.low.cpu().double())
    error = (found[0] - found[1]).norm() / found[0].norm()
    assert torch.isfinite(error)
    assert error < 1e-3
