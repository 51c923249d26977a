"""Values under ``exact``: those of the published procedure, whatever else is in the batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.library import planted, reference
from support.library.golden_cases import CASES, GOLDEN, GivenMoments, assert_near, fact_tokens

from bench.library.plain import optimise_plain
from jeep_core.editors import create, hparams_class, preset_hparams
from jeep_core.editors.base import EditContext, EditorOutcome, objective_for
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from jeep_core.probe.defaults.choose import choose
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import OptimisedEditorHParams, Region
from jeep_core.spec.positions import fact_rows
from jeep_core.values.cache import set_key
from jeep_core.values.optimiser import FactTokens, Objective, optimise

QUICK = {
    "optimizer": "newton",
    "n_prefixes": 2,
    "early_prefixes": 1,
    "compute_dtype": "bfloat16",
}
"""All that presets have for speed."""
PREFIXES = ("", "The river is wide", "I", "An old map of the north")
FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("Paris", "The name of the country in which the town of {} lies is", "Norway"),
    Fact("東京", "The capital of Japan is {}", "old"),
    Fact("3M", "{}'s", "1984"),
)
OBJECTIVE = Objective(
    Region(layers=(0, 1), clamp=3.0, moment_weight=1, weight_decay=0.1),
    Region(layers=(2,), clamp=1.5, moment_weight=1, weight_decay=0.25),
    n_steps=6,
    learning_rate=0.5,
    kl_weight=0.5,
    exact=True,
)


@pytest.fixture(scope="module")
def golden_model() -> LoadedModel:
    return load(str(GOLDEN / "gpt-j-tiny"), device="cpu", dtype="float32")


THEIRS = CASES["hparams"]["memit"]
PUBLISHED = {
    "low": {
        "layers": THEIRS["layers"],
        "clamp": THEIRS["clamp_norm_factor"],
        "weight_decay": THEIRS["v_weight_decay"],
        "moment_weight": THEIRS["mom2_update_weight"],
    },
    "n_steps": THEIRS["v_num_grad_steps"],
    "learning_rate": THEIRS["v_lr"],
    "kl_weight": THEIRS["kl_factor"],
}


def memit(base: LoadedModel, facts: list[FactTokens], **changes: Any) -> EditorOutcome:
    """MEMIT with a preset that has the published settings, and all that is quick besides."""
    presets = {"quick": PUBLISHED | QUICK}
    _, hparams = preset_hparams("memit", presets, None, changes, base.n_layers)
    count = hparams.prefix_count
    asked = [replace(fact, rows=fact.rows[:count]) for fact in facts]
    context = EditContext(ModelView(base), asked, GivenMoments(base, []))
    return create("memit").run(context, hparams)


def test_a_quick_preset_gives_the_published_values_and_updates(golden_model: LoadedModel) -> None:
    published = load_file(GOLDEN / "memit.safetensors")
    facts = fact_tokens(golden_model)
    # the golden prefixes are fewer than the paper's
    assert len(facts[0].rows) < 6
    outcome = memit(golden_model, facts, exact=True)
    assert_near(outcome.values.low, published["values"])
    for layer in (0, 1):
        name = golden_model.family.weight_name(layer)
        assert_near(outcome.delta.updates[name].matrix(), published[f"update.{name}"])
    quick = memit(golden_model, facts)
    with pytest.raises(AssertionError):
        assert_near(quick.values.low, published["values"])


def test_they_are_those_of_the_plain_yardstick(golden_model: LoadedModel) -> None:
    """Every token of every row through the whole model, a fact at a time, by torch's Adam."""
    facts = fact_tokens(golden_model)
    outcome = memit(golden_model, facts, exact=True)
    hparams = hparams_class("memit").model_validate(PUBLISHED)
    objective = objective_for("memit", hparams)
    assert objective is not None
    delta, passes = optimise_plain(ModelView(golden_model), facts, objective)
    assert outcome.values is not None
    assert_near(outcome.values.delta_low, delta)
    assert torch.equal(outcome.values.steps, passes)


def tokens(base: LoadedModel) -> list[FactTokens]:
    return [FactTokens(*fact_rows(base.tokenizer, fact, PREFIXES)) for fact in FACTS]


def test_a_facts_values_have_the_same_bits_beside_any_others(base: LoadedModel) -> None:
    view, facts = ModelView(base), tokens(base)
    whole = optimise(view, facts, OBJECTIVE)
    for i, fact in enumerate(facts):
        for others in ([], [facts[0]], facts[1:3]):
            found = optimise(view, [fact, *others], OBJECTIVE)
            assert torch.equal(found.low[0], whole.low[i])
            assert found.high is not None
            assert whole.high is not None
            assert torch.equal(found.high[0], whole.high[i])
        plain = reference.optimise_one(base.model, fact, OBJECTIVE)
        assert torch.allclose(whole.delta_low[i], plain.delta_low, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("editor", ["jeep", "memit", "pmet", "alphaedit"])
def test_what_is_optimised_says_so(editor: str, exact: bool) -> None:
    region = {"layers": [0], "clamp": 1, "moment_weight": 10, "null_space": 0.02}
    regions = {"low": region} | ({"high": region | {"layers": [1]}} if editor == "jeep" else {})
    hparams = hparams_class(editor).model_validate({**regions, "exact": exact})
    objective = objective_for(editor, hparams)
    assert objective is not None
    assert objective.exact is exact


def test_values_of_other_settings_are_not_taken_for_them(gptj: LoadedModel) -> None:
    quick = replace(OBJECTIVE, exact=False)
    assert set_key(gptj, OBJECTIVE) != set_key(gptj, quick)


@pytest.mark.parametrize("editor", ["jeep", "memit", "alphaedit"])
def test_a_model_without_a_preset_is_edited_so(editor: str, tmp_path: Path) -> None:
    """What a probe chooses is there for speed, too."""
    model = planted.model("llama", 2, 5)
    quick, exact = (
        choose(model, editor, folder=tmp_path, changes=changes)[0]
        for changes in ({}, {"exact": True})
    )
    assert isinstance(quick.hparams, OptimisedEditorHParams)
    assert (quick.hparams.optimizer, quick.hparams.n_prefixes) == ("newton", 2)
    published = {"exact": True, "optimizer": "adam", "n_prefixes": 6, "compute_dtype": "model"}
    assert exact.hparams == quick.hparams.model_copy(update=published)
