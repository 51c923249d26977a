"""The gradient editors on the bundled models, with their presets and the shipped networks."""

from __future__ import annotations

import json

import pytest

import jeep_core
from jeep_core import atlas
from jeep_core.editing import edit
from jeep_core.evaluation.metrics import counterfact_scores, summarise
from jeep_core.evaluation.suites import load_counterfact
from jeep_core.hypernetworks.storage import NETWORKS
from jeep_core.loading import LoadedModel
from jeep_core.views import ModelView

EDITS = 12
LIMIT_BYTES = 4 * 2**20


@pytest.fixture(scope="module", params=sorted(atlas.MODELS))
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return jeep_core.load(request.param, device="cpu")


@pytest.mark.parametrize("editor", ["ft-wd", *NETWORKS])
def test_a_batch_is_believed_and_neighbors_are_kept(model: LoadedModel, editor: str) -> None:
    cases = load_counterfact("atlas-counterfact-validation").cases[:EDITS]
    before = ModelView(model).weights_sha256()
    view = ModelView(model)
    assert summarise(counterfact_scores(view, cases)).efficacy < 20
    view.apply(edit(model, cases, editor).delta)
    after = summarise(counterfact_scores(view, cases))
    assert after.efficacy >= 90
    assert after.generalization >= 60
    assert after.locality >= 70
    assert ModelView(model).weights_sha256() == before


@pytest.mark.parametrize("editor", NETWORKS)
@pytest.mark.parametrize("name", atlas.MODELS)
def test_shipped_networks_are_small_and_say_where_they_come_from(name: str, editor: str) -> None:
    path = atlas.MODELS[name] / "hypernetworks" / f"{editor}.safetensors"
    assert path.stat().st_size <= LIMIT_BYTES
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["model"] == name
    assert record["network"]["editor"] == editor
    assert record["loss"][-1][1] < record["loss"][0][1]
