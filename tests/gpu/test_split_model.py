"""A model over two devices: two GPUs where there are two, else a GPU and the CPU."""

from __future__ import annotations

import pytest
import torch

import jeep_core
from jeep_core import atlas
from jeep_core.decoding.generation import Sampling, generate
from jeep_core.models.loading import texts_of
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.suites import load_counterfact

PROMPTS = ["The river is wide and", "I", "Many people live in"]


def devices(device):
    """Two devices, or the same one twice with ``--device cpu``."""
    if not device.startswith("cuda"):
        return device, device
    return "cuda:0", "cuda:1" if torch.cuda.device_count() > 1 else "cpu"


def edited(where):
    base = jeep_core.load("atlas-llama", device=where, dtype="float32")
    cases = load_counterfact("atlas-counterfact-validation").cases[:4]
    moments = Moments(base, texts_of(atlas.CORPUS), samples=20_000)
    hparams = {"n_steps": 5, "compute_dtype": "model"}
    result = jeep_core.edit(base, cases, hparams=hparams, moments=moments)
    texts = [[one.text for one in generate(v, PROMPTS, Sampling(8))]
             for v in (ModelView(base), result.view)]  # fmt: skip
    return base, result, texts


@pytest.mark.parametrize("ends", [0, 1])
def test_an_edit_over_two_devices_is_that_of_one(device, ends):
    first, second = devices(device)
    base, expected, texts = edited(device)
    half = base.n_layers // 2
    blocks = f"0-{half - 1}@{first},{half}-{base.n_layers - 1}@{second}"
    split, found, again = edited(f"ends@{(first, second)[ends]},{blocks}")
    assert split.model_hash == base.model_hash
    assert {str(one) for one in split.devices} == {first, second}
    for name, update in expected.delta.updates.items():
        wanted, made = update.matrix().cpu(), found.delta.updates[name].matrix()
        assert made.device == split.model.get_parameter(name).device
        assert (made.cpu() - wanted).norm() <= 1e-3 * wanted.norm()
    assert again == texts


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_is_edited_in_16_bit(device, dtype):
    if torch.cuda.device_count() < 2:
        pytest.skip("products in 16 bit on a GPU and on the CPU differ too much to compare")
    base = jeep_core.load("atlas-gptj", device="balanced", dtype=dtype)
    assert len(base.devices) > 1
    cases = load_counterfact("atlas-counterfact-validation").cases[:4]
    moments = Moments(base, texts_of(atlas.CORPUS), samples=20_000)
    result = jeep_core.edit(base, cases, moments=moments)
    assert float(result.values.probabilities.mean()) > 0.5
    assert ModelView(base).weights_sha256() == base.weights_sha256
