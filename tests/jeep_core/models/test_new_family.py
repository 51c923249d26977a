"""The worked example of docs/extending.md: a family of models is added by one row.

OLMo 2 differs from all families that are there: norms follow attention and MLP and none stands
before them, their gain is the weight itself, and queries and keys are normed over all heads.
"""

from __future__ import annotations

import pytest
import torch
from support.library import reference, tiny
from support.library.documents import shown_code
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from jeep_core.editing import edit
from jeep_core.errors import UnsupportedModel
from jeep_core.models import families
from jeep_core.models.families import FAMILIES, Family, family_of
from jeep_core.models.loading import LoadedModel, wrap
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Region
from jeep_core.spec.positions import fact_rows
from jeep_core.values.keys import keys_and_states
from jeep_core.values.optimiser import FactTokens, Objective, optimise
from jeep_core.values.reader import RegionReader

ROW: Family = eval(shown_code("extending.md", "jeep_core/models/families.py"), {"Family": Family})
PREFIXES = ("", "The river is wide and the land around it is old")
FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("São Paulo", "People who live in {} are at home in", "Norway, near 東京"),
)
HPARAMS = {
    "low": {"layers": [0, 1], "clamp": 2.0, "moment_weight": 5},
    "high": {"layers": [2], "clamp": 1.0, "moment_weight": 5},
    "n_steps": 4,
}
OBJECTIVE = Objective(
    Region(layers=(0, 1), clamp=3.0, moment_weight=1),
    Region(layers=(2,), clamp=1.5, moment_weight=1),
    n_steps=4, learning_rate=0.5, kl_weight=0.5, stop_probability=0.95,
)  # fmt: skip


@pytest.fixture
def olmo(monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """A tiny random model of the new family; all that was added is the row."""
    monkeypatch.setattr(families, "FAMILIES", (*FAMILIES, ROW))
    tokenizer = tiny.tokenizer("byte-level")
    config = AutoConfig.for_model(
        "olmo2", **tiny.ROTARY, vocab_size=tokenizer.get_vocab_size(), initializer_range=0.2,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            nn.init.normal_(module.weight, mean=1.0, std=0.3)
    return wrap("tiny-olmo2", model, tokenizer)


def test_without_its_row_the_family_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="model type 'olmo2' is not one of: GPT-2, "):
        family_of(AutoConfig.for_model("olmo2"))


def test_an_edit_of_the_new_family_lowers_the_loss_and_is_reverted(olmo: LoadedModel) -> None:
    assert olmo.family is ROW
    moments = Moments(olmo, tiny.TEXTS * 3)
    result = edit(olmo, FACTS, hparams=HPARAMS, prefixes=PREFIXES, moments=moments)
    assert result.values is not None
    index, losses = result.values.trace[0]
    assert (result.values.losses < losses[torch.argsort(index)]).all()
    view = ModelView(olmo)
    view.apply(result.delta)
    assert sorted(view.replaced) == [f"model.layers.{n}.mlp.down_proj.weight" for n in range(3)]
    for name in list(view.replaced):
        view.replace(name, olmo.model.get_parameter(name))
    assert view.weights_sha256() == olmo.weights_sha256


def test_values_of_the_new_family_equal_the_plain_ones(olmo: LoadedModel) -> None:
    """The judge runs every row in full, one at a time, without batch or cache."""
    tokens = [FactTokens(*fact_rows(olmo.tokenizer, fact, PREFIXES)) for fact in FACTS]
    values = optimise(ModelView(olmo), tokens, OBJECTIVE)
    for i, fact in enumerate(tokens):
        plain = reference.optimise_one(olmo.model, fact, OBJECTIVE)
        assert values.losses[i].item() == pytest.approx(plain.losses[-1], rel=1e-4)
        assert plain.high is not None
        for found, wanted in ((values.low[i], plain.low), (values.high[i], plain.high)):
            assert (found - wanted).norm() <= 2e-4 * wanted.norm()


def test_the_gain_of_the_norm_after_the_mlp_is_the_row_s(olmo: LoadedModel) -> None:
    """A residual that the norm lets through comes out of the norm again."""
    view = ModelView(olmo)
    rows = [FactTokens(*fact_rows(olmo.tokenizer, fact, ("",))).rows for fact in FACTS]
    _, states = keys_and_states(view, rows, "subject_last", 1, 1, at_projection=True)
    norm = olmo.family.norm_after(olmo.model, 1)
    other = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = norm(states + other) - norm(states)
        found = RegionReader(view, rows, "subject_last", 1).residuals_at(1, wanted)
        reached = norm(states + found) - norm(states)
    assert (reached - wanted).norm() < 1e-3 * wanted.norm()
