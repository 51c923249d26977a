"""The gradient editors on the bundled models, with their presets and the shipped networks."""

from __future__ import annotations

import json
from functools import cache

import pytest

import jeep_core
from jeep_core import atlas
from jeep_core.editing import edit
from jeep_core.evaluation.metrics import counterfact_scores, summarise
from jeep_core.models.loading import LoadedModel, texts_of
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.suites import load_counterfact

EDITS = 12
LIMIT_BYTES = 4 * 2**20
SHIPPED = [(name, editor) for name in atlas.MODELS for editor in ("mend", "malmen")]
EFFICACY = {"ft-wd": 95, "mend": 50, "malmen": 70, "ultraedit": 75, "locft": 95, "crispedit": 95}
WITHOUT_NETWORK = ("ft-wd", "ultraedit", "locft", "crispedit")


@cache
def model_of(name: str) -> LoadedModel:
    return jeep_core.load(name, device="cpu")


@cache
def efficacy_of_base(name: str) -> float:
    cases = load_counterfact("atlas-counterfact-validation").cases[:EDITS]
    return summarise(counterfact_scores(ModelView(model_of(name)), cases)).efficacy


@pytest.mark.parametrize(
    ("name", "editor"),
    [*((name, editor) for name in atlas.MODELS for editor in WITHOUT_NETWORK), *SHIPPED],
)
def test_a_batch_is_believed_and_neighbors_are_kept(name: str, editor: str) -> None:
    model = model_of(name)
    cases = load_counterfact("atlas-counterfact-validation").cases[:EDITS]
    before = ModelView(model).weights_sha256()
    view = ModelView(model)
    assert efficacy_of_base(name) < 20
    # none ship of its matrices: few tokens are enough
    own = Moments(model, texts_of(atlas.CORPUS), samples=2_000) if editor == "crispedit" else None
    result = edit(model, cases, editor, moments=own)
    if editor not in WITHOUT_NETWORK:
        record = atlas.MODELS[name] / "hypernetworks" / f"{editor}.json"
        assert result.inputs == {"hypernetwork": json.loads(record.read_text())["sha256"]}
    view.apply(result.delta)
    after = summarise(counterfact_scores(view, cases))
    assert after.efficacy >= EFFICACY[editor]
    assert after.generalization >= 40
    assert after.locality >= 70
    assert ModelView(model).weights_sha256() == before


@pytest.mark.parametrize(("name", "editor"), SHIPPED)
def test_shipped_networks_are_small_and_say_where_they_come_from(name: str, editor: str) -> None:
    path = atlas.MODELS[name] / "hypernetworks" / f"{editor}.safetensors"
    assert path.stat().st_size <= LIMIT_BYTES
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["model"] == name
    assert record["network"]["editor"] == editor
    assert record["loss"][-1][1] < record["loss"][0][1]
