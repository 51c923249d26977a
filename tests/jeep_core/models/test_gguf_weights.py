"""GGUF files of every family and of several types become folders with the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file
from support.library import gguf_files, tiny

from jeep_core.errors import UnsupportedModel
from jeep_core.models.gguf.convert import convert, prepare
from jeep_core.models.loading import load


def silent(what: str, done: int, total: int) -> None:
    """Hears nothing."""


def converted(path: Path, dtype: str = "auto") -> Path:
    """The folder that a file becomes."""
    folder = path.parent / "folder"
    folder.mkdir()
    convert(prepare(path, dtype), folder, silent)
    return folder


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([[1, 17, 300, 42, 5, 99, 230, 7, 64, 12]])
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits
    return found


@pytest.mark.parametrize("family", gguf_files.FAMILIES)
@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q8_0], ids=lambda kind: kind.name)
def test_every_family_keeps_its_numbers_and_its_logits(
    family: str, kind: Kind, tmp_path: Path
) -> None:
    model = gguf_files.random_model(family)
    before = logits(model)
    held = gguf_files.write(tmp_path / "x.gguf", family, model, kind)
    folder = converted(tmp_path / "x.gguf")
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == held.keys()
    for name, tensor in held.items():
        assert torch.equal(stored[name], tensor), name
    model.load_state_dict(held, strict=False)
    loaded = load(str(folder), "cpu")
    assert loaded.family.model_type == family
    torch.testing.assert_close(logits(loaded.model), logits(model), rtol=0, atol=0)
    if kind is Kind.F32:  # 1 + w - 1 is not always w
        torch.testing.assert_close(logits(loaded.model), before, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (Kind.F16, torch.float16), (Kind.BF16, torch.bfloat16), (Kind.Q4_0, torch.float32),
        (Kind.Q4_1, torch.float32), (Kind.Q5_0, torch.float32), (Kind.Q5_1, torch.float32),
    ],
    ids=str,
)  # fmt: skip
def test_a_folder_holds_what_the_file_holds_exactly(
    kind: Kind, dtype: torch.dtype, tmp_path: Path
) -> None:
    held = gguf_files.write(tmp_path / "x.gguf", "llama", gguf_files.random_model("llama"), kind)
    folder = converted(tmp_path / "x.gguf")
    stored = load_file(folder / "model.safetensors")
    for name, tensor in held.items():
        assert stored[name].dtype == (dtype if tensor.ndim == 2 else torch.float32), name
        assert torch.equal(stored[name].float(), tensor), name
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).split(".")[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_smaller_type_rounds_to_the_nearest(dtype: str, tmp_path: Path) -> None:
    held = gguf_files.write(
        tmp_path / "x.gguf", "qwen2", gguf_files.random_model("qwen2"), Kind.Q8_0
    )
    stored = load_file(converted(tmp_path / "x.gguf", dtype) / "model.safetensors")
    for name, tensor in held.items():
        wanted = tensor.to(getattr(torch, dtype)) if tensor.ndim == 2 else tensor
        assert torch.equal(stored[name], wanted), name


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    model = gguf_files.random_model("llama")
    model.model.layers[1].mlp.up_proj.weight[3, 4] = 1e6
    gguf_files.write(tmp_path / "x.gguf", "llama", model)
    with pytest.raises(UnsupportedModel, match=r"blk\.1\.ffn_up\.weight that float16 cannot"):
        converted(tmp_path / "x.gguf", "float16")


def test_large_tensors_are_written_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part has some rows; one that is not a divisor of all, and rows in another order."""
    monkeypatch.setattr("jeep_core.models.gguf.weights._AT_ONCE", 7 * 32)
    held = gguf_files.write(
        tmp_path / "x.gguf", "llama", gguf_files.random_model("llama"), Kind.Q8_0
    )
    stored = load_file(converted(tmp_path / "x.gguf") / "model.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in held.items())


def test_progress_counts_the_bytes_of_the_weights(tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "x.gguf", "gpt2", gguf_files.random_model("gpt2"), Kind.Q8_0)
    heard: list[tuple[str, int, int]] = []
    (tmp_path / "folder").mkdir()
    conversion = prepare(tmp_path / "x.gguf")
    convert(conversion, tmp_path / "folder", lambda *progress: heard.append(progress))
    assert {what for what, _, _ in heard} == {"converting"}
    assert heard[-1][1:] == (conversion.bytes, conversion.bytes)
    size = (tmp_path / "folder" / "model.safetensors").stat().st_size
    assert 0 < size - conversion.bytes < 20_000  # the header


class TestHeads:
    def test_a_head_of_its_own_is_kept(self, tmp_path: Path) -> None:
        model = gguf_files.random_model("qwen2", tie_word_embeddings=False)
        held = gguf_files.write(tmp_path / "x.gguf", "qwen2", model)
        folder = converted(tmp_path / "x.gguf")
        assert "lm_head.weight" in held
        assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
        assert torch.equal(logits(load(str(folder), "cpu").model), logits(model))

    def test_the_embedding_once_more_is_tied(self, tmp_path: Path) -> None:
        """Older files of GPT-2 hold its embedding twice."""
        model = gguf_files.random_model("gpt2")

        def twice(writer: gguf.GGUFWriter) -> None:
            writer.add_tensor("output.weight", model.transformer.wte.weight.numpy())

        gguf_files.write(tmp_path / "x.gguf", "gpt2", model, change=twice)
        folder = converted(tmp_path / "x.gguf")
        assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
        assert "lm_head.weight" not in load_file(folder / "model.safetensors")


class TestPositions:
    def frequencies(self, factors: np.ndarray) -> gguf_files.Change:
        return lambda writer: writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))

    def test_those_of_llama_3_are_stretched_as_its_configuration_says(self, tmp_path: Path) -> None:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        rope = {
            "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        }  # fmt: skip
        model = gguf_files.random_model("llama", head_dim=16, rope_parameters=rope)
        plain = 500_000.0 ** -(np.arange(0, 16, 2) / 16)
        stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](model.config, "cpu")
        factors = plain / stretched.numpy()
        assert factors.max() == pytest.approx(32)
        assert factors.min() == pytest.approx(1)
        change = self.frequencies(factors)
        gguf_files.write(tmp_path / "x.gguf", "llama", model, change=change)
        loaded = load(str(converted(tmp_path / "x.gguf")), "cpu")
        assert loaded.model.config.rope_parameters == rope
        assert torch.equal(logits(loaded.model), logits(model))

    def test_other_factors_are_refused(self, tmp_path: Path) -> None:
        change = self.frequencies(np.array([1, 2, 3, 4.0]))
        gguf_files.write(
            tmp_path / "x.gguf", "llama", gguf_files.random_model("llama"), change=change
        )
        with pytest.raises(UnsupportedModel, match="not those of LLaMA 3"):
            prepare(tmp_path / "x.gguf")

    @pytest.mark.parametrize("kind", ["linear", "yarn"])
    def test_stretched_ones_are_named_in_the_configuration(self, kind: str, tmp_path: Path) -> None:
        def change(writer: gguf.GGUFWriter) -> None:
            writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
            writer.add_rope_scaling_factor(4.0)
            writer.add_rope_scaling_orig_ctx_len(16)

        rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 4.0}
        if kind == "yarn":
            rope["original_max_position_embeddings"] = 16
        model = gguf_files.random_model("qwen2", rope_parameters=rope)
        gguf_files.write(tmp_path / "x.gguf", "qwen2", model, change=change)
        loaded = load(str(converted(tmp_path / "x.gguf")), "cpu")
        torch.testing.assert_close(logits(loaded.model), logits(model), rtol=0, atol=0)

    def test_an_unknown_way_is_refused_by_name(self, tmp_path: Path) -> None:
        def change(writer: gguf.GGUFWriter) -> None:
            writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)

        gguf_files.write(
            tmp_path / "x.gguf", "qwen2", gguf_files.random_model("qwen2"), change=change
        )
        with pytest.raises(UnsupportedModel, match="'longrope'"):
            prepare(tmp_path / "x.gguf")


def test_biases_of_llama_are_read(tmp_path: Path) -> None:
    """Those of queries and keys are rearranged as their matrices are."""
    model = gguf_files.random_model("llama", attention_bias=True, mlp_bias=True)
    held = gguf_files.write(tmp_path / "x.gguf", "llama", model)
    folder = converted(tmp_path / "x.gguf")
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(stored["model.layers.0.self_attn.q_proj.bias"],
                       held["model.layers.0.self_attn.q_proj.bias"])  # fmt: skip
    assert torch.equal(logits(load(str(folder), "cpu").model), logits(model))


def test_a_vocabulary_smaller_than_the_embedding_is_read(tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "x.gguf", "gpt2", gguf_files.random_model("gpt2"))
    loaded = load(str(converted(tmp_path / "x.gguf")), "cpu")
    assert loaded.vocabulary == gguf_files.ROWS > loaded.tokenizer.get_vocab_size()
    assert loaded.tokenizer.encode(tiny.TEXTS[0]).ids == (
        tiny.tokenizer("byte-level").encode(tiny.TEXTS[0]).ids
    )
