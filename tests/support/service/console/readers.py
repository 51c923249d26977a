"""Readers of the console: browsers without scripts, on a real api."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from service.contracts.schemas.access import Scope
from service.queue import Keys, connect
from service.store import Store
from support.service.bundled_model import publish
from support.service.serving import make_settings, running

HTML = {"Accept": "text/html,application/xhtml+xml"}
TOKEN = re.compile(r'name="csrf-token" content="([^"]*)" data-header="([^"]+)"')
TAGS = re.compile(r"<[^>]*>")
ISOLATES = re.compile(r"</?bdi>")
PERSON = (Scope.READ, Scope.GENERATE, Scope.EDIT)


def change_headers(page: httpx.Response) -> dict[str, str]:
    """The headers that the scripts of a page send with a change."""
    found = TOKEN.search(page.text)
    assert found, page.text[:500]
    return {found[2]: found[1], "HX-Request": "true"}


def seen(page: httpx.Response) -> str:
    """The text of a page or a part of one, as it is read: one blank between words."""
    return read_as_text(page.text)


def read_as_text(source: str) -> str:
    """HTML without its tags; those that only keep the direction of a text leave no blank."""
    return " ".join(html.unescape(TAGS.sub(" ", ISOLATES.sub("", source))).split())


@contextmanager
def browser(url: str) -> Iterator[httpx.Client]:
    """Keeps cookies, asks for pages, and follows redirects as a person sees them."""
    with httpx.Client(base_url=url, timeout=20, headers=HTML, follow_redirects=True) as made:
        yield made


def new_key(store: Store, *scopes: Scope, name: str = "") -> str:
    """A key's secret, of a name that no other one has."""
    return store.keys.create(name or f"key-{len(store.keys.all())}", scopes)[1]


def sign_in(browser: httpx.Client, store: Store, *scopes: Scope) -> str:
    """Sign in with a new key of these scopes, by default those of a person; its name."""
    given = scopes or PERSON
    name = f"reader-{len(store.keys.all())}"
    token = new_key(store, *given, name=name)
    answer = browser.post("/console/sign-in", data={"key": token})
    assert answer.status_code == 200, answer.text
    assert answer.url.path != "/console/sign-in"
    return name


@pytest.fixture(scope="module")
def shared_console(
    tmp_path_factory: pytest.TempPathFactory, valkey: str
) -> Iterator[tuple[str, Store]]:
    """One api with keys for a file, of the model that a worker, now dead, has published."""
    root = tmp_path_factory.mktemp("console", numbered=True) / "store"
    settings = make_settings(root, valkey).model_copy(update={"auth": "keys"})
    store = Store.open(settings.store)
    publish(store)
    with running(settings) as url:
        yield url, store


@pytest.fixture
def shown(shared_console: tuple[str, Store], valkey: str) -> Iterator[httpx.Client]:
    """A browser at the shared console whose address has not tried to sign in yet."""
    url, store = shared_console
    redis = connect(valkey)
    redis.delete(Keys(store.id).bucket("sign-in:127.0.0.1"))
    redis.close()
    with browser(url) as made:
        yield made


@pytest.fixture
def kept(shared_console: tuple[str, Store]) -> Store:
    """The store of the shared console."""
    return shared_console[1]
