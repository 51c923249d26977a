"""The command line as a client of a running api."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from support.service.command import jeep, jeep_process
from support.service.played_worker.worker import PlayedWorker
from typer.testing import CliRunner

from service.cli import app, common, tables
from service.client import Client
from service.contracts.schemas.effects.guards import GuardFigures

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}


def test_facts_are_edited_asked_exported_and_rolled_back(
    url: str, worker: PlayedWorker, tmp_path: Path
) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text(json.dumps(FACT) + "\n" + json.dumps({**FACT, "subject": "[b]Nice"}))
    parted = json.dumps({**FACT, "prompt": "{} lies\u2028in"}, ensure_ascii=False)
    stdin = f"{parted}\n{json.dumps(FACT)}"  # U+2028 ends no line of JSON
    assert jeep_process(url, "edit", "-", "--dry-run", stdin=stdin).returncode == 0
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
    assert jeep(url, "jobs", "list").stdout == jeep(url, "jobs").stdout
    stdin = json.dumps({"facts": [FACT], "editor": "memit"})
    assert "v0 → v2" in jeep(url, "edit", "-", stdin=stdin).stdout
    checks = ("--check-earlier", "7", "--repair")
    assert jeep(url, "edit", "-", *checks, stdin=json.dumps(FACT)).returncode == 0
    newest = next(iter(worker.store.journal.all()))
    assert (newest.payload["check_earlier"], newest.payload["repair"]) == (7, True)
    for given in ("some", "9" * 5000):
        wrong = jeep(url, "edit", "-", "--check-earlier", given, stdin=json.dumps(FACT))
        assert (wrong.returncode, "a number or all" in wrong.stderr) == (2, True)


def test_a_version_is_exported_in_the_format_that_is_named(
    url: str, worker: PlayedWorker, tmp_path: Path
) -> None:
    assert jeep(url, "edit", "-", stdin=json.dumps(FACT)).returncode == 0
    plain, named, wrong = (tmp_path / name for name in ("plain", "named", "wrong"))
    assert jeep(url, "versions", "export", "head", str(plain)).returncode == 0
    shown = jeep(url, "versions", "export", "head", str(named), "--format", "safetensors")
    assert (shown.returncode, shown.stdout) == (0, f"{named}: {named.stat().st_size:,} bytes\n")
    assert named.read_bytes() == plain.read_bytes()
    refused = jeep(url, "versions", "export", "head", str(wrong), "--format", "pickle")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "format: must be 'safetensors'" in refused.stderr
    assert not wrong.exists()


def test_a_training_that_fails_says_why(url: str, worker: PlayedWorker) -> None:
    worker.refuse_reads()
    failed = jeep(url, "networks", "submit", "mend")
    assert failed.returncode == 1
    assert failed.stdout.endswith("failed: refused: this worker has no model\n")
    as_json = jeep(url, "networks", "submit", "mend", "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["error"]["code"] == "refused"


def test_activating_and_reverting_move_head(
    url: str, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
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
    assert run("facts", "--contains", "LYON", "--json") == "[]\n"
    assert first in run("facts", "--contains", "LYON", "--version", "v2")
    assert "Nice" in run("facts", "--holds")
    assert run("facts", "--missing", "--json") == "[]\n"
    limits = ("--guards", '{"min_efficacy": 0.5}')
    staged = run("edit", "-", "--stage", *limits, subject="Caen")
    assert "v3 → v4 (staged)" in staged
    assert "\nguard min_efficacy 0.5: not measured\n" in staged, "by a worker that is played"
    assert "guard" not in run("edits", "show", second)
    assert "staged" in run("snapshots")
    assert "v3 → v4" in run("activate", "v4")


def test_guards_are_shown_with_limit_and_figure(client: Client, worker: PlayedWorker) -> None:
    limits = {"min_efficacy": 0.5, "max_drift": 0.001, "min_ability": 0.9}
    job = client.wait(client.edit([FACT], guards=limits).id)
    found = client.edit_result(str(job.resource_id))
    assert found.guards is not None
    assert found.guards.model_dump(exclude_none=True) == limits
    assert found.result is not None
    found.result.guards = GuardFigures(
        efficacy=1.0, efficacy_before=0.0, locality=0.3, drift=0.000123456
    )
    console = Console(width=200)
    with console.capture() as shown:
        console.print(tables.edit(found))
    assert shown.get().splitlines()[-3:] == [
        "guard min_efficacy 0.5: 1",
        "guard max_drift 0.001: 0.0001235",
        "guard min_ability 0.9: not measured",
    ]


def test_resources_are_listed_and_shown(
    url: str, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common.out, "width", 200)

    def run(*arguments: str, stdin: str = "", code: int = 0) -> str:
        shown = CliRunner().invoke(app, [*arguments, "--url", url], input=stdin)
        assert shown.exit_code == code, shown.output
        return shown.stdout

    edit = json.loads(run("edit", "-", "--json", stdin=json.dumps([FACT])))
    assert edit["id"] in run("edits")
    assert run("edits", "--status", code=2) == "", "there is no such option of the list"
    assert json.loads(run("edits", "list", "--json"))[0]["n_facts"] == 1
    listed = run("edits", "list")
    assert "hold" in listed
    assert "efficacy" not in listed
    assert "v0 → v1" in run("edits", "show", edit["id"])
    assert edit["job_id"] in run("jobs", "show", edit["job_id"])
    assert "succeeded" in run("jobs", "follow", edit["job_id"])
    assert json.loads(run("jobs", "--kind", "probe", "--json")) == []
    assert run("versions") == run("snapshots")
    assert "mlp" in run("versions", "show", "v1")
    assert json.loads(run("store", "state", "--json"))["head"]["version"] == "v1"
    assert "atlas-gptj" in run("store", "state")
    difference = run("versions", "diff", "base", "v1")
    assert "v0 → v1, common ancestor v0" in difference
    assert "+  Lyon is a city in the country of  Italy" in difference
    assert "Lyon is a city" in run("versions", "facts")
    assert "id" in run("evaluations")
    assert "id" in run("probes")
    assert "editor" in run("networks")
    assert run("networks", "list") == run("hypernetworks")


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
        (("edits", "show", "edit_1"), 1, "unknown_edit"),
        (("jobs", "follow", "job_1"), 1, "unknown_job"),
        (("versions", "diff", "v8", "v9"), 1, "unknown_version"),
        (("evaluations", "compare", "eval_1", "a", "b"), 1, "unknown_evaluation"),
        (("probes", "files", "probe_1", "/nowhere"), 1, "unknown_probe"),
    ],
)
def test_a_refused_command_names_the_mistake_and_fails(
    arguments: tuple[str, ...], code: int, said: str, url: str, worker: PlayedWorker
) -> None:
    shown = jeep(url, *arguments, stdin="[]")
    assert (shown.returncode, said in shown.stderr) == (code, True), shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_command_without_a_service_says_so() -> None:
    shown = jeep_process("http://127.0.0.1:9", "snapshots")
    assert shown.returncode == 1
    assert "Traceback" not in shown.stderr
    assert "cannot be reached" in shown.stderr


def test_who_stops_waiting_is_told_that_the_job_goes_on(
    monkeypatch: pytest.MonkeyPatch, url: str, worker: PlayedWorker
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "wait", interrupted)
    shown = jeep(url, "edit", "-", stdin=json.dumps([FACT]))
    assert shown.returncode == 130
    [line] = shown.stderr.splitlines()
    job = line.split()[0]
    assert line == (
        f"{job} goes on: jeep jobs follow {job} waits for it, jeep jobs cancel {job} ends it"
    )
    assert jeep(url, "jobs", "show", job).returncode == 0


def test_a_pipe_gets_a_row_a_line_and_nothing_else(url: str, worker: PlayedWorker) -> None:
    name = "a-name-of-more-than-eighty-columns-" + "x" * 60
    narrow = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "service.cli"]
    edited = subprocess.run(
        [*command, "edit", "-", "--name", name[:64], "--url", url],
        input=json.dumps([FACT]), capture_output=True, text=True, check=True, env=narrow,
    )  # fmt: skip
    assert edited.stderr == ""
    assert edited.stdout.splitlines()[0].strip()
    listed = subprocess.run(
        [*command, "edits", "--url", url], capture_output=True, text=True, check=True, env=narrow
    ).stdout.splitlines()
    assert len(listed) == 2
    assert listed[1].startswith("edit_")
    assert name[:64] in listed[1]


@pytest.mark.parametrize("words", [("edits",), ("jobs", "--json")])
def test_who_has_read_enough_ends_a_command_quietly(
    words: tuple[str, ...], url: str, worker: PlayedWorker
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "service.cli", *words, "--url", url]
    with os.fdopen(writing, "w") as closed:
        ended = subprocess.run(
            command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.stderr == ""
