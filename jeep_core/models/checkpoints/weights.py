"""Whether the tensors of a folder are those that its configuration describes, all of them."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM

from jeep_core.errors import UnsupportedModel
from jeep_core.models.checkpoints.advice import some
from jeep_core.models.checkpoints.files import CONFIG, DTYPES, Stored
from jeep_core.models.checkpoints.refusals import refused_as
from jeep_core.models.families import Family

CORRECT = "correct it or copy it again"

HARMLESS = re.compile(
    r"(^|\.)((attn|attention)\.(bias|masked_bias)|rotary_emb\.inv_freq|position_ids)$"
)
"""Buffers that older checkpoints hold and models now compute: attention masks, frequencies."""


def check_weights(folder: Path, config: Any, family: Family, stored: Mapping[str, Stored]) -> None:
    """Compare the headers of the weights with the model that the configuration describes.

    The model is built without memory for its weights, so that a size out of all proportion is
    refused before anything is allocated.  Which names are missing or unknown is what
    transformers says when it has loaded (``refuse_reported``), as it renames some.

    Raises:
        UnsupportedModel: a number of blocks or a shape differs, or a tensor is quantised.
    """
    stored = {name: tensor for name, tensor in stored.items() if not HARMLESS.search(name)}
    quantised = [f"{n} ({t.dtype})" for n, t in sorted(stored.items()) if t.dtype not in DTYPES]
    if quantised:
        raise UnsupportedModel(
            f"{folder} holds quantised weights, which cannot be edited: {some(quantised)}; load "
            "the model's weights in float32, bfloat16 or float16"
        )
    _check_layers(folder, config, family, stored)
    _check_numbers(folder, config, family)
    with (
        refused_as(f"{folder / CONFIG} describes no model that can be built", CORRECT),
        torch.device("meta"),
    ):
        build = cast(Any, AutoModelForCausalLM.from_config)
        skeleton = build(copy.deepcopy(config))
    wanted = {name: tuple(value.shape) for name, value in skeleton.state_dict().items()}
    given = _by_wanted_name(folder, stored, wanted, f"{skeleton.base_model_prefix}.")
    shapes = [
        f"{name} is {[*given[name].shape]}, not {[*shape]}"
        for name, shape in wanted.items()
        if name in given and given[name].shape != shape
    ]
    embedding = weight_name(skeleton, skeleton.get_input_embeddings())
    advice = _fields(config, embedding, family.weight_name(0), wanted, given) if shapes else ""
    refuse_differences(folder, [], [], shapes, advice)


def refuse_differences(
    folder: Path, missing: list[str], unexpected: list[str], shapes: list[str], advice: str = ""
) -> None:
    """One sentence for all that differs; none where nothing does.

    Raises:
        UnsupportedModel: a list is not empty.
    """
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    found = [f"{kind}: {some(names)}" for kind, names in kinds if names]
    if found:
        raise UnsupportedModel(
            f"the weights in {folder} are not those of its {CONFIG} ({'; '.join(found)}): "
            f"load the configuration and the weights of one and the same model{advice}"
        )


def refuse_reported(folder: Path, model: Any, found: Mapping[str, Any]) -> None:
    """Refuse a model that transformers has completed with random weights, or left weights out of.

    ``found`` is its report.

    Raises:
        UnsupportedModel: a tensor was missing, unknown or of another shape.
    """
    missing = sorted(found["missing_keys"])
    unexpected = sorted(name for name in found["unexpected_keys"] if not HARMLESS.search(name))
    shapes = [
        f"{name} is {[*has]}, not {[*wants]}"
        for name, has, wants in sorted(found["mismatched_keys"])
    ]
    advice = ""
    if missing == [weight_name(model, model.get_output_embeddings())]:
        advice = f", or set tie_word_embeddings to true in {CONFIG} if its head is the embedding"
    refuse_differences(folder, missing, unexpected, shapes, advice)


def refuse_untied(folder: Path, model: Any) -> None:
    """transformers leaves a head alone that differs from the embedding it should be tied to.

    Raises:
        UnsupportedModel: the configuration ties them and the weights hold two matrices.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if model.config.tie_word_embeddings and head.weight is not embedding.weight:
        raise UnsupportedModel(
            f"{folder / CONFIG} says tie_word_embeddings, but the weights have a head that is not "
            "the embedding: set it to false if that head is the model's, or remove the head"
        )


