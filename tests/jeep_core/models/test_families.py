"""Which models can be edited, and where their parts are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.library import tiny
from transformers import AutoConfig, BertConfig, GPT2Config, LlamaConfig

from jeep_core.errors import UnsupportedModel
from jeep_core.models.families import FAMILIES, family_of, is_transposed
from jeep_core.models.loading import LoadedModel, load

ROWS = {
    "gpt2": "GPT-2",
    "gptj": "GPT-J",
    "gpt_neox": "GPT-NeoX/Pythia",
    "llama": "LLaMA",
    "mistral": "Mistral",
    "qwen2": "Qwen 2",
    "qwen3": "Qwen 3",
    "gemma": "Gemma 1",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 (text)",
}
SUPPORTED = tuple(ROWS.values())


@pytest.mark.parametrize("model_type", ROWS)
def test_every_configuration_is_recognised_as_its_family(model_type: str) -> None:
    assert family_of(AutoConfig.for_model(model_type)).name == ROWS[model_type]


def test_attention_that_looks_ahead_is_refused() -> None:
    """Blocks must be causal: keys and values to the left are computed once."""
    config = AutoConfig.for_model("gemma3_text", use_bidirectional_attention=True)
    with pytest.raises(UnsupportedModel, match="looks ahead") as caught:
        family_of(config)
    assert all(name in str(caught.value) for name in SUPPORTED)


def test_blocks_of_an_unknown_kind_are_refused() -> None:
    """A mask of the wrong kind would let an edit read what the model does not."""
    config = AutoConfig.for_model("gemma2", num_hidden_layers=2)
    config.layer_types = ["sliding_attention", "chunked_attention"]
    with pytest.raises(UnsupportedModel, match=r"names 'chunked_attention'; .* full_attention, sl"):
        family_of(config)


def test_every_kind_of_block_has_its_window() -> None:
    config = AutoConfig.for_model("gemma2", num_hidden_layers=2, sliding_window=5)
    config.layer_types = ["sliding_attention", "full_attention"]
    assert family_of(config).windows_of(config) == {"full_attention": None, "sliding_attention": 5}
    assert family_of(LlamaConfig()).windows_of(LlamaConfig()) == {}


def test_a_multimodal_model_names_the_class_of_its_text_part() -> None:
    """The advice to save the text part is a command that uses it."""
    import transformers

    for family in FAMILIES:
        assert bool(family.part_of) == bool(family.text_class)
        assert not family.text_class or hasattr(transformers, family.text_class)


@pytest.mark.parametrize("config", [BertConfig(), AutoConfig.for_model("gemma3")])
def test_other_architectures_are_refused_with_the_list(config: Any) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        family_of(config)
    assert repr(config.model_type) in str(caught.value)
    assert all(name in str(caught.value) for name in SUPPORTED)


@pytest.mark.parametrize("config", [GPT2Config(), LlamaConfig(), BertConfig()])
def test_quantised_weights_are_refused_with_the_list(config: Any) -> None:
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(UnsupportedModel, match="quantised") as caught:
        family_of(config)
    assert all(name in str(caught.value) for name in SUPPORTED)


def test_refused_configurations_are_refused_before_weights_are_read(tmp_path: Path) -> None:
    """Neither folder holds weights."""
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(UnsupportedModel, match="'bert'"):
        load(str(tmp_path / "bert"))
    quantised = LlamaConfig()
    quantised.quantization_config = {"quant_method": "gptq", "bits": 4}
    quantised.save_pretrained(tmp_path / "gptq")
    with pytest.raises(UnsupportedModel, match="quantised"):
        load(str(tmp_path / "gptq"))


def test_pickled_weights_are_refused(tmp_path: Path, gpt2: LoadedModel) -> None:
    gpt2.model.config.save_pretrained(tmp_path)
    torch.save(gpt2.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match="safetensors"):
        load(str(tmp_path))


def test_an_unknown_dtype_is_refused(tmp_path: Path, gpt2: LoadedModel) -> None:
    gpt2.model.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="'int8' is not one of: auto, float32"):
        load(str(tmp_path), dtype="int8")


@pytest.mark.parametrize("model_type", ROWS)
def test_parts_of_a_model_are_where_its_family_says(model_type: str) -> None:
    base = tiny.random_model(model_type)
    family = base.family
    assert base.n_layers == len(tiny.blocks(base.model)) == 4
    assert base.max_positions == tiny.POSITIONS
    assert base.mlp_size == (128 if model_type.startswith(("gptj", "gpt2")) else 96)
    assert list(family.layers_of(base.model)) == list(tiny.blocks(base.model))
    for layer in range(4):
        module = tiny.mlp_out(base.model, layer)
        assert family.mlp_out_of(base.model, layer) is module
        assert base.model.get_parameter(family.weight_name(layer)) is module.weight
        assert is_transposed(module) == (family.name == "GPT-2")
        assert (family.norm_after(base.model, layer) is None) == (
            family.name not in ("Gemma 2", "Gemma 3 (text)")
        )


def test_the_families_are_exactly_the_tested_rows() -> None:
    assert [family.model_type for family in FAMILIES] == list(ROWS)


def test_loading_from_a_folder_gives_the_same_model(tmp_path: Path, base: LoadedModel) -> None:
    base.model.save_pretrained(tmp_path)
    base.tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    loaded = load(str(tmp_path), device="cpu")
    assert loaded.weights_sha256 == base.weights_sha256
    assert loaded.eos_token_ids == base.eos_token_ids
    for text in ("Paris is in", " São Paulo 東京"):
        assert loaded.tokenizer.encode(text).ids == base.tokenizer.encode(text).ids
    assert not any(p.requires_grad for p in loaded.model.parameters())
    half = load(str(tmp_path), device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.weights_sha256 != base.weights_sha256


def test_a_folder_without_a_model_is_refused_by_its_name(tmp_path):
    with pytest.raises(UnsupportedModel, match=r"no config\.json"):
        load(str(tmp_path))


def test_weights_that_are_not_safetensors_are_refused(tmp_path):
    base = tiny.random_model("gpt2")
    base.model.config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\0")
    with pytest.raises(UnsupportedModel, match="safetensors"):
        load(str(tmp_path))
