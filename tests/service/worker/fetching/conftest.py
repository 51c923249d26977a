"""A writer's store with versions of the tiny model, and an api that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import TINY_GPTJ
from support.service.api_fixtures import settings, store, valkey  # noqa: F401
from support.service.serving import running
from support.service.thin_versions import add_edit

from jeep_core.models.loading import LoadedModel, load
from service.contracts.schemas.access import Scope
from service.settings import Settings
from service.store import Store
from service.worker.members.publishing import prepare


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load(str(TINY_GPTJ), "cpu")


@pytest.fixture
def published(store: Store, base: LoadedModel) -> Store:  # noqa: F811
    """A store whose writer has published the tiny model and made a version, which is head."""
    prepare(store, base, Settings(store=store.root))
    add_edit(base, store)
    return store


@pytest.fixture
def served(settings: Settings) -> Settings:  # noqa: F811
    """Settings of the api: with keys."""
    return settings.model_copy(update={"auth": "keys", "rate_per_minute": 0})


@pytest.fixture
def url(served: Settings, published: Store) -> Iterator[str]:
    with running(served) as address:
        yield address


@pytest.fixture
def following(
    served: Settings, published: Store, url: str, tmp_path: Path
) -> Callable[..., Settings]:
    """Settings of a follower with a folder of its own; more can be given."""
    _, token = published.keys.create("follower", [Scope.FOLLOW])

    def make(**more: object) -> Settings:
        given = {
            "store": tmp_path / "own",
            "model": str(TINY_GPTJ),
            "role": "follower",
            "redis_url": served.redis_url,
            "store_url": url,
            "store_key": token,
        }
        return Settings.model_validate({**given, **more})

    return make
