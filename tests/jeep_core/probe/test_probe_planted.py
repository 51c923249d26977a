"""The probe finds what was planted by hand, where it was planted."""

from __future__ import annotations

import pytest
import torch
from support.library import planted

from jeep_core.models.views import ModelView
from jeep_core.probe.patching import exchange, pairs
from jeep_core.probe.prompts import prepare
from jeep_core.probe.readings import Readings, read
from jeep_core.probe.run import probe

PLACES = [(1, 3), (2, 5), (2, 6)]


@pytest.fixture(params=[(f, *p) for f in ("llama", "gptj") for p in PLACES], ids=str)
def found(request: pytest.FixtureRequest) -> tuple[ModelView, int, int]:
    family, enriched, promoted = request.param
    return ModelView(planted.model(family, enriched, promoted)), enriched, promoted


def mean(readings: Readings, name: str, answer: str, position: str, site: str) -> list[float]:
    values = readings.of(name, "final_norm", answer, position, site)
    return [round(value, 6) for value in values.mean(dim=0).tolist()]


def test_the_planted_layers_are_found(found: tuple[ModelView, int, int]) -> None:
    view, enriched, promoted = found
    result = probe(view, planted.facts())
    assert result.why_not is None
    assert result.proposal is not None
    assert result.proposal.low == [enriched - 1, enriched] if enriched > 1 else [1]
    assert result.proposal.high == [promoted]
    assert result.hparams is not None
    assert result.hparams["high"]["layers"] == [promoted]
    assert result.proposal.subject_share > 0.9
    assert "optimise" not in result.hparams


def test_an_answer_that_two_tokens_carry_is_edited_in_both_regions(
    found: tuple[ModelView, int, int],
) -> None:
    view, _, promoted = found
    result = probe(view, planted.facts(tokens=2))
    assert result.proposal is not None
    assert result.proposal.high == [promoted]
    assert 0.2 < result.proposal.subject_share < 0.8
    assert result.hparams is not None
    assert result.hparams["optimise"] == "together"


def test_enrichment_shows_at_the_mlp_that_enriches(found: tuple[ModelView, int, int]) -> None:
    view, enriched, _ = found
    readings = read(view, prepare(view, planted.facts()).prompts)
    before = mean(readings, "rank", "original", "subject_last", "after_attention")
    after = mean(readings, "rank", "original", "subject_last", "output")
    chance = mean(readings, "probability", "original", "subject_last", "output")
    assert set(after[enriched:]) == {0.0}  # no token is above it from here on
    assert chance[enriched - 1] < 1.01 / len(planted.WORDS)
    assert chance[enriched] > 2 * chance[enriched - 1]
    assert before[: enriched + 1] == [*after[:enriched], after[enriched - 1]]
    target = mean(readings, "probability", "target", "subject_last", "output")
    assert target[enriched] < target[enriched - 1]


def test_promotion_shows_at_the_mlp_that_promotes(found: tuple[ModelView, int, int]) -> None:
    view, _, promoted = found
    readings = read(view, prepare(view, planted.facts()).prompts)
    before = mean(readings, "probability", "original", "prediction", "after_attention")
    after = mean(readings, "probability", "original", "prediction", "output")
    assert max(after[:promoted] + before[: promoted + 1]) < 0.1
    assert min(after[promoted:]) > 0.9
    mlp = readings.promotion("mlp").mean(dim=0)
    assert int(mlp.argmax()) == promoted
    assert float(mlp.abs().sum() - mlp[promoted].abs()) < 0.05
    assert float(readings.promotion("attention").abs().max()) < 0.05


def test_the_subjects_state_decides_until_attention_has_read_it(
    found: tuple[ModelView, int, int],
) -> None:
    view, enriched, _ = found
    prompts = prepare(view, planted.facts()).prompts
    patched = exchange(view, pairs(view, prompts))
    for moved in (patched.effect, patched.carried):
        assert float(moved[:, : enriched + 1].min()) > 0.9
        assert float(moved[:, enriched + 1 :].abs().max()) < 1e-5


def test_donors_speak_of_others_with_other_answers() -> None:
    view = ModelView(planted.model("llama", 2, 5))
    drawn = pairs(view, prepare(view, planted.facts()).prompts)
    assert len(drawn) == len(planted.facts())
    for pair in drawn:
        places = zip(pair.prompt.tokens.ids, pair.donor.ids, strict=True)
        differing = [i for i, (own, other) in enumerate(places) if own != other]
        assert differing == [pair.prompt.tokens.subject_last]
        name = planted.WORDS[pair.donor.ids[pair.donor.subject_last]]
        home = planted.HOMES[planted.home_of(planted.NAMES.index(name))]
        assert planted.WORDS[pair.answer] == home
        assert pair.answer != pair.prompt.original


def test_a_model_without_knowledge_gets_no_proposal() -> None:
    view = ModelView(planted.model("llama", 2, 5))
    for layer in range(planted.LAYERS):
        name = view.base.family.weight_name(layer)
        view.replace(name, torch.zeros_like(view.parameter(name)))
    result = probe(view, planted.facts())
    assert result.proposal is None
    assert result.hparams is None
    assert result.why_not is not None
    assert "no layers to propose" in result.why_not
