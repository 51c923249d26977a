"""A follower without the store's disk is killed while it fetches, and so is the api it asks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faults.checks import assert_whole
from support.faults.halts import FETCHING
from support.faults.harness import SETTINGS, Service
from support.faults.processes import Part, until

USUAL = "fetch chunk"
AWAY = "the api cannot be read"
PLACES = [
    one if one == USUAL else pytest.param(one, marks=pytest.mark.thorough) for one in FETCHING
]


@pytest.fixture(scope="module")
def led(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one follower, which has a folder of its own."""
    folder = tmp_path_factory.mktemp("apart", numbered=True)
    with Service(folder) as service:
        given = {
            **SETTINGS,
            "JEEP_ROLE": "follower",
            "JEEP_STORE": folder / "own",
            "JEEP_STORE_URL": service.url,
            "JEEP_REDIS_URL": service.server.url,
        }
        service.followers.append(Part("follower1", folder, given))
        yield service


@pytest.fixture
def service(led: Service) -> Iterator[Service]:
    led.wait_ready()
    led.wait_followers(led.store.head.read().version)
    yield led
    assert_whole(led)


def own(service: Service) -> Path:
    return service.folder / "own" / service.store.id


def assert_nothing_half(service: Service) -> None:
    """Every tensor that has its name has its hash."""
    for path in (own(service) / "tensors").rglob("*.safetensors"):
        whole = path.read_bytes()
        data = whole[8 + int.from_bytes(whole[:8], "little") :]
        assert hashlib.sha256(data).hexdigest() == path.stem


def halted(service: Service, place: str) -> Part:
    """The follower, halted while it fetches a new head."""
    [part] = service.followers
    part.halts.want(place)
    service.wait(service.edit().id)
    until(part.halts.reached, f"the follower reaches {place!r}")
    return part


@pytest.mark.parametrize("place", PLACES)
def test_a_follower_that_is_killed_goes_on_with_what_it_has(service: Service, place: str) -> None:
    part = halted(service, place)
    part.kill()
    assert_nothing_half(service)
    head = service.store.head.read().version
    service.wait_followers(head)
    assert_nothing_half(service)
    assert not list(own(service).rglob("*.part"))
    [answer] = service.persist(lambda: service.client.generate("Lyon lies in")).results
    assert answer.version == head


@pytest.mark.thorough
@pytest.mark.parametrize("place", ["fetch begin", "fetch chunk", "fetch head"])
def test_an_api_that_is_killed_is_waited_for(service: Service, place: str) -> None:
    part = halted(service, place)
    before = part.log.read_text().count(AWAY)
    service.api.kill()
    part.halts.let_go()
    until(lambda: part.log.read_text().count(AWAY) > before, "it says that the api is away")
    assert part.alive
    service.wait_followers(service.store.head.read().version)
    assert_nothing_half(service)
