"""Commands of the library given wrong files: they end with one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file
from support import TINY_GPTJ

from jeep_core.commands import moments as moments_command
from jeep_core.commands import probe as probe_command
from jeep_core.commands import reproduce as reproduce_command
from jeep_core.commands import train_network as training
from jeep_core.commands import tune as tuning
from jeep_core.errors import JeepError
from jeep_core.models.loading import load
from jeep_core.moments.published import Imported
from jeep_core.spec.hparams import load_preset

MODEL = str(TINY_GPTJ)
ON_CPU: dict[str, Any] = {"model": MODEL, "device": "cpu", "dtype": "float32"}
NPZ = "transformer.h.1.mlp.fc_out_float32_mom2_100.npz"
Make = Callable[[Path], object]


def loop(path: Path) -> None:
    """A file that no user can open, not even root."""
    path.symlink_to(path)


BAD: dict[str, Make] = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "unreadable": loop,
}


def arrays(path: Path, **found: Any) -> None:
    with path.open("wb") as file:
        np.savez(file, **found)


def cut(path: Path) -> None:
    arrays(path, **{"mom2.mom2": np.eye(256, dtype="float32"), "mom2.count": 400})
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    arrays(path, **{"mom2.mom2": np.eye(256, dtype="float32"), "mom2.count": 400})
    data = bytearray(path.read_bytes())
    data[400] ^= 255
    path.write_bytes(data)


def of_size(path: Path, size: int, value: float = 1.0) -> None:
    arrays(path, **{"mom2.mom2": np.eye(size, dtype="float32") * value, "mom2.count": 400})


def no_members(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no arrays")


WRONG_NPZ: dict[str, tuple[Make, str]] = {
    "empty": (BAD["empty"], "is empty"),
    "garbage": (BAD["garbage"], "no .npz file"),
    "missing": (BAD["missing"], "cannot be read"),
    "a folder": (BAD["a folder"], "cannot be read|no .npz file"),
    "unreadable": (BAD["unreadable"], "cannot be read"),
    "one array": (lambda path: path.write_bytes(np.zeros(9).tobytes()), "no .npz file"),
    "no arrays": (lambda path: arrays(path), "holds no arrays"),
    "other members": (no_members, "holds no arrays"),
    "wrong keys": (lambda path: arrays(path, mean=np.zeros(3)), "lacks mom2.mom2"),
    "wrong shape": (lambda path: of_size(path, 5), "5 dimensions"),
    "not finite": (lambda path: of_size(path, 256, np.nan), "not finite"),
    "objects": (lambda path: arrays(path, **{"mom2.mom2": np.array([{}])}), "damaged"),
    "cut": (cut, "no .npz file|damaged"),
    "flipped": (flipped, "damaged|not symmetric"),
}


EXPECTED = (JeepError, OSError, SafetensorError)
"""What a function of a command raises on purpose."""


def refusal(call: Callable[[], object]) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(EXPECTED) as found:
        call()
    said = str(found.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("kind", WRONG_NPZ)
def test_a_file_without_second_moments_is_not_imported(tmp_path: Path, kind: str) -> None:
    make, said = WRONG_NPZ[kind]
    file = tmp_path / NPZ
    make(file)
    given = {**ON_CPU, "folder": tmp_path / "moments", "name": "w"}
    line = refusal(lambda: list(moments_command.import_published([file], **given)))
    assert NPZ in line
    assert any(part in line for part in said.split("|")), line


@pytest.mark.parametrize("kind", [*BAD, "no header"])
def test_imported_moments_that_are_damaged_are_named(tmp_path: Path, kind: str) -> None:
    base = load(MODEL, device="cpu", dtype="float32")
    imported = Imported(tmp_path, "wikipedia")
    path = imported.path(base, 1)
    path.parent.mkdir(parents=True)
    if kind == "no header":
        save_file({"moment": np.eye(3)}, path)
    else:
        BAD[kind](path)
    with pytest.raises(JeepError) as found:
        imported.key(base, 1)
    assert "jeep moments import --name wikipedia" in str(found.value)
    if kind not in ("missing", "unreadable"):  # what cannot be opened counts as not imported
        assert str(path) in str(found.value)


def commands(bad: Path, out: Path) -> dict[str, Callable[[], object]]:
    """Every command with one of its files or folders wrong."""
    suite = "atlas-counterfact-validation"
    folder = {"folder": out / "moments"}
    atlas: dict[str, Any] = {"model": "atlas-gptj", "out": out / "report"}
    probe: dict[str, Any] = {**ON_CPU, "out": out / "report"}

    def compute() -> object:
        return list(moments_command.compute(**ON_CPU, **folder, layers=[0], corpus=bad))

    def tune(**given: Any) -> None:
        tuning.run(tuning.Options(**{**ON_CPU, "suite": suite, "out": out / "mine.yaml", **given}))

    def reproduce(**given: Any) -> None:
        reproduce_command.run(reproduce_command.Options(**atlas, **given))

    return {
        "compute": compute,
        "merge": lambda: list(moments_command.merge_shards([bad], **folder)),
        "tune, suite": lambda: tune(suite=str(bad), editor="ft-wd"),
        "tune, corpus": lambda: tune(corpus=bad),
        "probe, suite": lambda: probe_command.run(**probe, suite=str(bad)),
        "probe, corpus": lambda: probe_command.run(**atlas, corpus=bad),
        "probe, table": lambda: probe_command.run(**atlas, table=bad),
        "reproduce, suite": lambda: reproduce(suite=str(bad)),
        "reproduce, corpus": lambda: reproduce(corpus=bad),
        "train, data": lambda: training.run(editor="mend", model=MODEL, data=bad, folder=out),
    }


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("command", commands(Path("x"), Path("y")))
def test_a_missing_or_unreadable_file_is_named(tmp_path: Path, command: str, kind: str) -> None:
    bad = tmp_path / "given"
    BAD[kind](bad)
    assert bad.name in refusal(commands(bad, tmp_path)[command])


def test_tuning_an_editor_without_second_moments_needs_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def tuned(trials: Any, *rest: Any) -> Any:
        seen.append(trials.moments)
        raise JeepError("far enough")

    monkeypatch.setattr(tuning, "tune", tuned)
    given = {**ON_CPU, "suite": "atlas-counterfact-validation", "cases": 2}
    given["out"] = tmp_path / "mine.yaml"

    def refused(**more: Any) -> str:
        return refusal(lambda: tuning.run(tuning.Options(**given, **more)))

    assert refused(editor="ft-wd") == "far enough"
    assert seen[0].texts == []
    assert refused(editor="memit") == "far enough"
    assert len(seen.pop().texts) > 500, "the text that ships"
    assert refused(editor="memit", moments="wikipedia", folder=tmp_path) == "far enough"
    assert seen[1].imported == "wikipedia"
    assert "--folder" in refused(moments="wikipedia")


@pytest.mark.parametrize("kind", ["empty", "garbage", "a folder"])
def test_a_file_that_is_no_preset_is_refused(tmp_path: Path, kind: str) -> None:
    BAD[kind](tmp_path / "mine.yaml")
    with pytest.raises(JeepError, match=r"mine\.yaml is not a preset: .") as found:
        load_preset("mine", tmp_path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("text", ["- a list", "editor: jeep", "hparams: [", "x: &a [*a]", "9"])
def test_a_preset_with_unknown_contents_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(JeepError, match=r"mine\.yaml is not a preset: .") as found:
        load_preset("mine", tmp_path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("kind", ["empty", "missing", "unreadable"])
def test_a_path_that_is_no_folder_of_presets_is_refused(tmp_path: Path, kind: str) -> None:
    BAD[kind](tmp_path / "presets")
    with pytest.raises(JeepError, match="is no folder of presets"):
        load_preset("mine", tmp_path / "presets")


@pytest.mark.parametrize("command", ["compute", "merge", "import"])
def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, command: str) -> None:
    """The folder of moments is a file; a text and shards are fine."""
    text = tmp_path / "corpus.txt"
    text.write_text("one two three four five six seven\n" * 3000)
    shards = [tmp_path / "shard1", tmp_path / "shard2"]
    of_text = {**ON_CPU, "layers": [0], "corpus": text, "samples": 20_000}
    if command == "merge":
        for number, out in enumerate(shards):
            part = {"shard": (number, 2), "out": out, "folder": tmp_path / "whole"}
            list(moments_command.compute(**of_text, **part))
    of_size(tmp_path / NPZ, 256)
    (tmp_path / "file").touch()
    folder = {"folder": tmp_path / "file"}
    calls: dict[str, Callable[[], object]] = {
        "compute": lambda: list(moments_command.compute(**of_text, **folder)),
        "merge": lambda: list(moments_command.merge_shards(shards, **folder)),
        "import": lambda: list(
            moments_command.import_published([tmp_path / NPZ], **ON_CPU, **folder, name="w")
        ),
    }
    assert str(tmp_path / "file") in refusal(calls[command])
