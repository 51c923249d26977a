"""Small model folders and ways to damage them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from jeep_core.errors import UnsupportedModel
from jeep_core.models.loading import load
from support.library import tiny

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"

WEIGHTS = "model.safetensors"

Damage = Callable[[Path], None]
MakeFolder = Callable[..., Path]
"""A family and a damage to a folder of one's own: the fixture ``make_folder``."""


def write_folder(folder: Path, family: str) -> None:
    """A complete folder of a random model, as a user would have it."""
    base = tiny.random_model(family)
    base.model.save_pretrained(folder)
    base.tokenizer.save(str(folder / "tokenizer.json"))
    record = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(record))


def write_chat_folder(folder: Path, family: str = "llama") -> None:
    """A folder of a random model with a chat template, and names for BOS and EOS."""
    write_folder(folder, family)
    chat = tiny.chat_model(family).chat
    assert chat is not None
    record = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": chat.source}
    named = {name: text for name, text in chat.tokens.items() if text}
    (folder / "tokenizer_config.json").write_text(json.dumps({**record, **named}))


def written(name: str, content: str | bytes) -> Damage:
    """A file with other content."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: _write(folder / name, data)


def without(*names: str) -> Damage:
    """Files that are not there."""
    return lambda folder: [(folder / name).unlink() for name in names] and None


def truncated(name: str, keep: float) -> Damage:
    """A file that was not copied to its end."""

    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return damage


def config(file: str = "config.json", **values: Any) -> Damage:
    """Fields with other values; None takes a field out."""

    def damage(folder: Path) -> None:
        record = json.loads((folder / file).read_text())
        for key, value in values.items():
            key = _own_key(record, key)
            record.pop(key, None) if value is None else record.update({key: value})
        (folder / file).write_text(json.dumps(record))

    return damage


def layers(by: int) -> Damage:
    """Another number of blocks in the configuration."""

    def damage(folder: Path) -> None:
        record = json.loads((folder / "config.json").read_text())
        key = _own_key(record, "num_hidden_layers")
        record[key] += by
        if "layer_types" in record:
            record["layer_types"] = (record["layer_types"] * 2)[: record[key]]
        (folder / "config.json").write_text(json.dumps(record))

    return damage


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Other tensors in the one file of weights."""

    def damage(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors", {"format": "pt"})

    return damage


def named(found: Iterable[str], part: str) -> str:
    """The first tensor whose name has ``part``."""
    return next(name for name in sorted(found) if part in name)


def sharded(folder: Path) -> None:
    """The same weights in two files and an index."""
    found = load_file(folder / "model.safetensors")
    names = sorted(found)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    where = {}
    for number, half in enumerate(halves, start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: found[name] for name in half}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(half, file)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def then(*damages: Damage) -> Damage:
    """One damage after the other."""

    def damage(folder: Path) -> None:
        for one in damages:
            one(folder)

    return damage


def _own_key(record: dict[str, Any], key: str) -> str:
    """The name that GPT-2 has for a field."""
    names = {
        "num_hidden_layers": "n_layer",
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
    }
    own = {**names, "intermediate_size": "n_inner", "max_position_embeddings": "n_positions"}.get(
        key
    )
    return own if own in record else key


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def refusal(folder: Path | str) -> str:
    """The sentence with which a folder is refused."""
    with pytest.raises(UnsupportedModel) as refused:
        load(str(folder), "cpu")
    return str(refused.value)
