"""The command line as a client of a running api."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.service.scripted_worker import ScriptedWorker
from typer.main import get_command
from typer.testing import CliRunner

from service.cli import app, common

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}


def jeep(url: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", *arguments, "--url", url]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=60, env=environment,
        check=False,
    )  # fmt: skip


def test_the_whole_path(url: str, worker: ScriptedWorker, tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text(json.dumps(FACT) + "\n" + json.dumps({**FACT, "subject": "[b]Nice"}))
    parted = json.dumps({**FACT, "prompt": "{} lies\u2028in"}, ensure_ascii=False)
    stdin = f"{parted}\n{json.dumps(FACT)}"  # U+2028 ends no line of JSON
    assert jeep(url, "edit", "-", "--dry-run", stdin=stdin).returncode == 0
    plan = jeep(url, "edit", str(file), "--dry-run")
    assert "jeep-atlas-gptj" in plan.stdout, plan.stderr
    edited = jeep(url, "edit", str(file), "--name", "one", "--hparams", '{"n_steps": 3}')
    assert edited.returncode == 0, edited.stderr
    assert "v0 → v1" in edited.stdout
    assert "[b]Nice is a city" in edited.stdout
    assert "v1 says Lyon" in jeep(url, "generate", "Lyon", "--version", "one").stdout
    listed = json.loads(jeep(url, "snapshots", "--json").stdout)
    assert [one["id"] for one in listed] == ["v1", "v0"]
    assert "one is v1" in jeep(url, "name", "one").stdout
    export = jeep(url, "export", "one", str(tmp_path / "x.safetensors"))
    assert (tmp_path / "x.safetensors").exists(), export.stderr
    assert "v1 → v0" in jeep(url, "rollback", "base", "--why", "test").stdout
    assert "succeeded" in jeep(url, "jobs").stdout
    stdin = json.dumps({"facts": [FACT], "editor": "memit"})
    assert "v0 → v2" in jeep(url, "edit", "-", stdin=stdin).stdout


def test_versions_that_become_head(
    url: str, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common.out, "width", 200)

    def run(*arguments: str, subject: str = "") -> str:
        stdin = json.dumps({**FACT, "subject": subject})
        shown = CliRunner().invoke(app, [*arguments, "--url", url], input=stdin)
        assert shown.exit_code == 0, shown.output
        return shown.stdout

    first, second = (
        json.loads(run("edit", "-", "--json", subject=city))["id"] for city in ("Lyon", "Nice")
    )
    assert "Lyon is a city" in run("facts")
    reverted = run("revert", first, "--name", "clean")
    assert f"v2 → v3 without {first}" in reverted
    assert second in reverted
    assert [one["subject"] for one in json.loads(run("facts", "--json"))] == ["Nice"]
    assert first in run("facts", "Lyon", "--version", "v2")
    limits = ("--guards", '{"min_efficacy": 0.5}')
    assert "v3 → v4 (staged)" in run("edit", "-", "--stage", *limits, subject="Caen")
    assert "staged" in run("snapshots")
    assert "v3 → v4" in run("activate", "v4")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("edit", "-"), 1, "/facts"),
        (("edit", "/nothing/there"), 2, "No such file"),
        (("edit", "-", "--hparams", "{"), 2, "--hparams"),
        (("generate", ""), 1, "/prompts/0"),
        (("rollback", "v9"), 1, "unknown_version"),
        (("cancel", "job_1"), 1, "unknown_job"),
        (("revert", "edit_1"), 1, "unknown_edit"),
        (("activate", "base"), 1, "not_staged"),
        (("facts", "--version", "v9"), 1, "unknown_version"),
        (("edit", "-", "--guards", "{"), 2, "--guards"),
    ],
)
def test_refusals(
    arguments: tuple[str, ...], code: int, said: str, url: str, worker: ScriptedWorker
) -> None:
    shown = jeep(url, *arguments, stdin="[]")
    assert (shown.returncode, said in shown.stderr) == (code, True), shown.stderr
    assert "Traceback" not in shown.stderr


def test_nobody_is_there() -> None:
    shown = jeep("http://127.0.0.1:9", "snapshots")
    assert shown.returncode == 1
    assert "cannot be reached" in shown.stderr


def test_moments_are_computed_with_the_settings_where_the_service_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: started.append(arguments))
    monkeypatch.setenv("JEEP_STORE", str(tmp_path))
    monkeypatch.setenv("JEEP_MODEL", "atlas-llama")
    monkeypatch.setenv("JEEP_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("JEEP_MOMENT_SAMPLES", "5000")
    for arguments in (
        ["compute", "--samples", "7"],
        ["import", "x.npz", "--name", "x"],
        ["--help"],
    ):
        app(["moments", *arguments], standalone_mode=False)
    compute, importing, helping = (command[3:] for command in started)
    folder = ["--folder", str(tmp_path / "base" / "moments")]
    model = ["--model", "atlas-llama", "--device", "auto", "--dtype", "auto"]
    model += ["--models-dir", str(tmp_path / "models")]
    samples = ["--samples", "5000", "--samples", "7"]
    assert compute == ["compute", *folder, *model, *samples]
    assert importing == ["import", *folder, *model, "x.npz", "--name", "x"]
    assert helping == ["--help"]
    assert {command[2] for command in started} == {"jeep_core.commands.moments"}


def test_tuning_starts_from_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: started.append(arguments))
    monkeypatch.setenv("JEEP_STORE", str(tmp_path))
    monkeypatch.setenv("JEEP_PRESETS", str(tmp_path))
    monkeypatch.setenv("JEEP_MODELS", str(tmp_path / "models"))
    app(["tune", "--suite", "mine.json", "--out", "x.yaml"], standalone_mode=False)
    folder = ["--folder", str(tmp_path / "base" / "moments")]
    model = ["--model", "atlas-gptj", "--device", "auto", "--dtype", "auto"]
    model += ["--models-dir", str(tmp_path / "models")]
    own = ["--presets", str(tmp_path), "--probes", str(tmp_path / "base" / "probes")]
    given = ["--suite", "mine.json", "--out", "x.yaml"]
    assert started[0][2:] == ["jeep_core.commands.tune", *folder, *model, *own, *given]


def test_every_command_has_help_that_can_be_shown() -> None:
    """Square brackets in a help text are markup, and a slash in them ends one."""

    def show(command: Any, path: list[str]) -> None:
        result = CliRunner().invoke(app, [*path, "--help"])
        assert result.exit_code == 0, (path, result.exception)
        for name, inner in getattr(command, "commands", {}).items():
            if inner.add_help_option:  # else another program shows its own
                show(inner, [*path, name])

    show(get_command(app), [])