def _check_layers(folder: Path, config: Any, family: Family, stored: Mapping[str, Stored]) -> None:
    """Compare the number of blocks, before a model of any number of them is built."""
    number = re.compile(rf"(?:^|\.){re.escape(family.layers)}\.(\d+)\.")
    layers = {int(found[1]) for name in stored if (found := number.search(name))}
    key = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    said = config.num_hidden_layers
    if not layers:
        raise UnsupportedModel(
            f"{folder} holds no blocks of a {family.name} model, its tensors are "
            f"{some(sorted(stored)) or 'none'}: copy the weights that belong to its {CONFIG}"
        )
    if said != max(layers) + 1:
        raise UnsupportedModel(
            f"{folder / CONFIG} says {key} = {said}, but the weights have {max(layers) + 1} "
            "layers: load the configuration and the weights of one and the same model"
        )


def _by_wanted_name(
    folder: Path, stored: Mapping[str, Stored], wanted: Mapping[str, Any], prefix: str
) -> dict[str, Stored]:
    """The tensors under the model's own names; those it does not know are left out.

    Published checkpoints leave out the backbone's prefix, or have it where the model has none.
    """
    given: dict[str, Stored] = {}
    for name, tensor in stored.items():
        names = (name, prefix + name, name.removeprefix(prefix))
        own = next((candidate for candidate in names if candidate in wanted), None)
        if own is not None and own in given:
            raise UnsupportedModel(
                f"{folder} holds {own} twice, with and without {prefix!r}: copy the weights again"
            )
        if own is not None:
            given[own] = tensor
    return given


def _fields(
    config: Any,
    embedding: str,
    mlp_out: str,
    wanted: Mapping[str, tuple[int, ...]],
    given: Mapping[str, Stored],
) -> str:
    """The fields that do not fit the weights, as far as shapes tell."""

    def differs(name: str, axis: int | None = None) -> bool:
        """Whether the tensor is there with another shape, on one axis or at all."""
        found = given[name].shape if name in given else wanted[name]
        if axis is None or len(found) != len(wanted[name]):
            return found != wanted[name]
        return found[axis] != wanted[name][axis]

    keys = ["vocab_size"] if differs(embedding, 0) else []
    if differs(embedding, 1):
        keys += ["hidden_size"]
    else:
        keys += ["intermediate_size"] if differs(mlp_out) else []
        if any(differs(name) for name in wanted if "attn" in name or "attention." in name):
            keys += ["num_attention_heads", "num_key_value_heads", "head_dim"]
    own = [config.attribute_map.get(key, key) for key in keys]
    return f" (of {CONFIG}, look at {', '.join(own)})" if own else ""


def _check_numbers(folder: Path, config: Any, family: Family) -> None:
    """Numbers that no shape tells: how long a text may be, and how far a block looks back."""
    keys = ["max_position_embeddings"]
    window = getattr(config, "sliding_window", None)
    keys += ["sliding_window"] if family.window != "none" and window is not None else []
    for key in keys:
        value = getattr(config, key, None)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UnsupportedModel(
                f"{folder / CONFIG} says {config.attribute_map.get(key, key)} = {value!r}: "
                "write a number of tokens, at least 1"
            )


def weight_name(model: Any, wanted: Any) -> str:
    """The name of the weight of one of the model's modules."""
    return next(f"{name}.weight" for name, module in model.named_modules() if module is wanted)
