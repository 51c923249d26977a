"""Whether a hub can be asked: a command without a network says so at once."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from jeep_core.errors import UnsupportedModel
from jeep_core.models.checkpoints.source import fetched, fetched_config
from jeep_core.storage.hub import can_be_asked


def _nowhere(*args: Any, **named: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jeep_core.storage.hub.getproxies", dict)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_proxy")
class TestCanBeAsked:
    def test_a_name_that_resolves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://localhost")
        assert can_be_asked()

    def test_no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", _nowhere)
        assert not can_be_asked()

    def test_a_proxy_resolves_names_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", _nowhere)
        proxies = {"https": "http://127.0.0.1:9"}
        monkeypatch.setattr("jeep_core.storage.hub.getproxies", lambda: proxies)
        assert can_be_asked()

    @pytest.mark.parametrize(
        "proxies",
        [
            {"no": "localhost,127.0.0.1"},
            {"http": "http://127.0.0.1:9"},
            {"https": "http://127.0.0.1:9", "no": "hub.example"},
        ],
        ids=["none", "another-scheme", "the-hub-goes-past-it"],
    )
    def test_a_proxy_that_the_hub_is_not_asked_through(
        self, monkeypatch: pytest.MonkeyPatch, proxies: dict[str, str]
    ) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", _nowhere)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.example")
        monkeypatch.setattr("jeep_core.storage.hub.getproxies", lambda: proxies)
        monkeypatch.setenv("no_proxy", proxies.get("no", ""))
        assert not can_be_asked()

    @pytest.mark.parametrize("address", ["https://", f"https://{'a' * 70}.example"])
    def test_an_address_that_no_host_can_have(
        self, monkeypatch: pytest.MonkeyPatch, address: str
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        assert not can_be_asked()

    @pytest.mark.parametrize("fetch", [fetched, fetched_config])
    def test_the_cache_alone_is_asked_then(
        self, monkeypatch: pytest.MonkeyPatch, fetch: Any
    ) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", _nowhere)
        asked: list[bool] = []

        def ask(*args: Any, local_files_only: bool, **named: Any) -> str:
            asked.append(local_files_only)
            raise OSError("not here")

        for name in ("snapshot_download", "hf_hub_download"):
            monkeypatch.setattr(f"jeep_core.models.checkpoints.source.{name}", ask)
        with pytest.raises(UnsupportedModel, match="no-such-owner/model"):
            fetch("no-such-owner/model")
        assert asked == [True]
