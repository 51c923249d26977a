"""``jeep export`` and ``jeep exports``: what is refused at once, what is done, what is printed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console
from support.service.outward.hub import COMMIT, Hub, recording_hub
from typer.testing import CliRunner, Result

from jeep_core.exports.folders import whole_folder, write_record
from service.cli import app
from service.cli.commands.outward import exports
from service.client import ApiError
from service.contracts.jobs import JobStatus, now
from service.contracts.schemas import Problem
from service.contracts.schemas.exports import Export, ExportFile, ExportOrigin, ExportResult, Proof

TOKEN = "hf_secretOfThisTest"
FILES = {"config.json": b'{"model_type": "llama"}', "model.gguf": b"GGUF" * 500}


class Played:
    """A client of a service whose jobs have all ended; ``lost`` counts each export's lost facts."""

    def __init__(self, source: Path, lost: list[int]) -> None:
        self.source, self.lost = source, lost
        self.asked: list[dict[str, Any]] = []
        self.strengthened: list[str] = []
        self.activated, self.failing = True, ""
        self.admin = True
        with whole_folder(source) as made:
            for name, data in FILES.items():
                (made / name).write_bytes(data)
            self.files = write_record(made, {"version": "v3", "proof": {"ok": True}})

    def submit_export(self, /, version: str, *, format: str, **options: Any) -> Any:
        self.asked.append({"version": version, "format": format, **options})
        number = len(self.asked)
        return SimpleNamespace(id=f"job_{number}", resource_id=f"export_{number}")

    def check_admin(self) -> None:
        if not self.admin:
            detail = "this needs the scope admin"
            code = "insufficient_scope"
            given = {"title": "Forbidden", "status": 403, "code": code, "request_id": "r"}
            raise ApiError(Problem(detail=detail, **given))

    def wait(self, job_id: str, hear: Any) -> Any:
        status = JobStatus.FAILED if job_id == self.failing else JobStatus.SUCCEEDED
        result = {"version": "v4", "activated": self.activated}
        return SimpleNamespace(id=job_id, status=status, result=result)

    def export_result(self, export_id: str) -> Export:
        number = int(export_id.removeprefix("export_"))
        lost = self.lost[number - 1]
        origin = ExportOrigin(
            base="atlas-gptj", base_sha256="0" * 64, licence=None, version="v3", names=[],
            weights_sha256="0" * 64, n_facts=2, editors=["jeep"], made_by="jeep-edit",
        )  # fmt: skip
        proof = Proof(facts=2, hold_in_version=2, hold=2 - lost, n_lost=lost, ok=not lost)
        result = ExportResult(
            export_id=export_id, version="v3", format="gguf", origin=origin, bytes=9,
            files=[ExportFile(**asdict(one)) for one in self.files], use="load FOLDER", proof=proof,
        )  # fmt: skip
        return Export(
            id=export_id, job_id=f"job_{number}", status=JobStatus.SUCCEEDED, version="v3",
            format="gguf", options={}, available=True, created_at=now(), progress={},
            result=result,
        )  # fmt: skip

    def strengthen_export(self, export_id: str) -> Any:
        self.strengthened.append(export_id)
        return SimpleNamespace(id="job_edit")

    def download_export(self, export_id: str, folder: Path, hear: Any) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        for one in self.files:
            (folder / one.path).write_bytes((self.source / one.path).read_bytes())
        return []


