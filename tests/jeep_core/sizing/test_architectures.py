"""Counts from a configuration against loaded models of every family."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from support.library import folders, gguf_files, tiny
from transformers import AutoConfig

from jeep_core import atlas
from jeep_core.errors import UnsupportedModel
from jeep_core.models.families import FAMILIES, family_of_type
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from jeep_core.sizing import memory
from jeep_core.sizing.architecture import architecture_of
from jeep_core.sizing.demand import Editing, Workload, Written
from jeep_core.sizing.shapes import SHAPES
from jeep_core.sizing.source import known_model
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Region
from jeep_core.spec.positions import fact_rows
from jeep_core.values.optimiser import FactTokens, Objective, optimise

PREFIXES = ("", "The river is wide and the land around it is old", "I am old and the land")
FACT = Fact("Paris", "{} is a city in the country of", "Peru")
OBJECTIVE = Objective(
    Region(layers=(0,), clamp=3.0, moment_weight=1),
    Region(layers=(2,), clamp=1.5, moment_weight=1),
    n_steps=2, learning_rate=0.5, kl_weight=0.5,
)  # fmt: skip
EDITING = Editing(
    "jeep", (Written("low", (0,), False, True), Written("high", (2,), False, False)), 3, 2
)


def numbers(model: Any) -> int:
    """The numbers of a loaded model's parameters, each tensor once."""
    return sum(parameter.numel() for parameter in model.parameters())


def saved(folder: Path) -> Path:
    """A folder of a random LLaMA."""
    folders.write_folder(folder, "llama")
    return folder


