"""Commands of the library given wrong files: they end with one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
ON_CPU = ("--model", MODEL, "--device", "cpu", "--dtype", "float32")
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


def one_sentence(said: str) -> str:
    """What a command has printed below its bars: one line with its name, no traceback."""
    assert "Traceback" not in said
    [*_, line] = said.strip().splitlines()
    assert line.startswith("jeep: ")
    assert said.count("jeep: ") == 1
    return line


@pytest.mark.parametrize("kind", WRONG_NPZ)
def test_a_file_without_second_moments_is_not_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    make, said = WRONG_NPZ[kind]
    file = tmp_path / NPZ
    make(file)
    given = ("--folder", str(tmp_path / "moments"), "--name", "w", str(file))
    assert moments_command.main(["import", *ON_CPU, *given]) == 1
    line = one_sentence(capsys.readouterr().err)
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


def commands(bad: Path, out: Path) -> dict[str, tuple[Any, list[str]]]:
    """Every command with one of its files or folders wrong."""
    moments, tune = moments_command.main, tuning.main
    suite = ("--suite", "atlas-counterfact-validation")
    preset = ("--out", str(out / "mine.yaml"))
    atlas = ("--model", "atlas-gptj")
    report = ("--out", str(out / "report"))
    folder = ("--folder", str(out / "moments"))
    return {
        "compute": (moments, ["compute", *ON_CPU, *folder, "--layers", "0", "--corpus", str(bad)]),
        "merge": (moments, ["merge", str(bad), *folder]),
        "tune, suite": (tune, [*ON_CPU, "--suite", str(bad), *preset, "--editor", "ft-wd"]),
        "tune, corpus": (tune, [*ON_CPU, *suite, *preset, "--corpus", str(bad)]),
        "probe, suite": (probe_command.main, [*ON_CPU, "--suite", str(bad), *report]),
        "probe, corpus": (probe_command.main, [*atlas, *report, "--corpus", str(bad)]),
        "probe, table": (probe_command.main, [*atlas, *report, "--table", str(bad)]),
        "reproduce, suite": (reproduce_command.main, [*atlas, *report, "--suite", str(bad)]),
        "reproduce, corpus": (reproduce_command.main, [*atlas, *report, "--corpus", str(bad)]),
        "train, data": (training.main, ["mend", MODEL, "--data", str(bad), "--out", str(out)]),
    }


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("command", commands(Path("x"), Path("y")))
def test_a_missing_or_unreadable_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    bad = tmp_path / "given"
    BAD[kind](bad)
    main, arguments = commands(bad, tmp_path)[command]
    assert main(arguments) == 1
    line = one_sentence(capsys.readouterr().err)
    assert bad.name in line


def test_tuning_an_editor_without_second_moments_needs_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def tuned(trials: Any, *rest: Any) -> Any:
        seen.append(trials.moments)
        raise JeepError("far enough")

    monkeypatch.setattr(tuning, "tune", tuned)
    given = [*ON_CPU, "--suite", "atlas-counterfact-validation", "--cases", "2"]
    given += ["--out", str(tmp_path / "mine.yaml")]
    assert tuning.main([*given, "--editor", "ft-wd"]) == 1
    assert one_sentence(capsys.readouterr().err) == "jeep: far enough"
    assert seen[0].texts == []
    assert tuning.main([*given, "--editor", "memit"]) == 1
    assert "need a text corpus" in one_sentence(capsys.readouterr().err)
    imported = ["--moments", "wikipedia", "--folder", str(tmp_path)]
    assert tuning.main([*given, "--editor", "memit", *imported]) == 1
    assert one_sentence(capsys.readouterr().err) == "jeep: far enough"
    assert seen[1].imported == "wikipedia"
    assert tuning.main([*given, "--moments", "wikipedia"]) == 1
    assert "--folder" in one_sentence(capsys.readouterr().err)


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
def test_a_folder_that_cannot_be_written_to_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """The folder of moments is a file; a text and shards are fine."""
    text = tmp_path / "corpus.txt"
    text.write_text("one two three four five six seven\n" * 3000)
    whole, shard = tmp_path / "whole", str(tmp_path / "shard")
    of_text = ("--layers", "0", "--corpus", str(text), "--samples", "20000")
    if command == "merge":
        for number in "12":
            part = ("--shard", f"{number}/2", "--out", shard + number, "--folder", str(whole))
            assert moments_command.main(["compute", *ON_CPU, *of_text, *part]) == 0
    of_size(tmp_path / NPZ, 256)
    given = {
        "compute": [*ON_CPU, *of_text],
        "merge": [shard + "1", shard + "2"],
        "import": [*ON_CPU, "--name", "w", str(tmp_path / NPZ)],
    }
    (tmp_path / "file").touch()
    capsys.readouterr()
    arguments = [command, *given[command], "--folder", str(tmp_path / "file")]
    assert moments_command.main(arguments) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "jeep: " in err
    assert str(tmp_path / "file") in err