Play = Callable[..., Played]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words, env={"COLUMNS": "300"})


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Makes the client that the commands get, of exports that lose so many facts."""

    def made(*lost: int) -> Played:
        client = Played(tmp_path / "source", list(lost))
        monkeypatch.setattr(exports, "connected", lambda url: nullcontext(client))
        return client

    return made


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    (tmp_path / "token").write_text(TOKEN + "\n")
    with recording_hub() as made:
        monkeypatch.setenv("JEEP_HUB_ENDPOINT", made.url)
        monkeypatch.setenv("JEEP_HUB_TOKEN_FILE", str(tmp_path / "token"))
        yield made


def test_the_program_that_uses_an_export_names_its_folder(play: Play, tmp_path: Path) -> None:
    found = play(0).export_result("export_1")
    assert found.result is not None
    use = found.result.model_copy(update={"use": 'load("FOLDER/x", "BASE_FOLDER")'})
    found = found.model_copy(update={"result": use})

    def shown(*given: Path) -> str:
        console = Console(file=io.StringIO(), width=300)
        console.print(exports.export_table(found, *given))
        return cast(io.StringIO, console.file).getvalue()

    assert f'load("{tmp_path}/x", "BASE_FOLDER")' in shown(tmp_path)
    assert 'load("FOLDER/x", "BASE_FOLDER")' in shown()


def test_the_folder_given_is_in_what_is_printed(play: Play, tmp_path: Path) -> None:
    play(0)
    shown = run("export", "head", "--format", "gguf", "--out", str(tmp_path / "made"))
    assert f"load {tmp_path / 'made'}" in shown.output


class TestRefused:
    """Before anything is asked of a service."""

    @pytest.fixture(autouse=True)
    def _unconnected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def connected(url: str | None) -> Any:
            raise AssertionError("the service is asked")

        monkeypatch.setattr(exports, "connected", connected)

    @pytest.mark.parametrize(
        ("words", "flag", "said"),
        [
            (["--option", "format=peft"], "--option", "use --format"),
            (["--option", "version=base"], "--option", "use the argument VERSION"),
            (["--option", "idempotency_key=x"], "--option", "use the Python client"),
            (["--option", "x"], "--option", "is not NAME=VALUE"),
            (["--option", "x=1", "--option", "x=2"], "--option", "'x' is given twice"),
            (["--max-rank", "2", "--option", "max_rank=3"], "--option", "is given twice"),
            (["--option", "x=NaN"], "--option", "x: give a finite number"),
            (["--option", "x=[1e999]"], "--option", "x: give a finite number"),
            (["--option", "x=\udcff"], "--option", "x: this is no UTF-8 text"),
            (["--max-error", "nan"], "--max-error", "give a finite number"),
            (["--max-error", "inf"], "--max-error", "give a finite number"),
            (["--strengthen"], "--strengthen", "give --format gguf"),
            (["--strengthen", "--format", "peft"], "--strengthen", "give --format gguf"),
            (["--public"], "--public", "--push"),
            (["--no-wait", "--out", "x"], "--out", "leave out --no-wait"),
            (
                ["--no-wait", "--format", "gguf", "--strengthen"],
                "--strengthen",
                "leave out --no-wait",
            ),
            (["--no-wait", "--push", "a/b"], "--push", "leave out FILE and --no-wait"),
            (["FILE", "--push", "a/b"], "--push", "leave out FILE and --no-wait"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, words: list[str], flag: str, said: str) -> None:
        done = run("export", "head", *words)
        assert done.exit_code == 2, done.output
        assert flag in done.output
        assert said in done.output

    @pytest.mark.parametrize(
        "words",
        [
            ["--out", "x"], ["--max-rank", "2"], ["--max-error", "0.1"], ["--dtype", "float32"],
            ["--type", "F16"], ["--edited", "F16"], ["--strengthen"], ["--include-facts"],
            ["--option", "a=b"], ["--public"], ["--no-wait"], ["--json"],
        ],
    )  # fmt: skip
    def test_an_option_that_a_file_ignores_is_refused(self, words: list[str]) -> None:
        done = run("export", "head", "x.safetensors", *words)
        assert done.exit_code == 2, done.output
        assert words[0] in done.output
        assert "has no effect on FILE" in done.output

    @pytest.mark.parametrize("command", [["export", "head"], ["exports", "get", "export_1"]])
    @pytest.mark.parametrize("below", ["", "inner"])
    def test_a_folder_that_is_a_file_is_refused(
        self, command: list[str], below: str, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        done = run(*command, "--out", str(tmp_path / "file" / below))
        assert done.exit_code == 2, done.output
        assert "file is a file: name a folder" in done.output

    @pytest.mark.parametrize(
        "command",
        [["export", "head", "--push", "edited"], ["exports", "push", "export_1", "edited"]],
    )
    def test_a_name_that_is_no_repository_is_refused(self, command: list[str], hub: Hub) -> None:
        done = run(*command)
        assert done.exit_code == 1
        assert "'edited' is no repository of a hub: give OWNER/NAME" in done.output

    @pytest.mark.parametrize(
        "command",
        [["export", "head", "--push", "a/edited"], ["exports", "push", "export_1", "a/edited"]],
    )
    def test_a_token_is_needed(self, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("JEEP_HUB_TOKEN_FILE", raising=False)
        done = run(*command)
        assert done.exit_code == 1
        assert "JEEP_HUB_TOKEN_FILE: name a file" in done.output


def test_options_of_other_formats_arrive(play: Play) -> None:
    client = play(0)
    done = run("export", "head", "--format", "new", "--option", "x=2", "--option", "self=a")
    assert done.exit_code == 0, done.output
    [asked] = client.asked
    assert (asked["format"], asked["x"], asked["self"]) == ("new", 2, "a")


class TestStrengthening:
    """Lost facts are edited again, which moves head."""

    COMMAND = ("export", "v3", "--format", "gguf", "--strengthen")

    def test_json_is_one_document(self, play: Play) -> None:
        client = play(1, 0)
        done = run(*self.COMMAND, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["id"] == "export_2"
        assert client.strengthened == ["export_1"]
        assert [one["version"] for one in client.asked] == ["v3", "v4"]
        assert "head is now v4; to go back: jeep rollback v3" in done.stderr

    def test_that_it_did_not_help_is_said(self, play: Play) -> None:
        play(2, 1)
        done = run(*self.COMMAND)
        assert done.exit_code == 1
        last = done.stderr.split("did not help enough")[1]
        assert "facts lost in the file: 1; head is now v4; to go back: jeep rollback v3" in last

    def test_a_staged_version_has_not_moved_head(self, play: Play) -> None:
        play(2, 1).activated = False
        done = run(*self.COMMAND)
        assert done.exit_code == 1
        assert "v4 is staged, and head is still v3" in done.stderr
        assert "rollback" not in done.stderr

    def test_an_export_that_fails_leaves_head_moved(self, play: Play) -> None:
        play(1, 0).failing = "job_2"
        done = run(*self.COMMAND, "--json")
        assert done.exit_code == 1
        assert json.loads(done.stdout)["id"] == "export_2"
        assert "v4 could not be exported; head is now v4" in done.stderr

    def test_facts_that_cannot_be_edited_again_are_no_crash(
        self, play: Play, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(export_id: str) -> Any:
            raise ValueError(f"{export_id} has lost no fact that could be edited again")

        monkeypatch.setattr(play(1), "strengthen_export", refuse)
        done = run(*self.COMMAND)
        assert (done.exit_code, done.exception.__class__) == (1, SystemExit)
        assert "export_1 has lost no fact that could be edited again" in done.stderr


class TestPushing:
    """To a hub, of an export whose proof holds."""

    @pytest.mark.parametrize(
        "command",
        [["export", "head", "--push", "a/edited"], ["exports", "push", "export_1", "a/edited"]],
    )
    def test_files_are_fetched_and_pushed(self, command: list[str], hub: Hub, play: Play) -> None:
        source = play(0).source
        done = run(*command)
        assert done.exit_code == 0, done.output
        record = (source / "export.json").read_bytes()
        assert hub.files == {**FILES, "export.json": record}
        assert f"3 files are in {hub.url}/a/edited/commit/{COMMIT}" in done.stderr
        assert TOKEN not in done.output

    @pytest.mark.parametrize(
        "command",
        [["export", "head", "--push", "a/edited"], ["exports", "push", "export_1", "a/edited"]],
    )
    def test_a_key_without_the_scope_admin_pushes_nothing(
        self, command: list[str], hub: Hub, play: Play
    ) -> None:
        played = play(0)
        played.admin = False
        done = run(*command)
        # `connected`, which is played here, turns it into a message
        assert isinstance(done.exception, ApiError)
        assert (hub.requests, played.asked) == ([], [])

    def test_json_has_the_address(self, hub: Hub, play: Play) -> None:
        play(0)
        pushed = {
            "repository": "a/edited", "url": f"{hub.url}/a/edited/commit/{COMMIT}",
            "commit": COMMIT, "files": 3,
        }  # fmt: skip
        done = run("exports", "push", "export_1", "a/edited", "--json")
        assert json.loads(done.stdout) == pushed
        done = run("export", "head", "--push", "a/edited", "--json")
        answer = json.loads(done.stdout)
        assert (answer["id"], answer["pushed"]) == ("export_1", pushed)

    def test_the_folder_that_is_named_keeps_what_is_not_of_the_export(
        self, hub: Hub, play: Play, tmp_path: Path
    ) -> None:
        play(0)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / ".env").write_text("a secret")
        done = run("export", "head", "--push", "a/edited", "--out", str(tmp_path / "out"))
        assert done.exit_code == 0, done.output
        assert set(hub.files) == {*FILES, "export.json"}

    @pytest.mark.parametrize(
        "command",
        [["export", "head", "--push", "a/edited"], ["exports", "push", "export_1", "a/edited"]],
    )
    def test_a_proof_that_does_not_hold_is_not_pushed(
        self, command: list[str], hub: Hub, play: Play
    ) -> None:
        play(1)
        done = run(*command)
        assert done.exit_code == 1
        assert "jeep exports proof export_1" in done.stderr
        assert hub.requests == []


WAITING = """
import signal
import time
# a shell starts what runs in its background, or under nohup, with some of these ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
for ending in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(ending, signal.SIG_DFL)
from service.cli.commands.outward import exports
exports._fetch = lambda client, export_id, folder, quiet: (folder / "x").write_bytes(b"x")
exports.push_folder = lambda *given: (print("pushing", flush=True), time.sleep(60))
exports._push(None, "export_1", "a/b", None, False, True)
"""
"""A push to a hub that does not answer."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_push_that_is_ended_leaves_no_files(number: signal.Signals, tmp_path: Path) -> None:
    pushing = subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    with pushing:
        assert pushing.stdout is not None
        assert pushing.stdout.readline() == b"pushing\n"
        [folder] = tmp_path.iterdir()
        assert folder.name.startswith("jeep-push-")
        pushing.send_signal(number)
        assert pushing.wait(20) == -number
    assert list(tmp_path.iterdir()) == []
