"""``jeep models``, and settings that say where models are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.library import folders, gguf_files
from support.library.package_index import offered
from typer.testing import CliRunner

from service.cli import app
from service.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JEEP_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    model = gguf_files.random_model("llama")
    gguf_files.write(tmp_path / "x.gguf", "llama", model, gguf_files.Kind.Q8_0)
    return tmp_path / "x.gguf"


def jeep(*arguments: str, code: int = 0) -> str:
    """What a command prints to either output."""
    result = CliRunner().invoke(app, ["models", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def shown(*arguments: str) -> Any:
    """The JSON that a command prints."""
    return json.loads(jeep(*arguments, "--json"))


def listed() -> dict[str, str]:
    """Where the models are that can be used or had here."""
    return {row["name"]: row["is"] for row in shown("list") if row["is"] != "elsewhere"}


def test_models_are_listed_had_and_shown(
    gguf: Path, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(gguf, tmp_path / "index", monkeypatch, parts=1)
    assert listed() == {
        "atlas-gptj": "bundled", "atlas-llama": "bundled", "smollm2-135m": "to get",
        "gemma3-270m": "to get", "small": "to get",
    }  # fmt: skip
    said = jeep("get", "small")
    assert "small: a small model; licence: free, https://example.org/licence" in said
    assert "downloading\nunpacking\nconverting\n" in said
    assert "jeep serve --model small" in said
    assert listed()["small"] == "here"
    found = shown("show", "small")
    assert found["editable"] is True
    assert found["architecture"] == "LLaMA (llama)"
    assert found["folder"] == str(directory / "small")
    assert found["licence"] == "free (https://example.org/licence)"
    assert found["quantisation_of_the_source"] == "Q8_0, F32"
    assert found["presets"] == []
    assert found["layers"] == 4
    assert "small-part0==1.0" in jeep("list")
    assert "editable" in jeep("show", "small")


def test_a_file_and_a_folder_are_added_and_shown(gguf: Path, tmp_path: Path) -> None:
    before = shown("show", str(gguf))
    assert (before["architecture"], before["quantisation"]) == ("llama", "Q8_0, F32")
    assert before["why"].startswith("when it is converted")
    jeep("add", str(gguf), "--name", "mine", "--dtype", "bfloat16")
    assert shown("show", "mine")["stored_as"] == "BF16, F32"
    folders.write_folder(tmp_path / "whole", "gpt2")
    jeep("add", str(tmp_path / "whole"))
    assert listed()["whole"] == "here"


def test_why_a_model_cannot_be_edited_is_shown(tmp_path: Path) -> None:
    folders.write_folder(tmp_path / "odd", "gpt2")
    folders.layers(1)(tmp_path / "odd")
    found = shown("show", "odd")
    assert found["editable"] is False
    assert "the weights have 4 layers" in found["why"]
    assert found["parameters"] > 0


def test_mistakes_are_one_sentence(tmp_path: Path, directory: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    for arguments, said in (
        (["get", "smolm2-135m"], "did you mean 'smollm2-135m'?"),
        (["add", "./nothing"], "nothing is not there: name a model folder"),
        (["add", "bad.gguf"], "bad.gguf is damaged"),
        (["add", "bad.gguf", "--dtype", "int4"], "dtype 'int4' is not one of: auto, float32"),
        (["show", "nothing"], "there is no model 'nothing' here"),
        (["show", "smolm2-135m"], "did you mean 'smollm2-135m'"),
    ):
        output = jeep(*arguments, code=1)
        assert said in output
        assert output.startswith("jeep: ")
        assert output.count("\n") == 1
    assert shown("show", "gemma3-270m")["why"].endswith("jeep models get gemma3-270m")
    folders.write_folder(tmp_path / "whole", "gpt2")
    directory.write_text("a file in the place of the directory")
    assert jeep("add", "whole", code=1).startswith(f"jeep: {directory}")


def test_presets_are_counted_and_shown_also_for_models_that_are_elsewhere(tmp_path: Path) -> None:
    rows = {row["name"]: row for row in shown("list")}
    assert rows["atlas-gptj"]["presets"][0] == {"editor": "jeep", "preset": "jeep-atlas-gptj"}
    far = rows["EleutherAI/gpt-j-6b"]
    assert (far["is"], far["bytes"], far["source"]) == ("elsewhere", None, "")
    assert "jeep-gpt-j-6b (jeep)" in jeep("show", "gpt-j-6b")
    found = shown("show", "EleutherAI/gpt-j-6b")
    assert found["why"] == "it is not here: give its folder, or jeep models add EleutherAI/gpt-j-6b"
    assert found["presets"] == far["presets"]
    assert shown("show", "smollm2-135m")["presets"][0] == {
        "editor": "jeep", "preset": "jeep-smollm2-135m",
    }  # fmt: skip


def test_presets_of_another_model_of_the_same_name_are_not_shown(tmp_path: Path) -> None:
    """An edit does not use them either: presets name the shape that they were found with."""
    folders.write_folder(tmp_path / "made", "gpt2")
    jeep("add", "made", "--name", "gpt-j-6b")
    assert shown("show", "gpt-j-6b")["presets"] == []
    rows = {row["name"]: row for row in shown("list")}
    assert (rows["gpt-j-6b"]["is"], rows["gpt-j-6b"]["presets"]) == ("here", [])
    assert rows["EleutherAI/gpt-j-6b"]["presets"] != []
    for broken in ("[]", "{", '{"model_type": "gpt2"}'):
        (tmp_path / "made" / "config.json").write_text(broken)
        assert shown("show", "gpt-j-6b")["presets"] != []


def test_a_file_that_is_no_preset_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("- no preset")
    for arguments in (["list"], ["show", "atlas-gptj"]):
        assert "mine.yaml is not a preset" in jeep(*arguments, "--presets", ".", code=1)


def test_the_commands_need_no_torch() -> None:
    heavy = {"torch", "transformers", "gguf"}
    code = f"import sys, service.cli.commands.models; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class TestDirectory:
    def test_by_default_it_is_among_the_data_of_the_user(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("JEEP_MODELS")
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        assert Settings().models == Path("~/.local/share/jeep/models")
        monkeypatch.setenv("XDG_DATA_HOME", "relative")  # such ones do not count
        assert Settings().models == Path("~/.local/share/jeep/models")
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert Settings().models == tmp_path / "jeep" / "models"

    def test_a_worker_gets_the_same(self, directory: Path) -> None:
        assert load_settings().environment()["JEEP_MODELS"] == str(directory)

    def test_it_is_a_flag_of_every_command_that_loads_a_model(self) -> None:
        for command in (
            "serve", "worker", "probe", "tune", "reproduce", "networks train",
            "moments compute", "moments import",
        ):  # fmt: skip
            result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "300"})
            assert "--models-dir" in result.output, command

    def test_help_says_where_it_is_whoever_asks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        result = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "300"})
        assert "jeep/models in XDG_DATA_HOME or ~/.local/share. [JEEP_MODELS]" in result.output
