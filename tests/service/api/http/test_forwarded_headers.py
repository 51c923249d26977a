"""Forwarded headers: believed of the proxies that the operator names, and of nobody else."""

import httpx
import pytest
from support.service.serving import running

from service.api.http.sessions import SIGN_INS_PER_MINUTE
from service.contracts.schemas.access import Scope
from service.settings import Settings
from service.store import Store

TRIES = SIGN_INS_PER_MINUTE + 2


def tries(url: str) -> list[int]:
    """The answers to tries to sign in, each in the name of another address."""
    return [
        httpx.post(
            f"{url}/console/sign-in",
            data={"key": "x"},
            headers={"X-Forwarded-For": f"10.0.0.{number}"},
        ).status_code
        for number in range(TRIES)
    ]


def cookie(url: str, settings: Settings, headers: dict[str, str]) -> str:
    _, token = Store.open(settings.store).keys.create("one", [Scope.READ])
    answer = httpx.post(f"{url}/console/sign-in", data={"key": token}, headers=headers)
    return answer.headers["set-cookie"].lower()


@pytest.fixture
def guarded(settings: Settings) -> Settings:
    return settings.model_copy(update={"auth": "keys"})


def test_without_named_proxies_no_forwarded_header_counts(
    guarded: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    with running(guarded) as url:
        assert "secure" not in cookie(url, guarded, {"X-Forwarded-Proto": "https"})
        assert 429 in tries(url)


def test_a_named_proxy_says_who_asks_and_how(
    guarded: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "127.0.0.1")
    with running(guarded) as url:
        assert cookie(url, guarded, {"X-Forwarded-Proto": "https"}).endswith("; secure")
        assert set(tries(url)) == {401}
