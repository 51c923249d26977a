"""Commands of the service given wrong files or folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import TINY_GPTJ
from typer.testing import CliRunner, Result

from service.cli import app
from service.settings import EXIT_CONFIG, Settings, SettingsError
from service.store import Store
from service.worker.input_files import own_relations
from service.worker.process import Worker

MODEL = TINY_GPTJ
NOBODY = ("--url", "http://127.0.0.1:9")
FACT = {"subject": "Lyon", "prompt": "{} lies in", "target_new": "Peru"}


def loop(path: Path) -> None:
    """A file that no user can open, not even root."""
    path.symlink_to(path)


BAD: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "text": lambda path: path.write_text("neither JSON nor YAML: ["),
    "deep": lambda path: path.write_text("[" * 100_000),
    "number": lambda path: path.write_text("5"),
    "list": lambda path: path.write_text("[1, 2]"),
    "facts": lambda path: path.write_text('{"facts": 5}'),
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "unreadable": loop,
}


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, [*arguments], env={"COLUMNS": "300", **environment})


def clear(result: Result, name: str) -> None:
    """The command ended with a message that names the file, not with a traceback."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    said = result.output
    assert "Traceback" not in said
    assert name in said
    assert len([line for line in said.splitlines() if line.strip(" ╭╮╰╯─│")]) <= 5, said


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("command", [("edit",), ("probes", "run", "--facts")])
def test_a_bad_file_of_facts_is_named(tmp_path: Path, command: tuple[str, ...], kind: str) -> None:
    BAD[kind](tmp_path / "given")
    clear(run(*command, str(tmp_path / "given"), *NOBODY), "given")


@pytest.mark.parametrize("kind", ["missing", "a folder", "unreadable"])
def test_a_bad_suite_is_named(tmp_path: Path, kind: str) -> None:
    BAD[kind](tmp_path / "given")
    result = run("suites", "add", "mine", str(tmp_path / "given"), *NOBODY)
    clear(result, str(tmp_path / "given"))
    assert result.exit_code == 2  # as every argument that makes no sense


@pytest.mark.parametrize("kind", ["empty", "garbage", "text", "missing", "a folder", "unreadable"])
def test_a_bad_key_file_is_named(tmp_path: Path, kind: str) -> None:
    BAD[kind](tmp_path / "given")
    result = run("jobs", "--key-file", str(tmp_path / "given"), *NOBODY)
    clear(result, "JEEP_KEY_FILE")


@pytest.mark.parametrize("options", ["[]", "5", "{", '"x"'])
def test_bad_options_of_a_training_are_named(options: str) -> None:
    clear(run("submit-hypernetwork", "mend", "--options", options, *NOBODY), "--options")


@pytest.mark.parametrize("url", ["http://[::", "nonsense", "ftp://x", "http://127.0.0.1:9"])
def test_a_bad_address_is_named(url: str) -> None:
    clear(run("jobs", "--url", url), "")


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(
    "command",
    [
        ("backup", "copy", "--store"),
        ("store", "verify", "--store"),
        ("store", "du", "--store"),
        ("store", "gc", "--dry-run", "--store"),
        ("keys", "list", "--store"),
        ("keys", "revoke", "me", "--store"),
        ("restore",),
    ],
    ids=lambda command: " ".join(command),
)
def test_a_path_that_is_no_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    BAD[kind](tmp_path / "given")
    clear(run(*command, str(tmp_path / "given"), JEEP_STORE=str(tmp_path / "new")), "given")


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(
    "command",
    [
        ("backup", "copy", "--store"),
        ("store", "verify", "--store"),
        ("store", "du", "--store"),
        ("keys", "list", "--store"),
    ],
    ids=lambda command: " ".join(command),
)
def test_a_store_with_a_damaged_mark_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "given"
    Store.open(folder)
    (folder / "format.json").unlink()
    BAD[kind](folder / "format.json")
    clear(run(*command, str(folder)), "given")


@pytest.mark.parametrize("kind", BAD)
def test_a_backup_with_a_damaged_list_is_named(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    BAD[kind](folder / "backup.json")
    result = run("restore", str(folder), "--store", str(tmp_path / "new"))
    clear(result, "given")


def test_a_backup_into_a_file_and_a_key_into_a_folder_are_refused(tmp_path: Path) -> None:
    Store.open(tmp_path / "store")
    (tmp_path / "given").touch()
    given = ("--store", str(tmp_path / "store"))
    clear(run("backup", str(tmp_path / "given"), *given), "given")
    clear(run("keys", "create", "me", "--file", str(tmp_path), *given), str(tmp_path))
    nowhere = str(tmp_path / "given" / "deeper")
    clear(run("keys", "create", "you", "--file", nowhere, *given), "given")


@pytest.mark.parametrize(
    "command",
    [
        "tune --suite s --out x.yaml",
        "reproduce --out x",
        "train-hypernetwork mend m",
        "moments compute",
        "probe --out x",
        "models",
    ],
)
def test_a_wrong_setting_stops_a_command_of_the_library(command: str) -> None:
    clear(run(*command.split(), JEEP_PORT="many"), "JEEP_PORT")


RELATIONS = {
    **{kind: make for kind, make in BAD.items() if kind not in ("facts",)},
    "no text": lambda path: path.write_text('{"capital": 3}'),
    "slots": lambda path: path.write_text('{"capital": "{} and {}"}'),
}


@pytest.mark.parametrize("kind", RELATIONS)
def test_a_file_that_has_no_relations_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "given"
    RELATIONS[kind](path)
    with pytest.raises(SettingsError, match=r"^JEEP_RELATIONS: .*given") as found:
        own_relations(path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("which", ["relations", "presets"])
def test_the_worker_ends_with_the_code_for_wrong_settings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    """It is not started again and again: code 78 stops the service."""
    place = tmp_path / "given"
    if which == "presets":
        place.mkdir()
        (place / "mine.yaml").write_text("- no preset")
    else:
        place.write_text("{")
    more = {which: place}
    settings = Settings(store=tmp_path / "store", model=str(MODEL), device="cpu", **more)
    assert Worker(settings).run() == EXIT_CONFIG
    [said] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "given" in said
    assert "\n" not in said
