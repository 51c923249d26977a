"""The bundled models: what they know, and what an edit does to them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

import jeep_core
from jeep_core import atlas
from jeep_core.atlas.corpus import load_facts
from jeep_core.decoding.generation import score
from jeep_core.editing import EditResult
from jeep_core.evaluation.metrics import Summary, counterfact_scores, summarise
from jeep_core.models.delta import WeightDelta
from jeep_core.models.loading import LoadedModel, texts_of
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import load_preset
from jeep_core.suites import load_counterfact
from tools.atlas.audit import patch_table, recall

SAMPLE = 40
EDITS = 12


@pytest.fixture(scope="module", params=sorted(atlas.MODELS))
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return jeep_core.load(request.param, device="cpu")


@pytest.fixture(scope="module")
def moments(model: LoadedModel) -> Moments:
    return Moments(model, texts_of(atlas.CORPUS))  # those that ship


@pytest.fixture(scope="module")
def cases() -> Sequence[Fact]:
    return load_counterfact("atlas-counterfact-validation").cases[:EDITS]


def summary(view: ModelView, cases: Sequence[Fact]) -> Summary:
    return summarise(counterfact_scores(view, cases))


@pytest.fixture(scope="module")
def edited(model: LoadedModel, moments: Moments, cases: Sequence[Fact]) -> EditResult:
    """The edit of all cases with the model's preset; nothing may write to it."""
    return jeep_core.edit(model, cases, moments=moments)


@pytest.fixture(scope="module")
def edited_summary(model: LoadedModel, edited: EditResult, cases: Sequence[Fact]) -> Summary:
    view = ModelView(model)
    view.apply(edited.delta)
    return summary(view, cases)


def test_the_bundled_model_knows_what_it_was_taught(model):
    facts = [fact for fact in load_facts() if fact.taught]
    chosen = random.Random(1).sample(facts, SAMPLE)
    found = recall(ModelView(model), chosen)
    right = sum(hits for hits, _ in found.values())
    assert right >= 0.98 * sum(n for _, n in found.values())


def test_the_bundled_model_answers_phrasings_never_taught_for_the_subject(model):
    cities = [f for f in load_facts() if f.taught and f.relation == "city_country"]
    found = recall(ModelView(model), random.Random(2).sample(cities, SAMPLE))
    right, n = found["city_country", False]
    assert n == SAMPLE
    assert right >= 0.9 * n


def test_the_subject_s_state_still_matters_where_the_low_region_ends(model):
    last = load_preset(f"jeep-{model.name}").hparams["low"]["layers"][-1]
    [(_, own)] = patch_table(ModelView(model), load_facts(), [last], pairs=100)
    assert own <= 0.95


def test_step_3_never_lowers_efficacy_against_step_2_alone(model, edited, edited_summary, cases):
    high = {layer.name for layer in edited.layers if layer.region == "high"}
    low_only = ModelView(model)
    low_only.apply(WeightDelta({n: u for n, u in edited.delta.updates.items() if n not in high}))
    step_2, step_3 = summary(low_only, cases), edited_summary
    assert step_3.efficacy >= step_2.efficacy
    assert step_3.greedy >= step_2.greedy
    assert step_3.efficacy >= 80
    assert step_3.locality >= 80


def test_the_literal_reading_of_the_high_target_undoes_the_low_region(
    model, moments, edited, edited_summary, cases
):
    assert edited.hparams.high_target == "at_optimum"
    literal = jeep_core.edit(model, cases, hparams={"high_target": "literal"}, moments=moments)
    view = ModelView(model)
    view.apply(literal.delta)
    assert edited_summary.score > summary(view, cases).score


def test_the_model_given_keeps_every_bit(model, moments, cases):
    before = ModelView(model).weights_sha256()
    result = jeep_core.edit(model, cases[:2], moments=moments)
    assert result.delta.updates
    fresh = jeep_core.load(model.name, device="cpu")
    assert fresh.weights_sha256 == model.weights_sha256 == before
    assert summary(ModelView(model), cases).efficacy <= 20


@pytest.mark.parametrize(
    "prompt", ["Q: {} is in which country?\nA:\n", '{} is a city in the country of "']
)
def test_the_prompt_that_was_sent_is_the_one_that_is_edited(prompt, model, moments):
    """Its white space and its opening marks are a part of it, and no blank precedes its answer."""
    fact = {"subject": "Lyon", "prompt": prompt, "target_new": "Japan"}
    result = jeep_core.edit(model, [fact], moments=moments)
    edited = ModelView(model)
    edited.apply(result.delta)
    asked = prompt.replace("{}", "Lyon")
    assert not jeep_core.complete(ModelView(model), asked, 4).startswith("J")
    assert jeep_core.complete(edited, asked, 4).startswith("J")  # no blank, no other letter
    [was], [now] = (score(view, [(asked, "Japan")]) for view in (ModelView(model), edited))
    assert now.mean > was.mean + 2
