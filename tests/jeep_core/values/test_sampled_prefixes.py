"""Sampled prefixes: those of the plain procedure, kept in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.library import tiny
from support.library.closed_form import FACTS, MEMIT

import jeep_core
from jeep_core import editing
from jeep_core.atlas import CORPUS
from jeep_core.models.loading import LoadedModel
from jeep_core.storage.prefixes import read_prefixes
from jeep_core.values import prefixes
from jeep_core.values.prefixes import STARTS, TOKENS, TOP_K, sample_prefixes


@torch.no_grad()
def one_after_the_other(base: LoadedModel, count: int, seed: int = 0) -> list[str]:
    """The plain procedure: a prefix at a time, the whole model for every token."""
    generator, found = torch.Generator().manual_seed(seed), [""]
    for i in range(count - 1):
        ids = base.tokenizer.encode(STARTS[i % len(STARTS)]).ids
        for _ in range(TOKENS):
            logits = base.model(input_ids=torch.tensor([ids])).logits[0, -1].float()
            logits[list(base.eos_token_ids)] = -torch.inf
            top = logits.topk(min(TOP_K, len(logits)))
            ids.append(
                int(top.indices[torch.multinomial(top.values.softmax(0), 1, generator=generator)])
            )
        text = base.tokenizer.decode(ids, skip_special_tokens=True)
        found.append(text.replace("{", "").replace("}", "").replace("\n", " ").strip().rstrip("."))
    return found


@pytest.mark.parametrize("name", ["atlas-gptj", "atlas-llama"])
def test_prefixes_are_those_of_sampling_one_after_the_other(name: str) -> None:
    base = jeep_core.load(name, "cpu")
    expected = one_after_the_other(base, 8)  # more than there are beginnings
    assert sample_prefixes(base, 8) == expected
    assert sample_prefixes(base, 4) == expected[:4]
    assert sample_prefixes(base, 4, seed=5) == one_after_the_other(base, 4, seed=5)


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_every_family_samples_as_before(family: str) -> None:
    base, count = tiny.random_model(family), 21 if family == "llama" else 7
    assert sample_prefixes(base, count) == one_after_the_other(base, count)
    assert sample_prefixes(base, 1) == [""]


class TestCache:
    def test_kept_ones_are_not_sampled_again(
        self, gptj: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = sample_prefixes(gptj, 4, cache=tmp_path / "a" / "b")
        assert whole == sample_prefixes(gptj, 4)
        monkeypatch.delattr(prefixes, "_sampled")
        assert sample_prefixes(gptj, 4, cache=tmp_path / "a" / "b") == whole
        assert sample_prefixes(gptj, 2, cache=tmp_path / "a" / "b") == whole[:2]

    def test_more_of_them_begin_with_those_kept(self, gptj: LoadedModel, tmp_path: Path) -> None:
        few = sample_prefixes(gptj, 3, cache=tmp_path)
        assert sample_prefixes(gptj, 5, cache=tmp_path)[:3] == few

    def test_models_and_seeds_have_files_of_their_own(
        self, gptj: LoadedModel, tmp_path: Path
    ) -> None:
        other = tiny.random_model("llama")
        for base, seed in ((gptj, 0), (gptj, 1), (other, 0)):
            found = sample_prefixes(base, 3, seed, cache=tmp_path)
            assert found == sample_prefixes(base, 3, seed)
        assert len(list(tmp_path.iterdir())) == 3

    @pytest.mark.parametrize("left", [b"", b'["", "The', b'["", 3]', b"{}", b"\xff"])
    def test_a_damaged_file_is_replaced_and_logged(
        self, gptj: LoadedModel, tmp_path: Path, left: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = sample_prefixes(gptj, 3, cache=tmp_path)
        [path] = tmp_path.iterdir()
        path.write_bytes(left)
        assert sample_prefixes(gptj, 3, cache=tmp_path) == whole
        assert json.loads(path.read_text(encoding="utf-8"))["prefixes"] == whole
        assert [str(path) in text for text in caplog.messages] == [True]

    def test_a_flipped_bit_is_found(
        self, gptj: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = sample_prefixes(gptj, 3, cache=tmp_path)
        [path] = tmp_path.iterdir()
        data = bytearray(path.read_bytes())
        data[data.index(b"T")] ^= 1
        path.write_bytes(data)
        assert sample_prefixes(gptj, 3, cache=tmp_path) == whole
        assert caplog.messages

    def test_an_edit_takes_them_from_the_folder(
        self, gptj: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[Any] = []

        def checked(*_: Any, prefixes: Any, **named: Any) -> SimpleNamespace:
            given.append(prefixes)
            return SimpleNamespace(warnings=())

        monkeypatch.setattr(editing, "edit_checked", checked)
        hparams = {**MEMIT.model_dump(), "n_prefixes": 3}
        wanted: dict[str, Any] = {"hparams": hparams, "corpus": CORPUS}
        for folder in (None, tmp_path, str(tmp_path)):
            jeep_core.edit(gptj, FACTS, "memit", prefix_cache=folder, **wanted)
        whole = sample_prefixes(gptj, 3)
        assert given == [None, whole, whole]
        assert [read_prefixes(path) for path in tmp_path.iterdir()] == [whole]
