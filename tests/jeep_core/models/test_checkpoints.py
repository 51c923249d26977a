"""A model folder is loaded as its files say, or it is refused with one sentence."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.library import folders, tiny
from support.library.folders import (
    WEIGHTS,
    Damage,
    MakeFolder,
    layers,
    named,
    refusal,
    sharded,
    tensors,
    then,
    truncated,
    without,
    written,
)

from jeep_core.errors import UnsupportedModel
from jeep_core.models.loading import load

FAMILIES = ("llama", "gpt2", "gemma3_text")
INDEX = "model.safetensors.index.json"
HALF = "model-00002-of-00002.safetensors"


def index(record: object) -> Damage:
    return then(sharded, written(INDEX, json.dumps(record)))


def small_integers(found: dict[str, torch.Tensor]) -> None:
    name = named(found, "mlp")
    found[name] = found[name].to(torch.int8)


def small_floats(found: dict[str, torch.Tensor]) -> None:
    name = named(found, "mlp")
    found[name] = found[name].to(torch.float8_e4m3fn)


def twice(folder: Path) -> None:
    kept = (folder / WEIGHTS).read_bytes()
    sharded(folder)
    (folder / WEIGHTS).write_bytes(kept)


def in_both_shards(folder: Path) -> None:
    sharded(folder)
    found = load_file(folder / HALF) | {"lm_head.weight": torch.zeros(2)}
    other = load_file(folder / HALF.replace("2", "1", 1)) | {"lm_head.weight": torch.zeros(2)}
    save_file(found, folder / HALF)
    save_file(other, folder / HALF.replace("2", "1", 1))


def template(first: object, special: object) -> Damage:
    """Tokens that the tokenizer puts before every text."""

    def damage(folder: Path) -> None:
        state = json.loads((folder / "tokenizer.json").read_text())
        text = {"Sequence": {"id": "A", "type_id": 0}}
        state["post_processor"] = {
            "type": "TemplateProcessing", "single": [first, text], "pair": [first, text, text],
            "special_tokens": special,
        }  # fmt: skip
        (folder / "tokenizer.json").write_text(json.dumps(state))

    return damage


DAMAGES: dict[str, tuple[Damage, str]] = {
    # configuration and weights that are not of one model
    "a layer too many": (layers(1), r"= 5, but the weights have 4 layers"),
    "a layer too few": (layers(-1), r"= 3, but the weights have 4 layers"),
    "layers without end": (folders.config(num_hidden_layers=10**9), "have 4 layers|layer_types"),
    "no layers": (folders.config(num_hidden_layers=0), "have 4 layers|layer_types"),
    "layers in words": (folders.config(num_hidden_layers="four"), "expected int, got str"),
    "a matrix missing": (
        tensors(lambda t: t.pop(named(t, "3.mlp"))),
        r"missing: \S*\.3\.mlp\.\S+\): load the configuration",
    ),
    "a matrix unknown": (tensors(lambda t: t.update(more=torch.zeros(2))), r"unexpected: more\)"),
    "a matrix of another shape": (
        tensors(lambda t: t.update({named(t, "mlp"): torch.zeros(3, 3)})),
        r"of another shape: \S*mlp\S* is \[3, 3\], not \[",
    ),
    "no tensors": (tensors(dict.clear), "holds no blocks of a .* its tensors are none"),
    "another hidden size": (folders.config(hidden_size=64), "look at (hidden_size|n_embd)"),
    "a huge hidden size": (folders.config(hidden_size=10**7), "look at (hidden_size|n_embd)"),
    "a hidden size out of range": (folders.config(hidden_size=10**18), "overflow"),
    "a negative hidden size": (folders.config(hidden_size=-32), "negative dimension"),
    "a larger vocabulary": (folders.config(vocab_size=421), r"\[420, 32\].*look at vocab_size"),
    "a smaller vocabulary": (folders.config(vocab_size=100), r"\[420, 32\].*look at vocab_size"),
    "a vocabulary without end": (folders.config(vocab_size=10**12), "look at vocab_size"),
    "no number of a vocabulary": (folders.config(vocab_size=float("nan")), "vocab_size"),
    "another inner size": (
        folders.config(intermediate_size=97),
        r"97.*look at (intermediate_size|n_inner)",
    ),
    "no heads": (folders.config(num_attention_heads=0), "by zero"),
    "no positions": (folders.config(max_position_embeddings=0), "= 0: write a number of tokens"),
    "an unknown activation": (
        folders.config(hidden_act="no", activation_function="no", hidden_activation="no"),
        "KeyError: 'no'",
    ),
    "integers as weights": (tensors(small_integers), r"quantised weights.*\(I8\)"),
    "small floats as weights": (tensors(small_floats), r"quantised weights.*\(F8_E4M3\)"),
    "an unknown type of weights": (folders.config(dtype="float99"), "float99"),
    # files
    "weights cut in half": (truncated(WEIGHTS, 0.5), "model.safetensors is damaged"),
    "a header cut": (truncated(WEIGHTS, 0.001), "model.safetensors is damaged"),
    "empty weights": (truncated(WEIGHTS, 0), "model.safetensors is damaged"),
    "a header of garbage": (written(WEIGHTS, b"\xff" * 1000), "model.safetensors is damaged"),
    "a Git LFS pointer": (written(WEIGHTS, folders.POINTER), "pointer of Git LFS.*git lfs pull"),
    "a folder in the place of weights": (
        then(without(WEIGHTS), lambda folder: (folder / WEIGHTS).mkdir()),
        "has no model.safetensors: copy the weights",
    ),
    "no weights": (without(WEIGHTS), "has no model.safetensors: copy the weights"),
    "weights of another name": (
        lambda folder: (folder / WEIGHTS).rename(folder / "x.safetensors") and None,
        "x.safetensors must have that name",
    ),
    "a shard missing": (then(sharded, without(HALF)), f"lacks {HALF}, which {INDEX} names"),
    "a shard cut": (then(sharded, truncated(HALF, 0.5)), f"{HALF} is damaged"),
    "a tensor in two shards": (in_both_shards, "holds lm_head.weight twice"),
    "the weights twice": (twice, "holds the weights twice"),
    "an index cut": (then(sharded, truncated(INDEX, 0.5)), f"{INDEX} is damaged, it is not JSON"),
    "an index without a map": (index({}), f"{INDEX} is damaged, it lacks weight_map"),
    "an index without metadata": (index({"weight_map": {"a": HALF}}), "lacks .* metadata"),
    "an index with a list": (index({"metadata": {}, "weight_map": ["a"]}), "lacks weight_map"),
    "an index of numbers": (index({"metadata": {}, "weight_map": {"a": 3}}), "3 is no file of"),
    "an index that leaves the folder": (
        index({"metadata": {}, "weight_map": {"a": "../x.safetensors"}}),
        "'../x.safetensors' is no file of its folder",
    ),
    # records
    "no configuration": (without("config.json"), r"it has no config\.json$"),
    "a configuration cut": (truncated("config.json", 0.5), "config.json is damaged"),
    "an empty configuration": (written("config.json", ""), "config.json is damaged"),
    "a configuration that is a list": (written("config.json", "[]"), "is not a JSON object"),
    "a configuration without an end": (written("config.json", "[" * 10**5), "is not JSON"),
    "a configuration that is no text": (written("config.json", b"\xff\xfe"), "is not JSON"),
    "a configuration that is a folder": (
        then(without("config.json"), lambda folder: (folder / "config.json").mkdir()),
        "config.json cannot be read: Is a directory",
    ),
    "no type": (folders.config(model_type=None), "model type None is not one of: GPT-2"),
    "an unknown type": (folders.config(model_type="no"), "model type 'no' is not one of: GPT-2"),
    "a type that is a list": (folders.config(model_type=[]), r"model type \[\] is not one of"),
    "another family": (folders.config(model_type="gpt_neox"), "the weights|no blocks"),
    "kinds of layers unknown": (folders.config(layer_types=["no"] * 4), "layer_type"),
    "an end in words": (folders.config(eos_token_id="end"), "eos_token_id"),
    "an end for generation in words": (
        folders.config("generation_config.json", eos_token_id="end"),
        "eos_token_id of generation_config.json is 'end'",
    ),
    "generation_config.json cut": (written("generation_config.json", "{"), "is not JSON"),
    "tokenizer_config.json cut": (written("tokenizer_config.json", "{"), "is not JSON"),
    "added_tokens.json is a number": (written("added_tokens.json", "3"), "not a JSON object"),
    "a model that gives tuples": (folders.config(return_dict=False), "does not run"),
    # tokenizers
    "no tokenizer": (without("tokenizer.json"), "has no tokenizer: copy tokenizer.json"),
    "a tokenizer cut": (truncated("tokenizer.json", 0.5), "tokenizer.json is damaged"),
    "an empty tokenizer file": (written("tokenizer.json", ""), "tokenizer.json is damaged"),
    "a tokenizer in Git LFS": (written("tokenizer.json", folders.POINTER), "pointer of Git LFS"),
    "a tokenizer of other tokens": (
        written("tokenizer_config.json", '{"tokenizer_class": 3}'),
        "the tokenizer in .* cannot be read",
    ),
    "an end that is a number": (
        written(
            "tokenizer_config.json", '{"tokenizer_class": "TokenizersBackend", "eos_token": 3}'
        ),
        "the tokenizer in .* cannot be read",
    ),
    "a template that names no token": (
        template({"SpecialToken": {"id": "lost", "type_id": 0}}, {}),
        r"cannot read plain text \(no entry found|tokenizer.json is damaged",
    ),
    "a template with an id that is no token": (
        template(
            {"SpecialToken": {"id": "lost", "type_id": 0}},
            {"lost": {"id": "lost", "ids": [999], "tokens": ["lost"]}},
        ),
        r"ids up to 999 \(None\), but the embedding has 420 rows",
    ),
    "a tokenizer without a fast form": (
        written("tokenizer_config.json", '{"tokenizer_class": "ByT5Tokenizer"}'),
        r"\(ByT5Tokenizer\) has no fast form",
    ),
    "SentencePiece's file damaged": (
        then(without("tokenizer.json"), written("tokenizer.model", "x")),
        "tokenizer.model is damaged or no model of SentencePiece",
    ),
    "a tokenizer of Mistral's own": (
        then(without("tokenizer.json"), written("tekken.json", "{}")),
        r"no tokenizer that can be read \(tekken.json cannot\)",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_sentence(
    make_folder: MakeFolder, family: str, kind: str
) -> None:
    damage, sentence = DAMAGES[kind]
    said = refusal(make_folder(family, damage))
    assert re.search(sentence, said)
    assert "\n" not in said


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_and_harmless_buffers_load_as_the_same_model(
    make_folder: MakeFolder, whole: dict[str, Path], family: str
) -> None:
    def older(found: dict[str, torch.Tensor]) -> None:
        """As published years ago: a mask, frequencies, names without the backbone's prefix."""
        prefix = "transformer." if family == "gpt2" else "model."
        bare = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
        found.clear()
        found.update(bare)
        found["h.0.attn.bias"] = torch.zeros(2)
        found["h.0.attn.masked_bias"] = torch.zeros(2)
        found["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    expected = load(str(whole[family]), "cpu")
    assert load(str(make_folder(family, sharded)), "cpu").model_hash == expected.model_hash
    second = whole[family].with_name("older")
    shutil.copytree(whole[family], second)
    tensors(older)(second)
    assert load(str(second), "cpu").model_hash == expected.model_hash


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_every_family_is_read_whole_or_not_at_all(tmp_path: Path, family: str) -> None:
    """GPT-NeoX's head has another name in files than in the model."""
    folder = tmp_path / "model"
    folders.write_folder(folder, family)
    loaded = load(str(folder), "cpu")
    assert loaded.weights_sha256 == tiny.random_model(family).weights_sha256
    lost = loaded.family.weight_name(3)
    tensors(lambda found: found.pop(lost))(folder)
    assert f"(missing: {lost})" in refusal(folder)


def test_many_missing_tensors_are_counted(make_folder: MakeFolder) -> None:
    def drop(found: dict[str, torch.Tensor]) -> None:
        for name in [name for name in found if ".2." in name]:
            del found[name]

    said = refusal(make_folder("llama", tensors(drop)))
    assert "missing: model.layers.2.input_layernorm.weight, " in said
    assert " and 6 more" in said  # nine tensors, three of them named


def test_heads_that_do_not_fit_are_named(make_folder: MakeFolder) -> None:
    said = refusal(make_folder("llama", folders.config(num_key_value_heads=4)))
    assert "k_proj.weight is [16, 32], not [32, 32]" in said
    assert "num_attention_heads, num_key_value_heads, head_dim" in said
    assert "hidden_size" not in said


@pytest.mark.parametrize(
    ("family", "number"), [("llama", "rms_norm_eps"), ("gpt2", "layer_norm_epsilon")]
)
def test_a_model_whose_logits_are_not_finite_is_refused(
    make_folder: MakeFolder, family: str, number: str
) -> None:
    """All its weights are finite: a number in the configuration makes its logits NaN."""
    said = refusal(make_folder(family, folders.config(**{number: float("nan")})))
    assert "says nothing but NaN or infinity in float32" in said
    assert "norm constants" in said


def test_too_many_rotated_dimensions_are_refused_at_load(
    make_folder: MakeFolder,
) -> None:
    assert "does not run" in refusal(make_folder("gptj", folders.config(rotary_dim=64)))


def test_a_window_of_no_tokens_is_refused(make_folder: MakeFolder) -> None:
    assert "sliding_window = -1" in refusal(
        make_folder("gemma3_text", folders.config(sliding_window=-1))
    )


def test_a_separate_head_in_a_tied_configuration_is_refused(make_folder: MakeFolder) -> None:
    said = refusal(make_folder("llama", folders.config(tie_word_embeddings=True)))
    assert "have a head that is not the embedding: set it to false" in said


def test_a_missing_head_is_refused(make_folder: MakeFolder) -> None:
    said = refusal(make_folder("gpt2", folders.config(tie_word_embeddings=False)))
    assert "missing: lm_head.weight" in said
    assert "or set tie_word_embeddings to true" in said


def test_a_saved_copy_of_a_tied_head_changes_no_hash(
    make_folder: MakeFolder, whole: dict[str, Path]
) -> None:
    def copied(found: dict[str, torch.Tensor]) -> None:
        found["lm_head.weight"] = found["transformer.wte.weight"].clone()

    folder = make_folder("gpt2", tensors(copied))
    assert load(str(folder)).model_hash == load(str(whole["gpt2"])).model_hash


def test_weights_of_several_types_become_one(
    make_folder: MakeFolder, whole: dict[str, Path]
) -> None:
    def halved(found: dict[str, torch.Tensor]) -> None:
        name = named(found, "mlp")
        found[name] = found[name].bfloat16()

    folder = make_folder("llama", tensors(halved))
    mixed, expected = load(str(folder), "cpu"), load(str(whole["llama"]), "cpu")
    assert {parameter.dtype for parameter in mixed.model.parameters()} == {torch.float32}
    differing = {k for k, v in mixed.tensor_hashes.items() if v != expected.tensor_hashes[k]}
    assert differing == {"model.layers.0.mlp.down_proj.weight"}


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"device '\w+:99' cannot be used here.*cpu"):
        load("atlas-gptj", "cuda:99")
