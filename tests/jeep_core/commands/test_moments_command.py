"""The command: compute, shards and merging, import."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import TINY_GPTJ
from support.library import tiny

from jeep_core.commands.moments import main
from jeep_core.models.loading import load
from jeep_core.moments.cache import Moments

MODEL = str(TINY_GPTJ)
ON_CPU = ("--model", MODEL, "--device", "cpu", "--dtype", "float32")


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
    given = (*ON_CPU, "--layers", "0-1", "--corpus", str(corpus), "--samples", "20000")
    assert main(["compute", *given, "--folder", str(tmp_path / "one")]) == 0
    shown = capsys.readouterr()
    assert "% padding" in shown.out
    assert "layer 1: " in shown.out
    assert "20000/20000" in shown.err
    assert "ETA" in shown.err
    parts = []
    for number in (1, 2):
        parts.append(str(tmp_path / f"part{number}"))
        shard = ("--shard", f"{number}/2", "--out", parts[-1])
        assert main(["compute", *given, *shard, "--folder", str(tmp_path / "two")]) == 0
    assert in_folder(tmp_path / "two") == {}
    assert main(["merge", *parts, "--folder", str(tmp_path / "two")]) == 0
    one, two = in_folder(tmp_path / "one"), in_folder(tmp_path / "two")
    assert len(one) == 2
    assert one.keys() == two.keys()
    for name, moment in one.items():
        assert torch.allclose(two[name], moment, rtol=1e-5)
    assert main(["merge", parts[0], "--folder", str(tmp_path / "two")]) == 1
    assert "lack shards 2/2" in capsys.readouterr().err


def test_published_moments_are_imported_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load(MODEL, device="cpu", dtype="float32")
    keys = np.random.default_rng(0).normal(size=(300, base.mlp_size)).astype("float32")
    files = []
    for layer in (0, 1):
        path = tmp_path / f"transformer.h.{layer}.mlp.fc_out_float32_mom2_100.npz"
        np.savez(path, **{"mom2.count": 300, "mom2.mom2": keys.T @ keys})
        files.append(str(path))
    folder = tmp_path / "moments"
    given = ("import", *ON_CPU, "--folder", str(folder), "--name", "wikipedia")
    assert main([*given, *files]) == 0
    assert "layer 1, 300 tokens" in capsys.readouterr().out
    Moments(base, [], folder=folder, imported="wikipedia").ensure([0, 1])
    assert main([*given, *files, "--layer", "0"]) == 1
    assert "single file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layers", "0"), "need a text corpus"),
        ((), "has no presets; give --layers"),
        (("--layers", "0,7"), "layers, none 7"),
        (("--layers", "0", "--shard", "1/2"), "needs --out"),
    ],
)
def test_a_missing_argument_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert main(["compute", *ON_CPU, "--folder", str(tmp_path), *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("--layers", "a"), ("--layers", "3-1"), ("--shard", "3/2"), ("--shard", "x")]
)
def test_an_unreadable_file_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compute", *ON_CPU, "--folder", str(tmp_path), *arguments])
    assert ended.value.code == 2