def written(base: LoadedModel) -> dict[str, Any]:
    """The configuration as ``save_pretrained`` writes it, defaults left out."""
    record: dict[str, Any] = json.loads(base.model.config.to_json_string(use_diff=True))
    return record


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_parameters_and_sizes_are_those_of_the_loaded_model(family: str) -> None:
    base = tiny.random_model(family)
    arch = architecture_of(written(base), family)
    assert arch.parameters == numbers(base.model)
    assert (arch.layers, arch.d, arch.vocabulary) == (
        base.n_layers, base.hidden_size, base.vocabulary,
    )  # fmt: skip
    assert arch.key_size(attention=False) == base.mlp_size
    block = base.family.layers_of(base.model)[0]
    assert arch.block_parameters == numbers(block)
    out = base.family.attention_out_of(base.model, 0)
    assert arch.key_size(attention=True) * arch.d == out.get_parameter("weight").numel()


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        ("qwen3", {"attention_bias": True}),
        ("gpt_neox", {"attention_bias": False}),
        ("gemma3_text", {"tie_word_embeddings": False, "attention_bias": True}),
        ("gpt2", {"n_inner": 48, "tie_word_embeddings": False}),
        ("gptj", {"n_inner": 48}),
    ],
)
def test_flags_of_the_configuration_count(
    family: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, kind = tiny.CONFIGS[family]
    monkeypatch.setattr(tiny, "CONFIGS", {family: ({**sizes, **values}, kind)})
    base = tiny.random_model(family)
    assert architecture_of(written(base), family).parameters == numbers(base.model)


@pytest.mark.parametrize("family", [family.model_type for family in FAMILIES])
def test_what_a_configuration_leaves_out_is_what_transformers_takes(family: str) -> None:
    config = AutoConfig.for_model(family)
    defaults = family_of_type(family).contents.defaults
    assert {name: getattr(config, name) for name in defaults} == dict(defaults)
    sizes = {"hidden_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 32,
             "intermediate_size": 64, "vocab_size": 100}  # fmt: skip
    arch = architecture_of({"model_type": family, **sizes}, family)
    read = AutoConfig.for_model(family, **sizes)
    assert arch.kv_heads == (getattr(read, "num_key_value_heads", None) or 32)
    assert arch.head_size == (getattr(read, "head_dim", None) or 128)
    assert arch.tied == read.tie_word_embeddings


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_what_a_backward_pass_keeps_is_what_is_counted(family: str, dtype: torch.dtype) -> None:
    """Against the bytes that value optimisation counts when it runs."""
    base = tiny.random_model(family, dtype)
    fact = FactTokens(*fact_rows(base.tokenizer, FACT, PREFIXES))
    measured = optimise(ModelView(base), [fact], OBJECTIVE).peak_bytes
    row = fact.rows[0]
    load = Workload(
        prefix=0,
        left=fmean(row.subject_last for row in fact.rows),
        segment=row.prediction + row.n_target - row.subject_last,
        answer=row.n_target,
    )
    arch = architecture_of(written(base), family)
    counted = memory.kept_for_gradients(arch, EDITING, load, dtype.itemsize)
    assert measured == pytest.approx(counted, rel=0.12)


def test_the_shapes_have_the_published_numbers_of_parameters() -> None:
    published = {
        "smollm2-135m": 134_515_008,
        "gemma3-270m": 268_098_176,
        "llama-3.2-1b": 1_235_814_400,
        "gpt-j-6b": 6_050_882_784,
        "llama-7b": 6_738_415_616,
        "llama-3.1-8b": 8_030_261_248,
        "llama-3.1-70b": 70_553_706_496,
    }
    counted = {name: architecture_of(SHAPES[name], name).parameters for name in SHAPES}
    assert {name: counted[name] for name in published} == published
    assert counted["gemma-3-27b"] == 27_009_346_304


@pytest.mark.parametrize("name", list(atlas.MODELS))
def test_a_bundled_model_is_known_from_its_headers(name: str) -> None:
    known, base = known_model(name), load(name, device="cpu")
    assert known.architecture.parameters == numbers(base.model)
    assert known.stored_parameters == known.architecture.parameters


def test_a_folder_a_configuration_and_a_file_are_known(tmp_path: Path) -> None:
    folder = saved(tmp_path / "folder")
    known = known_model(str(folder))
    config = known_model(str(folder / "config.json"))
    assert known.architecture == config.architecture
    assert known.stored_parameters == known.architecture.parameters
    model = gguf_files.random_model("llama")
    gguf_files.write(tmp_path / "x.gguf", "llama", model, gguf_files.Kind.Q8_0)
    found = known_model(str(tmp_path / "x.gguf"))
    assert found.stored_parameters == found.architecture.parameters == numbers(model)
    (folder / "model.safetensors").unlink()
    alone = known_model(str(folder))
    assert alone.architecture.parameters == known.architecture.parameters
    assert alone.stored_parameters is None


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"model_type": "mamba"}, "model type 'mamba' is not one of: GPT-2, "),
        ({"model_type": "gemma3"}, "also reads images (model type 'gemma3')"),
        ({"model_type": "llama", "quantization_config": {}}, "quantised weights cannot be edited"),
        ({"model_type": "llama", "num_attention_heads": 2}, "lacks hidden_size"),
        (
            {"model_type": "gpt2", "n_embd": "768", "n_head": 12},
            "has n_embd '768', which must be a whole number from 1 on",
        ),
        (
            {"model_type": "qwen2", "layer_types": ["other"]},
            "layer_types of a Qwen 2 names 'other'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_is_refused(record: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        architecture_of(record, "here/config.json")
    assert said in str(caught.value)


def test_an_unsupported_folder_has_the_sentence_of_loading_it(tmp_path: Path) -> None:
    folder = saved(tmp_path / "folder")
    record = json.loads((folder / "config.json").read_text())
    for changes in ({"model_type": "mamba"}, {"quantization_config": {"bits": 4}}):
        (folder / "config.json").write_text(json.dumps({**record, **changes}))
        with pytest.raises(UnsupportedModel) as loading:
            load(str(folder), device="cpu")
        with pytest.raises(UnsupportedModel) as planning:
            known_model(str(folder))
        assert str(planning.value) == str(loading.value)
