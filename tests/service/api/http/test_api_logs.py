"""The content of log lines: ids, no keys, and prompts only if configured."""

import logging

import httpx
import pytest
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.contracts.schemas.access import Scope
from service.settings import Settings

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}


@pytest.mark.parametrize("asked", [False, True])
def test_prompts_are_logged_only_when_asked_for(
    asked: bool, settings: Settings, worker: PlayedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "service")
    key, token = worker.store.keys.create("me", [Scope.ADMIN])
    headers = {"Authorization": f"Bearer {token}", "X-Request-Id": "mine"}
    given = settings.model_copy(update={"auth": "keys", "log_prompts": asked})
    with running(given) as url, httpx.Client(base_url=url, headers=headers, timeout=20) as http:
        assert http.post("/generate", json={"prompt": "Lyon lies in"}).status_code == 200
        assert http.post("/generate", json={"prompt": "Lyon fail", "seed": "x"}).status_code == 422
        assert http.post("/edits", json={"facts": [FACT]}).status_code == 202
    lines = [line for line in caplog.messages if "Lyon" in line]
    assert len(lines) == (2 if asked else 0)
    assert all("mine" in line and key.id in line for line in lines)
    assert token[32:] not in caplog.text
