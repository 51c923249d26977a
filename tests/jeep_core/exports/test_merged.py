"""Whole checkpoints: loaded by transformers they are the version, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.library.exported import edited, factored, loaded, logits
from support.library.folders import write_chat_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from jeep_core.errors import Cancelled, NotExportable
from jeep_core.exports import tensor_files
from jeep_core.exports.checkpoint import checkpoint_bytes, write_checkpoint
from jeep_core.exports.folders import hash_of
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor, stop_if

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FAMILIES = ("gpt2", "gptj", "gpt_neox", "llama", "gemma", "gemma3_text")


def merged(folder: Path, view: ModelView, **arguments: Any) -> Path:
    folder.mkdir()
    write_checkpoint(folder, view.base, view.replaced, **arguments)
    return folder


def without_prefix(folder: Path, prefix: str) -> None:
    """Names as in checkpoints that were saved from the backbone alone."""
    tensors = load_file(folder / WEIGHTS)
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    save_file(named, folder / WEIGHTS, {"format": "pt"})


def into_shards(folder: Path, size: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size=size)


def stored_as(folder: Path, dtype: torch.dtype) -> None:
    tensors = {name: t.to(dtype) for name, t in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_the_version_byte_for_byte(tmp_path: Path, family: str) -> None:
    view = edited(loaded(tmp_path / "base", family))
    model: Any = AutoModelForCausalLM.from_pretrained(merged(tmp_path / "out", view))
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, view.parameter(name)), name
    assert torch.equal(logits(model.eval()), logits(view.model))
    assert load(str(tmp_path / "out")).weights_sha256 == view.weights_sha256()


def test_files_are_those_of_the_base_but_for_the_changed_matrices(tmp_path: Path) -> None:
    base = loaded(tmp_path / "base", "llama")
    out = merged(tmp_path / "out", edited(base))
    assert {p.name for p in out.iterdir()} == {p.name for p in (tmp_path / "base").iterdir()}
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (out / name).read_bytes() == (tmp_path / "base" / name).read_bytes()
    before = tensor_files.read_layout(tmp_path / "base" / WEIGHTS)
    after = tensor_files.read_layout(out / WEIGHTS)
    assert [(e.name, e.dtype, e.shape) for e in after.entries] == [
        (e.name, e.dtype, e.shape) for e in before.entries
    ]
    assert after.metadata["format"] == "pt"


def test_tokenizer_and_chat_template_come_along(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    write_chat_folder(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "LICENSE.txt").write_text("as you like")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "short.jinja").write_text("{{ messages[0] }}")
    (folder / "model.py").write_text("raise SystemExit")
    out = merged(tmp_path / "out", edited(load(str(folder))))
    assert AutoTokenizer.from_pretrained(out).get_chat_template() == "{{ messages }}"
    assert (out / "LICENSE.txt").read_text() == "as you like"
    assert (out / "additional_chat_templates/short.jinja").exists()
    assert not (out / "model.py").exists()


def test_shards_and_index_are_those_of_the_base(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    loaded(folder, "llama")
    into_shards(folder, "60KB")
    view = edited(load(str(folder)))
    out = merged(tmp_path / "out", view)
    assert (folder / INDEX).exists()
    assert {p.name for p in out.iterdir()} == {p.name for p in folder.iterdir()}
    was, now = (json.loads((where / INDEX).read_text()) for where in (folder, out))
    assert now["weight_map"] == was["weight_map"]
    assert len(set(now["weight_map"].values())) > 2
    assert now["metadata"]["total_size"] == was["metadata"]["total_size"]
    assert load(str(out)).weights_sha256 == view.weights_sha256()


def test_the_index_of_another_type_has_the_size_of_that_type(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    loaded(folder, "llama")
    into_shards(folder, "60KB")
    out = merged(tmp_path / "out", edited(load(str(folder))), dtype="float16")
    was, now = (json.loads((where / INDEX).read_text()) for where in (folder, out))
    assert now["metadata"]["total_size"] * 2 == was["metadata"]["total_size"]


@pytest.mark.parametrize(("family", "prefix"), [("gpt2", "transformer."), ("llama", "model.")])
def test_names_without_the_backbone_stay_as_they_are(
    tmp_path: Path, family: str, prefix: str
) -> None:
    loaded(tmp_path / "base", family)
    without_prefix(tmp_path / "base", prefix)
    view = edited(load(str(tmp_path / "base")))
    out = merged(tmp_path / "out", view)
    assert not any(name.startswith(prefix) for name in load_file(out / WEIGHTS))
    assert load(str(out)).weights_sha256 == view.weights_sha256()


def test_buffers_of_older_checkpoints_are_copied_as_they_are(tmp_path: Path) -> None:
    loaded(tmp_path / "base", "gpt2")
    tensors = load_file(tmp_path / "base" / WEIGHTS)
    mask = torch.ones(1, 1, 8, 8, dtype=torch.uint8).tril()
    tensors["transformer.h.0.attn.bias"] = mask
    tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e9)
    save_file(tensors, tmp_path / "base" / WEIGHTS, {"format": "pt"})
    out = merged(tmp_path / "out", edited(load(str(tmp_path / "base"))), dtype="float16")
    found = load_file(out / WEIGHTS)
    assert torch.equal(found["transformer.h.0.attn.bias"], mask)
    assert found["transformer.h.0.attn.masked_bias"] == -1e9
    assert found["transformer.wte.weight"].dtype == torch.float16


def test_a_tied_head_that_is_stored_twice_is_replaced_twice(tmp_path: Path) -> None:
    loaded(tmp_path / "base", "gemma")
    tensors = load_file(tmp_path / "base" / WEIGHTS)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "base" / WEIGHTS, {"format": "pt"})
    base = load(str(tmp_path / "base"))
    changed = {"model.embed_tokens.weight": base.model.get_input_embeddings().weight + 1}
    (tmp_path / "out").mkdir()
    write_checkpoint(tmp_path / "out", base, changed)
    found = load_file(tmp_path / "out" / WEIGHTS)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(found[name], changed["model.embed_tokens.weight"]), name


def test_bfloat16_files_of_a_model_in_float32_stay_bfloat16(tmp_path: Path) -> None:
    loaded(tmp_path / "base", "llama")
    stored_as(tmp_path / "base", torch.bfloat16)
    view = edited(load(str(tmp_path / "base"), dtype="float32"))
    found = load_file(merged(tmp_path / "out", view) / WEIGHTS)
    was = load_file(tmp_path / "base" / WEIGHTS)
    for name, tensor in found.items():
        wanted = view.replaced[name].to(torch.bfloat16) if name in view.replaced else was[name]
        assert torch.equal(tensor, wanted), name


def test_another_type_on_request(tmp_path: Path) -> None:
    loaded(tmp_path / "base", "llama")
    stored_as(tmp_path / "base", torch.bfloat16)
    view = edited(load(str(tmp_path / "base"), dtype="float32"))
    out = merged(tmp_path / "out", view, dtype="float32")
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "float32"
    assert load(str(out)).weights_sha256 == view.weights_sha256()


def test_numbers_that_a_type_cannot_hold_are_refused(tmp_path: Path) -> None:
    loaded(tmp_path / "base", "llama")
    tensors = load_file(tmp_path / "base" / WEIGHTS)
    tensors["model.norm.weight"][0] = 1e6
    save_file(tensors, tmp_path / "base" / WEIGHTS, {"format": "pt"})
    view = edited(load(str(tmp_path / "base")))
    with pytest.raises(NotExportable, match="holds numbers that float16 cannot"):
        merged(tmp_path / "out", view, dtype="float16")


def test_files_that_changed_since_the_model_was_loaded_are_refused(tmp_path: Path) -> None:
    view = edited(loaded(tmp_path / "base", "llama"))
    tensors = load_file(tmp_path / "base" / WEIGHTS)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, tmp_path / "base" / WEIGHTS, {"format": "pt"})
    with pytest.raises(NotExportable, match=r"is not the model .* model\.norm\.weight differs"):
        merged(tmp_path / "out", view)


def test_a_folder_of_another_shape_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    view = edited(loaded(tmp_path / "base", "llama"))
    tensors = load_file(tmp_path / "base" / WEIGHTS)
    tensors["model.layers.1.mlp.down_proj.weight"] = torch.zeros(32, 95)
    save_file(tensors, tmp_path / "base" / WEIGHTS, {"format": "pt"})
    with pytest.raises(NotExportable, match=r"down_proj\.weight differs"):
        merged(tmp_path / "out", view)
    assert not list((tmp_path / "out").iterdir())


def test_a_model_in_memory_has_no_files(tmp_path: Path) -> None:
    base = loaded(tmp_path / "base", "llama")
    without: LoadedModel = LoadedModel(**{**vars(base), "folder": None})
    with pytest.raises(NotExportable, match="was not loaded from a folder"):
        write_checkpoint(tmp_path, without, {})


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    base = loaded(tmp_path / "base", "llama")
    (tmp_path / "base" / "config.json").unlink()
    with pytest.raises(NotExportable, match=r"base, which the model was loaded from, is gone"):
        write_checkpoint(tmp_path, base, {})


def test_no_more_than_a_chunk_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: every unchanged byte once, never more than a chunk, no changed one."""
    monkeypatch.setattr(tensor_files, "CHUNK", 1024)
    view = edited(loaded(tmp_path / "base", "llama"))
    seen: list[tuple[str, int]] = []
    plain = tensor_files._chunks

    def counted(file: Any, entry: tensor_files.Entry) -> Any:
        for chunk in plain(file, entry):
            seen.append((entry.name, len(chunk)))
            yield chunk

    monkeypatch.setattr(tensor_files, "_chunks", counted)
    out = merged(tmp_path / "out", view)
    tensors = load_file(tmp_path / "base" / WEIGHTS)
    unchanged = {name: t.nbytes for name, t in tensors.items() if name not in view.replaced}
    assert max(size for _, size in seen) == 1024
    assert sum(size for _, size in seen) == sum(unchanged.values())
    assert {name for name, _ in seen} == set(unchanged)
    assert load(str(out)).weights_sha256 == view.weights_sha256()


