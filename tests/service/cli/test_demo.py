"""The service that the demo starts; the demo itself runs in the end-to-end tests."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from rich.console import Console

from service.demo import bundled as demo


def test_the_demo_keeps_away_from_a_configured_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str] = {}
    commands: list[list[str]] = []

    def start(command: list[str], **options: Any) -> None:
        given.update(options["env"])
        commands.append(command)
        raise OSError("not in this test")

    monkeypatch.setenv("JEEP_REDIS_URL", "redis://production:6379/0")
    monkeypatch.setenv("JEEP_THREADS", "2")
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(OSError, match="not in this test"), demo.running_service("m", Console()):
        pass
    assert given["JEEP_THREADS"] == "2"
    assert "JEEP_REDIS_URL" not in given
    assert commands[0][-4:] == ["--host", "127.0.0.1", "--auth", "off"]
