"""Hyper-parameters: what is shipped is valid, what is wrong is named by its pointer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, GPTJConfig, LlamaConfig

from jeep_core import atlas
from jeep_core.editing import resolve_hparams
from jeep_core.editors import EDITORS, create, hparams_class
from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.errors import InvalidHParams
from jeep_core.models.families import family_of
from jeep_core.sizing.shapes import SHAPES
from jeep_core.spec.hparams import (
    PRESETS,
    OptimisedEditorHParams,
    _SafeLoader,
    load_preset,
    merge,
    preset_names,
    presets_for,
    validate_hparams,
)

LOW = {"layers": [1, 2], "clamp": 0.75, "moment_weight": 30}
HIGH = {"layers": [4, 5], "clamp": 0.25, "moment_weight": 30}


def problems_of(
    values: dict[str, Any], cls: type[OptimisedEditorHParams] = JeepHParams, n_layers: int = 9
) -> set[tuple[str, str]]:
    with pytest.raises(InvalidHParams) as caught:
        validate_hparams(cls, values, n_layers)
    return {(problem.pointer, problem.code) for problem in caught.value.problems}


def test_residuals_are_spread_as_in_the_papers() -> None:
    """JEEP: √ low, linear high; MEMIT: linear."""
    jeep = JeepHParams.model_validate({"low": LOW, "high": HIGH})
    assert (jeep.low.spread, jeep.high.spread) == ("sqrt", "linear")
    assert MemitHParams.model_validate({"low": LOW}).low.spread == "linear"


PUBLISHED = {
    "EleutherAI/gpt-j-6b": GPTJConfig(
        vocab_size=50400, n_positions=2048, n_embd=4096, n_layer=28, n_head=16, rotary_dim=64
    ),
    "huggyllama/llama-7b": LlamaConfig(
        vocab_size=32000,
        max_position_embeddings=2048,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        head_dim=128,
    ),
    **{name: AutoConfig.for_model(**SHAPES[name]) for name in ("smollm2-135m", "gemma3-270m")},
}
"""The published configurations of models that are not shipped."""


def _config(model: str) -> Any:
    folder = atlas.MODELS.get(model)
    return AutoConfig.from_pretrained(folder) if folder else PUBLISHED[model]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_for_its_model(name: str) -> None:
    """Its layers have matrices, seen on a model without memory."""
    preset = load_preset(name)
    assert preset.name == name
    assert preset.origin
    config = _config(preset.model)
    n_layers = config.num_hidden_layers
    hparams = resolve_hparams(preset.model, preset.editor, name, {}, n_layers)
    assert isinstance(hparams, hparams_class(preset.editor))
    assert hparams == validate_hparams(type(hparams), hparams.model_dump(mode="json"), n_layers)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    family = family_of(config)
    assert len(family.layers_of(model)) == n_layers
    for layer in hparams.moment_layers:
        assert model.get_parameter(family.weight_name(layer)).shape[0] == config.hidden_size


SQRT, LINEAR = "sqrt", "linear"
APPENDIX_D = {  # layers, γ, λ, spread of every region; steps; dtype
    "jeep-gpt-j-6b": ([(3, 8, 0.75, 2000, SQRT), (15, 16, 0.25, 2000, LINEAR)], 30, "float16"),
    "jeep-gpt-j-6b-zsre": ([(3, 8, 0.75, 6000, SQRT), (15, 16, 0.8, 2000, LINEAR)], 30, "float16"),
    "jeep-llama-7b": ([(5, 10, 1, 2500, SQRT), (22, 24, 0.25, 1000, LINEAR)], 30, "float16"),
    "jeep-llama-7b-zsre": ([(5, 10, 1, 6000, SQRT), (22, 24, 0.7, 3000, LINEAR)], 30, "float16"),
    "memit-gpt-j-6b": ([(3, 8, 0.75, 15000, LINEAR)], 25, "float32"),
    "memit-llama-7b": ([(5, 10, 0.9, 4000, LINEAR)], 25, "float16"),
    "pmet-gpt-j-6b": ([(3, 8, 0.75, 6000, SQRT)], 30, "float32"),
    "pmet-llama-7b": ([(5, 10, 0.9, 4000, SQRT)], 30, "float16"),
    "pmet-llama-7b-zsre": ([(5, 10, 1, 6000, SQRT)], 30, "float16"),
}
OTHERS_OF_APPENDIX_D = {  # what differs from method to method, under our names
    "rome-gpt-j-6b": {"layer": 5, "n_steps": 20, "learning_rate": 0.5, "clamp": 4},
    "rome-llama-7b": {"layer": 7, "n_steps": 20, "learning_rate": 0.5, "clamp": 4},
    "ft-wd-gpt-j-6b": {"layer": 21, "n_steps": 25, "learning_rate": 5e-5, "stop_loss": 1e-2},
    "ft-wd-llama-7b": {"layer": 23, "n_steps": 25, "learning_rate": 5e-5, "stop_loss": 1e-1},
    "mend-gpt-j-6b": {"layers": (25, 26, 27)},
    "malmen-gpt-j-6b": {"layers": (22, 23, 24, 25, 26, 27), "rank": 1920, "n_blocks": 2},
    "malmen-llama-7b": {"layers": (26, 27, 28, 29, 30, 31), "rank": 1920, "n_blocks": 2},
}


@pytest.mark.parametrize("name", OTHERS_OF_APPENDIX_D)
def test_presets_of_other_editors_have_the_figures_of_the_paper(name: str) -> None:
    preset = load_preset(name)
    assert "appendix D" in preset.origin
    n_layers = 28 if "gpt-j" in name else 32
    hparams = validate_hparams(hparams_class(preset.editor), preset.hparams, n_layers)
    for field, value in OTHERS_OF_APPENDIX_D[name].items():
        assert getattr(hparams, field) == value


@pytest.mark.parametrize("name", APPENDIX_D)
def test_presets_have_the_figures_of_the_paper(name: str) -> None:
    """Shi et al., AAAI 2025, appendix D."""
    regions, steps, dtype = APPENDIX_D[name]
    preset = load_preset(name)
    assert "appendix D" in preset.origin
    assert "100,000 samples of Wikitext" in preset.origin
    assert preset.dtype == dtype
    hparams: Any = validate_hparams(hparams_class(preset.editor), preset.hparams, 32)
    found = [
        (r.layers[0], r.last, r.clamp, r.moment_weight, r.spread) for r in hparams.regions.values()
    ]
    assert found == regions
    rate = 0.2 if name == "pmet-gpt-j-6b" else 0.5
    kl_weight = 1 if preset.editor == "pmet" else 0.0625
    assert (hparams.n_steps, hparams.learning_rate, hparams.kl_weight) == (steps, rate, kl_weight)
    assert {region.weight_decay for region in hparams.regions.values()} == {0.5}
    assert hparams.n_prefixes == 6


@pytest.mark.parametrize("model", ["/models/GPT-J-6B", "gpt-j-6b", "EleutherAI/gpt-j-6B/"])
def test_a_local_copy_has_the_presets_of_its_hub_id(model: str) -> None:
    """CounterFact before zsRE."""
    jeep = [preset.name for preset in presets_for(model) if preset.editor == "jeep"]
    assert jeep == ["jeep-gpt-j-6b", "jeep-gpt-j-6b-zsre"]
    assert presets_for("EleutherAI/gpt-j-6b-other") == []


def test_another_model_of_the_same_name_has_no_presets() -> None:
    """Its layers may exist, and still mean something else."""
    assert presets_for("gpt-j-6b", shape=(28, 4096))
    assert presets_for("gpt-j-6b", shape=(28, 2048)) == []
    assert presets_for("gpt-j-6b", shape=(24, 4096)) == []
    with pytest.raises(InvalidHParams, match="has no preset for this model"):
        resolve_hparams("gpt-j-6b", "jeep", None, {}, 28, shape=(28, 2048))


def test_shipped_presets_say_the_shape_of_their_model() -> None:
    shapes: dict[str, set[Any]] = {}
    for name in preset_names():
        preset = load_preset(name)
        shapes.setdefault(preset.model, set()).add(preset.shape)
    assert shapes == {
        "EleutherAI/gpt-j-6b": {(28, 4096)},
        "huggyllama/llama-7b": {(32, 4096)},
        "atlas-gptj": {(9, 192)},
        "atlas-llama": {(9, 160)},
        "smollm2-135m": {(30, 576)},
        "gemma3-270m": {(18, 640)},
    }


def _own(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.yaml").write_text(text)


OWN = """
editor: memit
model: atlas-gptj
origin: by hand
hparams: {low: {layers: [0], clamp: 1.25, moment_weight: 7}}
"""


def test_own_presets_come_before_those_shipped(tmp_path: Path) -> None:
    _own(tmp_path, "my-own-memit-with-a-long-name", OWN)
    names = [p.name for p in presets_for("atlas-gptj", tmp_path) if p.editor == "memit"]
    shipped = ["memit-atlas-gptj", "memit-atlas-gptj-paper"]
    assert names == ["my-own-memit-with-a-long-name", *shipped]
    chosen: Any = resolve_hparams("atlas-gptj", "memit", None, {}, 9, tmp_path)
    assert (chosen.low.clamp, chosen.low.moment_weight) == (1.25, 7)
    named = resolve_hparams("atlas-gptj", "memit", "memit-atlas-gptj", {}, 9, tmp_path)
    assert named == resolve_hparams("atlas-gptj", "memit", None, {}, 9)
    assert "my-own-memit-with-a-long-name" not in preset_names()


def test_an_own_preset_hides_the_shipped_one_of_its_name(tmp_path: Path) -> None:
    _own(tmp_path, "memit-atlas-gptj", OWN)
    assert load_preset("memit-atlas-gptj", tmp_path).origin == "by hand"
    assert load_preset("memit-atlas-gptj").origin != "by hand"


def test_no_preset_is_called_auto(tmp_path: Path) -> None:
    _own(tmp_path, "auto", OWN)
    with pytest.raises(InvalidHParams, match=r"auto\.yaml: no preset is called auto, .* rename it"):
        presets_for("atlas-gptj", tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[1, 2]", "editor: jeep", "{", OWN + "surprise: 1", OWN.replace("memit", "[]"), "\0"],
)
def test_a_file_that_is_no_preset_is_named(tmp_path: Path, text: str) -> None:
    _own(tmp_path, "broken", text)
    with pytest.raises(InvalidHParams, match=r"broken\.yaml is not a preset"):
        presets_for("atlas-gptj", tmp_path)


def test_presets_are_the_same_without_libyaml() -> None:
    for path in PRESETS.glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert _SafeLoader(text).get_single_data() == yaml.safe_load(text)


@pytest.mark.parametrize("model", atlas.MODELS)
@pytest.mark.parametrize("editor", EDITORS)
def test_every_bundled_model_has_a_plain_preset_for_every_editor(model: str, editor: str) -> None:
    plain = next(preset for preset in presets_for(model) if preset.editor == editor)
    assert plain.name == f"{editor}-{model}"
    fields = ("n_steps", "n_passes", "step_size", "step_scale")
    field = next(one for one in fields if one in hparams_class(editor).model_fields)
    chosen = resolve_hparams(model, editor, None, {field: 3}, 99)
    assert chosen == resolve_hparams(model, editor, plain.name, {field: 3}, 99)
    assert getattr(chosen, field) == 3


def test_defaults_are_those_of_the_paper() -> None:
    jeep, memit = JeepHParams(low=LOW, high=HIGH), MemitHParams(low=LOW)
    assert (jeep.n_steps, jeep.learning_rate, jeep.kl_weight) == (30, 0.5, 0.0625)
    assert (jeep.low.weight_decay, jeep.high.weight_decay, jeep.n_prefixes) == (0.5, 0.5, 6)
    assert (jeep.stop_probability, jeep.high_target) == (0.9, "at_optimum")
    assert (memit.n_steps, memit.learning_rate, memit.stop_loss) == (25, 0.5, 0.05)
    assert jeep.preserve_previous_edits
    assert list(jeep.regions) == ["low", "high"]
    assert list(memit.regions) == ["low"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"low": None}, {("/hparams/low", "model_type")}),
        ({"surprise": 1}, {("/hparams/surprise", "extra_forbidden")}),
        ({"a/b~c": 1}, {("/hparams/a~1b~0c", "extra_forbidden")}),
        ({"n_steps": 0}, {("/hparams/n_steps", "greater_than_equal")}),
        ({"n_steps": 1001}, {("/hparams/n_steps", "less_than_equal")}),
        ({"n_steps": 2.5}, {("/hparams/n_steps", "int_from_float")}),
        ({"learning_rate": 0}, {("/hparams/learning_rate", "greater_than")}),
        ({"learning_rate": float("nan")}, {("/hparams/learning_rate", "finite_number")}),
        ({"kl_weight": float("inf")}, {("/hparams/kl_weight", "finite_number")}),
        ({"kl_weight": -0.1}, {("/hparams/kl_weight", "greater_than_equal")}),
        ({"n_prefixes": 0}, {("/hparams/n_prefixes", "greater_than_equal")}),
        ({"stop_probability": 1.01}, {("/hparams/stop_probability", "less_than_equal")}),
        ({"stop_probability": 0}, {("/hparams/stop_probability", "greater_than")}),
        ({"high_target": "other"}, {("/hparams/high_target", "literal_error")}),
        ({"low": {**LOW, "clamp": 0}}, {("/hparams/low/clamp", "greater_than")}),
        ({"low": {**LOW, "clamp": "much"}}, {("/hparams/low/clamp", "float_parsing")}),
        ({"high": {**HIGH, "moment_weight": -1}},
         {("/hparams/high/moment_weight", "greater_than")}),
        ({"high": {**HIGH, "weight_decay": -1}},
         {("/hparams/high/weight_decay", "greater_than_equal")}),
        ({"high": {**HIGH, "spread": "cubic"}}, {("/hparams/high/spread", "literal_error")}),
        ({"low": {"layers": [1], "clamp": 1}}, {("/hparams/low/moment_weight", "missing")}),
        ({"low": {**LOW, "layers": []}}, {("/hparams/low/layers", "too_short")}),
        ({"low": {**LOW, "layers": [-1, 0]}},
         {("/hparams/low/layers/0", "greater_than_equal")}),
        ({"low": {**LOW, "layers": [1, 3]}}, {("/hparams/low/layers", "value_error")}),
        ({"low": {**LOW, "layers": [2, 1]}}, {("/hparams/low/layers", "value_error")}),
        ({"low": {**LOW, "layers": [4]}}, {("/hparams", "value_error")}),
        ({"high": {**HIGH, "layers": [8, 9]}}, {("/hparams/high/layers", "no_such_layer")}),
        ({"high": {**HIGH, "layers": [7, 8]}}, {("/hparams/high/layers", "last_layer")}),
        ({"n_steps": 0, "low": {**LOW, "clamp": 0}},
         {("/hparams/n_steps", "greater_than_equal"), ("/hparams/low/clamp", "greater_than")}),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(change: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    assert problems_of({"low": LOW, "high": HIGH, **change}) == expected


def test_every_region_with_missing_layers_is_named() -> None:
    values = {"low": {**LOW, "layers": [9]}, "high": {**HIGH, "layers": [10, 11]}}
    assert problems_of(values) == {
        ("/hparams/low/layers", "no_such_layer"),
        ("/hparams/high/layers", "no_such_layer"),
    }


def test_the_highest_layer_that_can_end_a_region_is_the_last_but_one() -> None:
    high = {**HIGH, "layers": [6, 7]}
    checked = validate_hparams(JeepHParams, {"low": LOW, "high": high}, 9)
    assert checked.regions["high"].last == 7


def test_memit_refuses_a_high_region() -> None:
    assert problems_of({"low": LOW, "high": HIGH}, MemitHParams) == {
        ("/hparams/high", "extra_forbidden")
    }
    assert problems_of({"low": LOW, "stop_loss": 0}, MemitHParams) == {
        ("/hparams/stop_loss", "greater_than")
    }


def test_hparams_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        JeepHParams(low=LOW, high=HIGH).low.clamp = 2  # type: ignore[misc]


def _problem(*arguments: Any) -> tuple[str, str, str]:
    with pytest.raises(InvalidHParams) as caught:
        resolve_hparams(*arguments)
    [problem] = caught.value.problems
    return problem.pointer, problem.code, problem.message


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    assert _problem("atlas-gptj", "memitt", None, {}, 9) == (
        "/editor", "unknown_editor", 
        "no editor 'memitt'; did you mean 'memit'? there are: jeep, memit, pmet, rome, alphaedit, "
        "ft-wd, mend, malmen, ultraedit, locft, crispedit",
    )  # fmt: skip
    pointer, code, message = _problem("atlas-gptj", "zzz", None, {}, 9)
    assert (pointer, code) == ("/editor", "unknown_editor")
    assert all(editor in message for editor in EDITORS)
    pointer, code, message = _problem("atlas-gptj", "jeep", "../jeep-atlas-gptj", {}, 9)
    assert (pointer, code) == ("/preset", "unknown_preset")
    assert "jeep-atlas-gptj" in message.split("there are:")[1]
    with pytest.raises(InvalidHParams):
        create("zzz")


def test_a_preset_of_another_editor_is_refused() -> None:
    pointer, code, message = _problem("atlas-gptj", "jeep", "memit-atlas-gptj", {}, 9)
    assert (pointer, code) == ("/preset", "other_editor")
    assert "'memit'" in message


def test_changes_are_laid_over_a_preset_field_by_field() -> None:
    base = {"low": LOW, "high": HIGH, "n_steps": 30}
    merged = merge(base, {"low": {"clamp": 2}, "n_steps": 5, "new": {"x": 1}})
    assert merged == {"low": {**LOW, "clamp": 2}, "high": HIGH, "n_steps": 5, "new": {"x": 1}}
    assert base == {"low": LOW, "high": HIGH, "n_steps": 30}
    assert LOW["clamp"] == 0.75
    assert merge({"layers": [1, 2]}, {"layers": [3]}) == {"layers": [3]}
    assert merge({"low": LOW}, {"low": None}) == {"low": None}