def test_hashes_and_room_are_those_of_the_files(tmp_path: Path) -> None:
    view = edited(loaded(tmp_path / "base", "llama"))
    (tmp_path / "out").mkdir()
    hashes = write_checkpoint(tmp_path / "out", view.base, view.replaced)
    assert hashes == (hash_of(tmp_path / "out", WEIGHTS),)
    whole = sum(p.stat().st_size for p in (tmp_path / "out").iterdir())
    weights = sum(t.nbytes for t in load_file(tmp_path / "base" / WEIGHTS).values())
    assert whole <= checkpoint_bytes(tmp_path / "base")
    half = checkpoint_bytes(tmp_path / "base", "float16")
    assert checkpoint_bytes(tmp_path / "base") - half == weights // 2


def test_progress_ends_with_everything_and_a_cancel_ends_it(tmp_path: Path) -> None:
    view = edited(loaded(tmp_path / "base", "llama"))
    seen: list[tuple[str, int, int]] = []
    merged(tmp_path / "out", view, monitor=Monitor(report=lambda *one: seen.append(one)))
    assert seen[-1][1] == seen[-1][2] > 0
    with pytest.raises(Cancelled):
        merged(tmp_path / "again", view, monitor=Monitor(check=stop_if(lambda: True)))


def test_two_updates_make_one_matrix_of_the_checkpoint(tmp_path: Path) -> None:
    view = ModelView(loaded(tmp_path / "base", "llama"))
    name = view.base.family.weight_name(1)
    for seed in (1, 2):
        view.update(name, factored(32, 96, 2, seed))
    found = load_file(merged(tmp_path / "out", view) / WEIGHTS)
    assert torch.equal(found[name], view.parameter(name))
