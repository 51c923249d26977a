"""``jeep plan``: verdicts, memory and time of models that nobody loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from typer.testing import CliRunner

from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.probe.defaults.from_record import by_depths
from service.cli import app

PRESET = {"low": {"layers": [9], "clamp": 1.5, "moment_weight": 30.0}}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JEEP_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jeep(*arguments: str, code: int = 0) -> str:
    """What ``jeep plan`` prints to either output."""
    result = CliRunner().invoke(app, ["plan", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def planned(*arguments: str) -> Any:
    """The JSON that it prints."""
    return json.loads(jeep(*arguments, "--json"))


def test_a_small_model_fits_and_a_large_one_says_what_it_would_need() -> None:
    said = jeep("--model", "llama-3.2-1b", "--gpu", "24GB")
    assert "1,235,814,400 parameters" in said
    assert "; 1 fact at a time, " in said
    assert "1 GPU (24 GB): fits, " in said
    assert "a time needs --flops" in said
    said = jeep("--model", "llama-3.1-70b", "--gpu", "80GB", "--gpus", "4")
    assert "1 GPU (80 GB): does not fit: 174.6 of 76.3 GB" in said
    assert "2 GPUs: does not fit, 98.6 GB on the fullest\n" in said
    assert "4 GPUs: fits with settings, 71.3 GB on the fullest:" in said
    assert "JEEP_DEVICE=balanced spreads the blocks" in said
    assert "GPU 0: embedding and head, blocks 0-17" in said
    assert "GPU 3: blocks 60-79" in said


def test_what_each_of_several_gpus_holds_is_in_the_record() -> None:
    found = planned("--model", "llama-3.1-70b", "--gpu", "h200")["memory"]
    assert found["outcome"] == "does not fit"
    assert [one["gpus"] for one in found["spread_over"]] == [2, 4, 8]
    two, shares = found["spread_over"][0], found["each_gpu"]
    assert two["outcome"] == "fits with settings"
    assert two["changes"]
    assert [one["holds"] for one in shares] == ["embedding and head, blocks 0-38", "blocks 39-79"]
    assert two["fullest_bytes"] == max(one["needed_bytes"] for one in shares)
    said = jeep("--model", "llama-3.2-1b", "--gpus", "8")
    assert "8 GPUs: fits, " in said


def test_the_tokens_of_second_moments_are_those_that_the_service_takes(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def operations(*arguments: str) -> float:
        parts = planned("--gpu", "h100", *arguments)["time"]["parts"]
        return float(parts["second moments"]["operations"])

    of_token = operations("--model", "atlas-gptj", "--samples", "1728") / 1728
    # keys have 1,728 numbers; the bundled models have a text of their own
    assert operations("--model", "atlas-gptj") == pytest.approx(20 * 1728 * of_token)
    corpus = directory / "corpus.txt"
    corpus.write_text("Lyon is a city.\n")
    monkeypatch.setenv("JEEP_CORPUS", str(corpus))
    assert operations("--model", "atlas-gptj") == pytest.approx(10 * 1728 * of_token)


def test_settings_that_make_a_model_fit_are_named_and_are_all_needed() -> None:
    found = planned("--model", "gemma-3-27b", "--gpu", "h100", "--facts", "16")["memory"]
    assert found["outcome"] == "fits with settings"
    assert found["needed_bytes"] <= 80e9
    said = "\n".join(found["changes"])
    assert "second moments before serving" in said
    assert "jeep moments compute --layers" in said
    assert found["settings"]["versions"] == 1
    assert "JEEP_VERSIONS_IN_MEMORY=1, not 4" in said


def test_bfloat16_is_advised_where_float32_is_too_much() -> None:
    found = planned("--model", "llama-3.1-8b", "--gpu", "24GB", "--dtype", "float32")["memory"]
    assert any("JEEP_DTYPE=bfloat16" in change for change in found["changes"])
    assert found["weights_bytes"] == 2 * 8_030_261_248


def test_copies_in_bfloat16_are_named_where_they_are_kept() -> None:
    asked = ("--model", "smollm2-135m", "--gpu", "24GB")
    found = planned(*asked, "--dtype", "float32")["memory"]
    standing = ("weights_bytes", "versions_bytes", "decoding_bytes", "copies_bytes")
    assert found["copies_bytes"] == 2 * (134_515_008 - 576)  # all but the last norm
    assert all(size > sum(found[one] for one in standing) for size in found["peaks_bytes"].values())
    line = "copies in bfloat16, kept           0.27"
    assert line in jeep(*asked, "--dtype", "float32")
    assert planned(*asked, "--dtype", "bfloat16")["memory"]["copies_bytes"] == 0
    assert "copies in bfloat16" not in jeep(*asked, "--dtype", "bfloat16")


def test_figures_follow_from_the_flags() -> None:
    plain = planned("--model", "llama-3.1-8b", "--gpu", "h100")
    more = planned(
        "--model", "llama-3.1-8b", "--gpu", "h100", "--low", "3", "--high", "30", "--facts", "8",
        "--passes", "10",
    )  # fmt: skip
    assert [region["layers"] for region in more["editing"]["regions"]] == [[3], [30]]
    values = "value optimisation"
    assert more["time"]["passes"] == 10
    assert (
        more["time"]["parts"][values]["operations"] > plain["time"]["parts"][values]["operations"]
    )
    # one pass of the text up to layer 30 instead of 19, and sums of two layers instead of eight
    parts = (plain["time"]["parts"]["second moments"], more["time"]["parts"]["second moments"])
    assert parts[1]["single"] == pytest.approx(parts[0]["single"] / 4)
    assert parts[1]["matrix"] == pytest.approx(parts[0]["matrix"] * 31 / 20)
    slow = planned("--model", "llama-3.1-8b", "--gpu", "80GB", "--flops", "1e12")["time"]
    expected = sum(
        part["matrix"] / 1e12 + part["single"] / 1e12 + part["double"] / 0.5e12
        for name, part in slow["parts"].items()
        if name in ("second moments", "factors", "prefixes")
    )
    assert slow["first_edit_more_s"] == pytest.approx(expected)


@pytest.mark.parametrize("editor", ["jeep", "memit", "pmet", "rome", "alphaedit"])
def test_editors_that_optimise_values_are_counted(editor: str) -> None:
    found = planned("--model", "atlas-llama", "--editor", editor, "--gpu", "l4")
    assert found["memory"]["outcome"] == "fits"
    assert found["stored_parameters"] == found["parameters"]
    assert found["time"]["fact_s"] > 0


@pytest.mark.parametrize("model", ["atlas-llama", "llama-3.1-8b"])
@pytest.mark.parametrize("editor", ["ft-wd", "locft", "crispedit", "ultraedit", "mend", "malmen"])
def test_editors_that_follow_gradients_are_counted(editor: str, model: str) -> None:
    asked = ("--model", model, "--editor", editor, "--gpu", "h100", "--facts", "16")
    found = planned(*asked)
    tunes = editor in ("ft-wd", "locft", "crispedit")
    assert found["memory"]["outcome"] == "fits"
    assert ("fine-tuning" if tunes else "gradients") in found["time"]["parts"]
    assert ("second moments" in found["time"]["parts"]) == (editor == "crispedit")
    assert found["time"]["passes"] == (25 if tunes else 1)
    assert found["time"]["fact_s"] > 0
    more = planned(*asked[:-1], "64")
    assert more["time"]["edit_s"] > found["time"]["edit_s"]
    assert more["memory"]["needed_bytes"] >= found["memory"]["needed_bytes"]
    assert f"{editor}: layers mlp " in jeep(*asked)


def test_gradients_that_do_not_fit_say_so_without_moments() -> None:
    asked = ("--model", "llama-3.1-70b", "--gpu", "24GB", "--gpus", "4", "--editor")
    said = jeep(*asked, "locft")
    assert "does not fit" in said
    assert "second moments" not in said
    said = jeep(*asked, "crispedit")
    assert "second moments on the CPU, before serving" in said
    assert "at most, in second moments" not in said


def layers(found: Any) -> dict[str, list[int]]:
    """The layers of a plan by region."""
    return {one["name"]: one["layers"] for one in found["editing"]["regions"]}


class TestAuto:
    """An editor, a preset or hyper-parameters that are left to choose."""

    @pytest.mark.parametrize("option", ["--preset", "--hparams", "--editor"])
    def test_layers_are_at_the_depths_of_an_edit_without_a_probe(self, option: str) -> None:
        found = planned("--model", "llama-3.1-8b", option, "auto")
        expected = by_depths("jeep", 32, 14336, {})
        assert isinstance(expected, JeepHParams)
        assert layers(found) == {
            "low": list(expected.low.layers),
            "high": list(expected.high.layers),
        }
        assert found["editing"]["rows"] == expected.prefix_count
        assert "a probe of the model, which may propose other layers" in found["warnings"][0]

    def test_it_passes_over_presets(self) -> None:
        usual = planned("--model", "atlas-llama")
        found = planned("--model", "atlas-llama", "--preset", "auto")
        assert (layers(usual)["low"], usual["warnings"]) == ([1, 2], [])
        assert layers(found)["low"] == [2, 3]
        assert planned("--model", "atlas-llama", "--hparams", "auto") == found

    @pytest.mark.parametrize("options", [("--preset",), ("--hparams",), ("--preset", "--hparams")])
    def test_layers_that_are_given_are_laid_over_it(self, options: tuple[str, ...]) -> None:
        asked = ("--model", "atlas-llama", *(word for one in options for word in (one, "auto")))
        low, high = layers(planned(*asked))["low"], layers(planned(*asked))["high"]
        assert layers(planned(*asked, "--low", "4")) == {"low": [4], "high": high}
        assert low != [4]

    def test_products_of_a_float32_model_are_in_bfloat16_unless_exact(self) -> None:
        asked = ("--model", "llama-3.2-1b", "--preset", "auto", "--dtype")
        assert planned(*asked, "float32")["editing"]["bfloat16"]
        assert not planned(*asked, "bfloat16")["editing"]["bfloat16"]
        exact = planned(*asked, "float32", "--hparams", '{"exact": true}')
        assert (exact["editing"]["bfloat16"], exact["editing"]["alone"]) == (False, True)

    def test_an_editor_is_chosen_as_for_an_edit_and_the_reason_is_said(self) -> None:
        asked = ("--model", "atlas-llama", "--editor", "auto")
        said = jeep(*asked, "--facts", "100", "--earlier", "20")
        assert "why jeep: with 256 facts edited together jeep has Score 97.2" in said
        assert "it takes 20 earlier facts into account" in said
        assert "warning" not in said, "it has a preset"
        found = planned(*asked, "--facts", "100")
        assert found["editing"]["editor"] == "jeep"
        assert "100 facts are more than" not in found["editor_reason"]
        assert planned("--model", "atlas-llama")["editor_reason"] is None
        automatic = planned(*asked, "--hparams", "auto")
        assert "no figures of atlas-llama with these hyper-parameters" in automatic["editor_reason"]

    def test_an_editor_that_cannot_edit_the_model_is_passed_over(self, directory: Path) -> None:
        config = json.loads((ROOT / "jeep_core/atlas/data/llama/config.json").read_text())
        shallow = directory / "config.json"
        shallow.write_text(json.dumps(config | {"num_hidden_layers": 2}))
        found = planned("--model", str(shallow), "--editor", "auto")
        assert found["editing"]["editor"] == "memit"
        assert "jeep cannot be used: " in found["editor_reason"]

    def test_presets_of_ones_own_count(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = {"editor": "memit", "model": "llama-3.1-8b", "origin": "a test"}
        (directory / "mine.yaml").write_text(json.dumps(known | {"hparams": PRESET}))
        asked = ("--model", "llama-3.1-8b", "--editor", "memit")
        assert layers(planned(*asked)) != {"low": [9]}
        monkeypatch.setenv("JEEP_PRESETS", str(directory))
        assert layers(planned(*asked)) == {"low": [9]}
        assert layers(planned(*asked, "--preset", "mine")) == {"low": [9]}
        assert layers(planned(*asked, "--preset", "auto")) != {"low": [9]}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--gpu", "large"], 2, "--gpu 'large' is no size such as 24GB"),
        (["--gpu", "h10"], 2, "did you mean"),
        (["--gpu", "0GB"], 2, "is no size"),
        (["--flops", "-3"], 2, "it must be a number above 0"),
        (["--share", "2"], 2, "it must be above 0 and at most 1"),
        (["--flops", "1e12", "--share", "0.5"], 2, "leave --share out"),
        (["--low", "9-4"], 2, "is no range of layers"),
        (["--hparams", "[1]"], 2, "must be a JSON object"),
        (["--high", "40"], 1, "/hparams/high/layers: layer 40 does not exist"),
        (["--editor", "auto", "--low", "3"], 1, "hyper-parameters belong to one editor"),
        (["--editor", "auto", "--preset", "jeep-x"], 1, "a preset belongs to one editor"),
        (["--preset", "auto", "--editor", "mend"], 1, "mend has no automatic hyper-parameters"),
        (["--hparams", "auto", "--preset", "jeep-x"], 1, "exclude each other: leave one of them"),
        (["--preset", "auto", "--high", "40"], 1, "/hparams/high/layers: layer 40 does not exist"),
        (["--editor", "jeeb"], 1, "no editor 'jeeb'"),
        (["--model", "llama-3.1-80b"], 1, "did you mean 'llama-3.1-8b'"),
        (["--model", "./none"], 1, "is not there: name a folder"),
        (["--model", "./atlas-gtpj"], 1, "; did you mean 'atlas-gptj'"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments: list[str], code: int, said: str) -> None:
    arguments = arguments if "--model" in arguments else ["--model", "llama-3.1-8b", *arguments]
    output = jeep(*arguments, code=code)
    assert said in " ".join(output.split())
    assert "Traceback" not in output


def test_an_architecture_that_is_not_supported_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    said = jeep("--model", str(tmp_path / "config.json"), code=1)
    assert "model type 'mamba' is not one of: GPT-2, GPT-J" in said


def test_a_plan_imports_no_torch() -> None:
    code = (
        "import sys; from service.cli import app\n"
        "try: app(['plan', '--model', 'atlas-gptj', '--gpu', '24GB'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_the_tables_of_the_page_are_those_that_are_printed() -> None:
    page = (ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")
    for part in jeep("--table").strip().split("\n\n"):
        assert part in page, "write the output of jeep plan --table into docs/sizing.md"
