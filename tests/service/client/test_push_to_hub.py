"""Files of an export on their way to a hub: whole, once, and the token to the hub alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from support.service.hub import COMMIT, Hub, recording_hub
from typer.testing import CliRunner

from service.cli import app
from service.cli.commands.outward import exports
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
    return made


@pytest.fixture
def settings(hub: Hub, tmp_path: Path) -> HubSettings:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    return HubSettings(hub_endpoint=hub.url, hub_token_file=file)


def test_all_files_arrive_in_one_commit(hub: Hub, folder: Path, settings: HubSettings) -> None:
    done = push(folder, "someone/edited", settings)
    assert hub.files == FILES
    assert (done.commit, done.files, hub.visibility) == (COMMIT, 4, "private")
    assert [path for _, path, _ in hub.requests if "/commit/" in path] == [
        "/api/models/someone/edited/commit/main"
    ]


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
    with pytest.raises(PushFailed, match="export into it first"):
        push(tmp_path / "nothing", "someone/edited", settings)
    settings.hub_token_file = tmp_path / "none"
    with pytest.raises(SettingsError, match=r"JEEP_HUB_TOKEN_FILE: .*: No such file"):
        push(folder, "someone/edited", settings)
    settings.hub_token_file = None
    with pytest.raises(SettingsError, match="JEEP_HUB_TOKEN_FILE: name a file"):
        push(folder, "someone/edited", settings)
    assert hub.requests == []


def test_a_name_that_is_none_is_refused(hub: Hub, folder: Path, settings: HubSettings) -> None:
    with pytest.raises(PushFailed, match="a/b/c"):
        push(folder, "a/b/c", settings)
    assert hub.requests == []


class TestCommands:
    """``jeep export --push`` and ``jeep exports push``."""

    class Finished:
        """A client for which every export has ended."""

        def download_export(self, export_id: str, folder: Path, hear: Any) -> list[Path]:
            (folder / "config.json").write_bytes(FILES["config.json"])
            return [folder / "config.json"]

    @pytest.fixture(autouse=True)
    def _named(self, settings: HubSettings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JEEP_HUB_ENDPOINT", settings.hub_endpoint)
        monkeypatch.setenv("JEEP_HUB_TOKEN_FILE", str(settings.hub_token_file))

    def test_files_are_fetched_and_pushed(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exports, "connected", lambda url: nullcontext(self.Finished()))
        done = CliRunner().invoke(app, ["exports", "push", "export_1", "someone/edited"])
        assert done.exit_code == 0, done.output
        assert hub.files == {"config.json": FILES["config.json"]}
        assert TOKEN not in done.output

    @pytest.mark.parametrize(
        "command",
        [["export", "head", "--push", "someone/edited"],
         ["exports", "push", "export_1", "someone/edited"]],
    )  # fmt: skip
    def test_without_a_token_nothing_is_exported(
        self, command: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("JEEP_HUB_TOKEN_FILE")
        monkeypatch.setattr(exports, "connected", lambda url: nullcontext(None))
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 1
        assert "JEEP_HUB_TOKEN_FILE: name a file" in done.output

    @pytest.mark.parametrize("more", [["out.safetensors"], ["--no-wait"]])
    def test_a_push_needs_the_files_of_an_export(self, more: list[str]) -> None:
        done = CliRunner().invoke(app, ["export", "head", *more, "--push", "someone/edited"])
        assert done.exit_code == 2
        assert "leave out FILE and --no-wait" in done.output
