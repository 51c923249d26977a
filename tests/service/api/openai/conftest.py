"""A whole service with a tiny model that has a chat template, and openai's client for it."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from support.library import folders
from support.service.api_fixtures import (  # noqa: F401
    http,
    model,
    settings,
    store,
    url,
    valkey,
    worker,
)
from support.service.serving import make_settings
from support.service.whole import serving

from jeep_core.models.loading import LoadedModel, load
from service.ops.embedded_server import EmbeddedValkey


@pytest.fixture(scope="package")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("chat") / "tiny-chat"
    folders.write_chat_folder(folder)
    return str(folder)


@pytest.fixture(scope="package")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_folder: str) -> Iterator[str]:
    """The address of a service that stays up for all tests of this package."""
    folder = tmp_path_factory.mktemp("whole")
    with EmbeddedValkey(folder / "valkey") as server:
        given = make_settings(folder / "store", server.url)
        changes = {"model": tiny_folder, "device": "cpu", "generate_timeout_s": 60}
        with serving(given.model_copy(update=changes)) as url:
            yield url


@pytest.fixture(scope="package")
def base(tiny_folder: str) -> LoadedModel:
    """The same model in this test, for what it says without the service."""
    return load(tiny_folder, "cpu")


@pytest.fixture
def client(whole: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="none", base_url=f"{whole}/v1", max_retries=0) as made:
        yield made
