"""The command: compute, shards and merging, import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import TINY_GPTJ
from support.library import tiny

from jeep_core.commands.moments import compute, import_published, merge_shards
from jeep_core.errors import JeepError
from jeep_core.models.loading import load, texts_of
from jeep_core.moments.cache import Moments, quick_products
from jeep_core.moments.source import DEFAULT_CORPUS, TOKENS_OF_DEFAULT

MODEL = str(TINY_GPTJ)
ON_CPU: dict[str, Any] = {"model": MODEL, "device": "cpu", "dtype": "float32"}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(tiny.TEXTS * 60), encoding="utf-8")
    return path


def in_folder(folder: Path) -> dict[str, torch.Tensor]:
    return {path.name: load_file(path)["moment"] for path in folder.glob("*.safetensors")}


def test_shards_merge_to_what_one_run_computes(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {**ON_CPU, "layers": [0, 1], "corpus": corpus, "samples": 20_000}
    lines = list(compute(**given, folder=tmp_path / "one"))
    assert "% padding" in lines[0]
    assert [line.partition(":")[0] for line in lines[1:]] == ["layer 0", "layer 1"]
    shown = capsys.readouterr().err
    assert "20000/20000" in shown
    assert "ETA" in shown
    parts = []
    for number in (0, 1):
        parts.append(tmp_path / f"part{number}")
        shard = {"shard": (number, 2), "out": parts[-1]}
        *_, said = compute(**given, **shard, folder=tmp_path / "two")
        assert said.startswith(f"shard {number + 1}/2, ")
    assert in_folder(tmp_path / "two") == {}
    assert len(list(merge_shards(parts, folder=tmp_path / "two"))) == 2
    one, two = in_folder(tmp_path / "one"), in_folder(tmp_path / "two")
    assert len(one) == 2
    assert one.keys() == two.keys()
    for name, moment in one.items():
        assert torch.allclose(two[name], moment, rtol=1e-5)
    with pytest.raises(JeepError, match="lack shards 2/2"):
        list(merge_shards(parts[:1], folder=tmp_path / "two"))


def test_published_moments_are_imported_by_the_command(tmp_path: Path) -> None:
    base = load(MODEL, device="cpu", dtype="float32")
    keys = np.random.default_rng(0).normal(size=(300, base.mlp_size)).astype("float32")
    files = []
    for layer in (0, 1):
        path = tmp_path / f"transformer.h.{layer}.mlp.fc_out_float32_mom2_100.npz"
        np.savez(path, **{"mom2.count": 300, "mom2.mom2": keys.T @ keys})
        files.append(path)
    folder = tmp_path / "moments"
    given = {**ON_CPU, "folder": folder, "name": "wikipedia"}
    lines = list(import_published(files, **given))
    assert [line.partition(":")[0] for line in lines] == [
        "layer 0, 300 tokens",
        "layer 1, 300 tokens",
    ]
    Moments(base, [], folder=folder, imported="wikipedia").ensure([0, 1])
    with pytest.raises(JeepError, match="single file"):
        list(import_published(files, layer=0, **given))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "has no presets; give --layers"),
        ({"layers": [0, 7]}, "layers, none 7"),
        ({"layers": [0], "shard": (0, 2)}, "needs --out"),
    ],
)
def test_a_missing_argument_is_named(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(JeepError, match=message):
        list(compute(**ON_CPU, folder=tmp_path, **arguments))


def test_without_a_corpus_the_one_that_ships_is_taken(tmp_path: Path) -> None:
    base = load(MODEL, device="cpu", dtype="float32")
    list(compute(**ON_CPU, layers=[0], folder=tmp_path))
    texts, quick = texts_of(DEFAULT_CORPUS), quick_products(base, None)
    samples = TOKENS_OF_DEFAULT * base.mlp_size
    Moments(base, texts, samples, tmp_path, shipped=False, bfloat16=quick).ensure([0])
    assert len(in_folder(tmp_path)) == 1, "found, not taken again"


def test_the_text_that_ships_is_read_with_quick_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the device is quick at bfloat16; the moments are kept under a key of their own."""
    base, found = load(MODEL, device="cpu", dtype="float32"), {}
    for fast in (False, True):
        monkeypatch.setattr("jeep_core.moments.cache.has_fast_bfloat16", lambda _, it=fast: it)
        assert quick_products(base, None) is fast
        assert not quick_products(base, DEFAULT_CORPUS.with_name("other.txt"))
        list(compute(**ON_CPU, layers=[0], samples=300, folder=tmp_path / str(fast)))
        (found[fast],) = in_folder(tmp_path / str(fast)).items()
    assert found[False][0] != found[True][0]
    difference = (found[False][1] - found[True][1]).norm() / found[False][1].norm()
    assert 0 < float(difference) < 0.02
