"""``jeep keys``, and how commands send their key."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.cli import app
from service.contracts.schemas.access import Scope
from service.settings import Settings
from service.store import Store


@pytest.fixture(autouse=True)
def _no_key_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JEEP_API_KEY", raising=False)
    monkeypatch.delenv("JEEP_KEY_FILE", raising=False)


def jeep(*arguments: str) -> int:
    return app(list(arguments), standalone_mode=False) or 0


def test_keys_are_created_listed_and_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ("--store", str(tmp_path / "store"))
    assert jeep("keys", "create", "me", *store) == 0
    shown = capsys.readouterr()
    token = shown.out.strip()
    assert "nowhere else" in shown.err
    assert token not in shown.err
    opened = Store.open(tmp_path / "store")
    key = opened.keys.find(token)
    assert key is not None
    assert key.scopes == [Scope.EDIT, Scope.GENERATE, Scope.READ]
    assert jeep("keys", "create", "ops", "--scope", "admin", *store) == 0
    capsys.readouterr()
    assert jeep("keys", "list", *store) == 0
    listed = capsys.readouterr().out
    assert "ops" in listed
    assert token[32:] not in listed
    assert jeep("keys", *store) == 0
    assert capsys.readouterr().out == listed
    assert jeep("keys", "list", "--json", *store) == 0
    as_json = capsys.readouterr().out
    assert [one["name"] for one in json.loads(as_json)] == ["me", "ops"]
    assert key.digest not in as_json
    assert jeep("keys", "revoke", "me", *store) == 0
    assert opened.keys.find(token) is None
    actions = [entry.action for _, entry in opened.audit.entries()]
    assert actions == ["revoke_key", "create_key", "create_key"]


def test_a_user_without_a_name_makes_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert jeep("keys", "create", "me", "--store", str(tmp_path / "store")) == 0
    opened = Store.open(tmp_path / "store")
    assert opened.keys.find(capsys.readouterr().out.strip()) is not None
    [entry] = [entry for _, entry in opened.audit.entries()]
    assert entry.who == f"shell:{os.getuid()}"


def test_a_key_into_a_file_that_only_its_owner_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, file = ("--store", str(tmp_path / "store")), tmp_path / "key"
    assert jeep("keys", "create", "me", "--file", str(file), *store) == 0
    assert capsys.readouterr().out == ""
    assert file.stat().st_mode & 0o777 == 0o600
    assert Store.open(tmp_path / "store").keys.find(file.read_text().strip()) is not None
    before = file.read_text()
    assert jeep("keys", "create", "you", "--file", str(file), *store) == 1
    assert file.read_text() == before
    other = tmp_path / "other"
    assert jeep("keys", "create", "me", "--file", str(other), *store) == 1
    assert not other.exists(), "the name was taken"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "a b"), "name"),
        (("create", "../x"), "name"),
        (("revoke", "nobody"), "nobody"),
    ],
)
def test_wrong_keys_commands_are_refused(
    arguments: tuple[str, str], said: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert jeep("keys", *arguments, "--store", str(store.root)) != 0
    assert said in capsys.readouterr().err
    assert store.keys.all() == []


def test_the_store_of_a_key_is_named_and_a_new_one_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JEEP_STORE", "made")
    assert jeep("keys", "create", "me") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert str(tmp_path / "made") in said
    assert "this store is new" in said
    assert jeep("keys", "create", "you") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert str(tmp_path / "made") in said
    assert "is new" not in said


def test_a_mistyped_store_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert jeep("keys", "list", "--store", str(tmp_path / "typo")) == 2
    assert "JEEP_STORE" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_commands_take_the_key_from_environment_or_file(
    settings: Settings,
    worker: PlayedWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, token = worker.store.keys.create("me", [Scope.ADMIN])
    file = tmp_path / "key"
    file.write_text(token + "\n")
    with running(settings.model_copy(update={"auth": "keys"})) as url:
        at = ("--url", url)
        assert jeep("snapshots", *at) == 1
        said = capsys.readouterr().err
        assert "401 no_key" in said
        assert "JEEP_API_KEY or --key-file; jeep keys create NAME --store" in said
        _, reader = worker.store.keys.create("reader", [Scope.GENERATE])
        monkeypatch.setenv("JEEP_API_KEY", reader)
        assert jeep("snapshots", *at) == 1
        said = capsys.readouterr().err
        assert "403 insufficient_scope" in said
        assert "jeep keys create NAME --scope read --store STORE" in said
        monkeypatch.delenv("JEEP_API_KEY")
        assert jeep("snapshots", *at, "--key-file", str(file)) == 0
        assert jeep("suites", *at, "--key-file", str(file)) == 0
        assert jeep("probes", "show", "probe_1", *at, "--key-file", str(file)) == 1
        assert "404 unknown_probe" in capsys.readouterr().err
        monkeypatch.setenv("JEEP_API_KEY", "wrong")
        assert jeep("snapshots", *at) == 2
        assert "JEEP_API_KEY" in (said := capsys.readouterr().err)
        assert "wrong" not in said
        assert jeep("snapshots", *at, "--key-file", str(file)) == 0, "the flag wins"
        monkeypatch.setenv("JEEP_API_KEY", token)
        assert jeep("rollback", "base", *at) == 0
        monkeypatch.delenv("JEEP_API_KEY")
        monkeypatch.setenv("JEEP_KEY_FILE", str(file))
        capsys.readouterr()
        assert jeep("audit", "--json", *at) == 0
        [moved] = json.loads(capsys.readouterr().out)
        assert (moved["action"], moved["version"]) == ("roll_back", "v0")
        assert jeep("audit", *at) == 0
        assert re.search(r"me\s+roll_back", capsys.readouterr().out)
        monkeypatch.setenv("JEEP_KEY_FILE", str(tmp_path / "none"))
        assert jeep("snapshots", *at) == 2
        assert "JEEP_KEY_FILE" in capsys.readouterr().err
