"""Files of an export on their way to a hub: whole, once, and the token to the hub alone."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from support.service.outward.hub import COMMIT, Hub, recording_hub

from jeep_core.exports.folders import FileHash, write_record
from jeep_core.storage.records import sealed, unsealed
from service.client.hub import PushFailed, push
from service.settings import HubSettings, SettingsError

TOKEN = "hf_secretOfThisTest"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 40,
    "README.md": b"---\nlicense: mit\n---\n# A model\n",
    "parts/facts.jsonl": b"{}\n",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with recording_hub() as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "export"
    for name, data in FILES.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(data)
    write_record(made, {"version": "v1", "proof": {"ok": True}})
    return made


def with_record(folder: Path) -> dict[str, bytes]:
    """The files that are to arrive: those of the export, and its record."""
    return {**FILES, "export.json": (folder / "export.json").read_bytes()}


@pytest.fixture
def settings(hub: Hub, tmp_path: Path) -> HubSettings:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    return HubSettings(hub_endpoint=hub.url, hub_token_file=file)


def test_all_files_arrive_in_one_commit(hub: Hub, folder: Path, settings: HubSettings) -> None:
    done = push(folder, "someone/edited", settings)
    assert hub.files == with_record(folder)
    assert (done.commit, done.files, hub.visibility) == (COMMIT, 5, "private")
    assert [path for _, path, _ in hub.requests if "/commit/" in path] == [
        "/api/models/someone/edited/commit/main"
    ]


def test_what_is_not_of_the_export_stays(hub: Hub, folder: Path, settings: HubSettings) -> None:
    for name in (".env", "facts.jsonl", "parts/more.txt"):
        (folder / name).write_text("a secret")
    assert push(folder, "someone/edited", settings).files == 5
    assert hub.files == with_record(folder)


def test_a_damaged_export_is_not_pushed(hub: Hub, folder: Path, settings: HubSettings) -> None:
    (folder / "config.json").write_text("{}")
    with pytest.raises(PushFailed, match=r"config\.json does not have the hash"):
        push(folder, "someone/edited", settings)
    (folder / "config.json").unlink()
    with pytest.raises(PushFailed, match=r"config\.json is missing"):
        push(folder, "someone/edited", settings)
    assert hub.requests == []


def test_a_record_that_names_files_elsewhere_is_refused(
    hub: Hub, settings: HubSettings, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    secret = FileHash("../token", len(TOKEN), hashlib.sha256(TOKEN.encode()).hexdigest())
    write_record(tmp_path / "made", {"proof": {"ok": True}}, (secret,))
    record = json.loads(unsealed((tmp_path / "made" / "export.json").read_bytes()))
    record["files"] = [asdict(secret)]
    (tmp_path / "made" / "export.json").write_bytes(sealed(json.dumps(record).encode()))
    with pytest.raises(PushFailed, match="outside the folder"):
        push(tmp_path / "made", "someone/edited", settings)
    assert hub.requests == []


def test_an_export_whose_proof_does_not_hold_is_not_pushed(
    hub: Hub, settings: HubSettings, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    write_record(tmp_path / "made", {"proof": {"ok": False}})
    with pytest.raises(PushFailed, match="proof does not hold"):
        push(tmp_path / "made", "someone/edited", settings)
    assert hub.requests == []


@pytest.mark.parametrize("token", ["hf_a\nhf_b", "hf_a hf_b", "hf_a\u00e9", "hf_a\x00"])
def test_a_token_that_no_header_can_hold_is_refused_unseen(
    token: str, hub: Hub, folder: Path, settings: HubSettings, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(token, "utf-8")
    with pytest.raises(SettingsError, match="must hold one token alone") as caught:
        push(folder, "someone/edited", settings)
    assert "hf_" not in str(caught.value)
    assert hub.requests == []


def test_a_repository_may_be_public(hub: Hub, folder: Path, settings: HubSettings) -> None:
    push(folder, "someone/edited", settings, private=False)
    assert hub.visibility == "public"


def test_the_token_is_in_no_log_and_no_answer(
    hub: Hub, folder: Path, settings: HubSettings, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        push(folder, "someone/edited", settings)
        hub.fail = "/api/models"
        with pytest.raises(PushFailed) as caught:
            push(folder, "someone/edited", settings)
    assert {token for _, path, token in hub.requests if path.startswith("/api/repos")} == {
        f"Bearer {TOKEN}"
    }
    # the addresses of blobs are signed, and may be another host's
    assert {token for _, path, token in hub.requests if path.startswith("/blobs")} == {""}
    assert TOKEN not in caplog.text + str(caught.value) + repr(caught.value) + repr(settings)


@pytest.mark.parametrize(
    "path", ["/api/repos", "/api/models", "/someone", "/blobs", "/api/models/someone/edited/commit"]
)
def test_redirects_are_refused_and_nothing_is_half_written(
    path: str, hub: Hub, folder: Path, settings: HubSettings
) -> None:
    hub.redirect = path
    with pytest.raises(PushFailed, match=r"redirects to http://127\.0\.0\.2:9/elsewhere"):
        push(folder, "someone/edited", settings)
    assert hub.files == {}


def test_what_the_hub_says_is_passed_on(hub: Hub, folder: Path, settings: HubSettings) -> None:
    hub.fail = "/api/models/someone/edited/preupload"
    with pytest.raises(PushFailed, match="files for someone/edited: 403: no right"):
        push(folder, "someone/edited", settings)
    assert hub.files == {}


@pytest.mark.parametrize(
    "endpoint", ["http://example.org", "ftp://127.0.0.1", "https://me:secret@example.org", "hub"]
)
def test_a_token_goes_by_https_or_stays_on_this_machine(
    endpoint: str, folder: Path, settings: HubSettings
) -> None:
    settings.hub_endpoint = endpoint
    with pytest.raises(SettingsError, match="JEEP_HUB_ENDPOINT"):
        push(folder, "someone/edited", settings)


def test_a_push_needs_a_token_and_files(
    hub: Hub, folder: Path, settings: HubSettings, tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(PushFailed, match=r"nothing has no export\.json: it is no export"):
        push(tmp_path / "nothing", "someone/edited", settings)
    settings.hub_token_file = tmp_path / "none"
    with pytest.raises(SettingsError, match=r"JEEP_HUB_TOKEN_FILE: .*: No such file"):
        push(folder, "someone/edited", settings)
    settings.hub_token_file = None
    with pytest.raises(SettingsError, match="JEEP_HUB_TOKEN_FILE: name a file"):
        push(folder, "someone/edited", settings)
    assert hub.requests == []


@pytest.mark.parametrize(
    "name", ["a/b/c", "b", "/b", "a/", "a b/c", "-a/b", "a/b.git", "a/b--c", "a/" + "b" * 95]
)
def test_a_name_that_is_none_is_refused(
    name: str, hub: Hub, folder: Path, settings: HubSettings
) -> None:
    with pytest.raises(PushFailed, match=f"'{name}' is no repository of a hub: give OWNER/NAME"):
        push(folder, name, settings)
    assert hub.requests == []
