"""Presets of real models hold what the rule chooses from the evidence that is published."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from support import ROOT

from jeep_core.editing import resolve_hparams
from jeep_core.editors import record_of
from jeep_core.probe.defaults.from_record import hparams_for
from jeep_core.probe.defaults.rule import carrying_layers, high_region, low_region
from jeep_core.sizing.shapes import SHAPES
from jeep_core.spec.hparams import contexts_of, load_preset, presets_for

MODELS = ("smollm2-135m", "gemma3-270m")
EDITORS = ("jeep", "memit", "alphaedit", "pmet", "ft-wd")


@cache
def evidence(model: str) -> dict[str, Any]:
    """The record of the probe that the presets are from."""
    path = ROOT / "docs/figures" / f"probe-{model}" / "probe.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("editor", EDITORS)
@pytest.mark.parametrize("chat", [True, False])
def test_a_preset_is_what_auto_chooses(model: str, editor: str, chat: bool) -> None:
    n_layers: int = SHAPES[model]["num_hidden_layers"]
    mlp_size: int = SHAPES[model]["intermediate_size"]
    chosen = hparams_for(evidence(model), editor, n_layers, mlp_size, chat=chat)
    assert resolve_hparams(model, editor, None, {}, n_layers, chat=chat) == chosen
    assert contexts_of(chosen) == ("both" if chat else "plain")
    plain = resolve_hparams(model, editor, None, {"contexts": "plain"}, n_layers, chat=chat)
    assert contexts_of(plain) == "plain"


@pytest.mark.parametrize("model", MODELS)
def test_the_layers_follow_from_the_published_curves(model: str) -> None:
    record, n_layers = evidence(model), SHAPES[model]["num_hidden_layers"]
    curves = record["proposal"]["evidence"]
    carrying = carrying_layers(curves["effect"]["mean"])
    low = low_region(carrying[-1], n_layers, parallel=False)
    assert low == record["hparams"]["low"]["layers"]
    assert high_region(curves["contrast"]["mean"], low[-1]) == record["hparams"]["high"]["layers"]
    # rounded as the rule rounds it, by keys of the model's own width
    weight = float(f"{SHAPES[model]['intermediate_size']:.2g}")
    assert record["hparams"]["low"]["moment_weight"] == weight


@pytest.mark.parametrize("model", MODELS)
def test_the_models_have_presets_for_these_editors_alone(model: str) -> None:
    assert {preset.editor for preset in presets_for(model)} == set(EDITORS)
    for editor in EDITORS:
        assert record_of(editor).automatic is not None
        preset = load_preset(f"{editor}-{model}")
        assert (preset.model, preset.dtype) == (model, "float32")
    # a folder that somebody calls otherwise is probed
    assert presets_for(f"/models/my-{model}") == []
