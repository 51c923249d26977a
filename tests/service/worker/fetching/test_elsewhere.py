"""A store that is read through its api: versions, head, and an api that is away or refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from support.service.serving import running
from support.service.thin_versions import add_edit

from jeep_core.models.loading import LoadedModel
from service.api.operations import following as following_routes
from service.client import ApiError, Client
from service.client.synchronous import transport
from service.contracts.schemas import Problem
from service.contracts.schemas.access import Scope
from service.contracts.schemas.worker import StoreState
from service.settings import Settings, SettingsError
from service.store import CorruptTensor, NotFetched, Store, StoreReplaced, UnknownVersion
from service.store.fetched.replica import FetchedStore
from service.store.files import encode, replace
from service.store.store import FORMAT, StoreIdentity, check_identity
from service.worker.fetching import mirror
from service.worker.fetching.elsewhere import Elsewhere
from service.worker.versions.views import VersionViews

MakeSettings = Callable[..., Settings]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PAUSE_S", 0.02)
    monkeypatch.setattr(mirror, "WAIT_S", 0.2)
    monkeypatch.setattr(transport, "sleep", lambda seconds: None)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def elsewhere(following: MakeSettings, stack: ExitStack) -> Elsewhere:
    return Elsewhere(following(), stack)


@pytest.fixture
def copy(elsewhere: Elsewhere) -> FetchedStore:
    return opened(elsewhere)


def opened(elsewhere: Elsewhere) -> FetchedStore:
    found = elsewhere.opened()
    assert found is not None
    return found


def follow(elsewhere: Elsewhere, stack: ExitStack) -> None:
    """Keep head up to date from here on."""
    thread = threading.Thread(target=elsewhere.follow)
    thread.start()
    stack.callback(thread.join, 10)
    stack.callback(elsewhere.stop.set)


def until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("not within 10 s")


def head_of(store: Store) -> str:
    return store.head.read().version


class TestReading:
    def test_versions_have_the_weights_that_they_have_there(
        self, copy: FetchedStore, published: Store, base: LoadedModel
    ) -> None:
        assert (copy.id, head_of(copy)) == (published.id, "v1")
        assert copy.base.info() == published.base.info()
        copy.bind_model(base.model_hash)
        view = VersionViews(base, copy).get("v1")
        assert view.weights_sha256() == published.versions.read("v1").weights_sha256

    def test_lines_can_be_read_with_their_updates(
        self, copy: FetchedStore, published: Store, base: LoadedModel
    ) -> None:
        version = add_edit(base, published)
        line = copy.versions.lineage(version)
        assert [one.id for one in line] == ["v0", "v1", version]
        for ref in line[-1].artifacts:
            assert bytes(copy.tensors.map(ref)) == published.tensors.read(ref)

    def test_a_broken_download_goes_on_after_a_restart(
        self, copy: FetchedStore, published: Store, base: LoadedModel, elsewhere: Elsewhere,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        ref, _ = published.versions.read("v1").tensors
        path = copy.tensors.path(ref.sha256)
        plain, asked = transport.Transport._append, []

        def broken(self: object, url: str, part: Path, *rest: object) -> None:
            if part.name.startswith(ref.sha256):
                whole = published.tensors.read(ref)
                with part.open("ab") as out:
                    out.write(whole[:100])
                raise httpx.ReadError("killed")
            plain(self, url, part, *rest)  # type: ignore[arg-type]

        with monkeypatch.context() as patched:
            patched.setattr(transport.Transport, "_append", broken)
            with pytest.raises(httpx.ReadError):
                VersionViews(base, copy).get("v1")
        assert (path.exists(), path.with_name(f"{path.name}.part").exists()) == (False, True)

        def noted(
            self: object, url: str, part: Path, file: object, done: int, *rest: object
        ) -> None:
            asked.append((part.name, done))
            plain(self, url, part, file, done, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(transport.Transport, "_append", noted)
        VersionViews(base, opened(elsewhere)).get("v1")
        assert (f"{path.name}.part", 100) in asked
        assert not list(copy.root.rglob("*.part"))

    def test_a_version_that_is_not_there_is_unknown(self, copy: FetchedStore) -> None:
        with pytest.raises(UnknownVersion):
            copy.versions.read("v9")

    def test_what_is_damaged_there_is_named(
        self, copy: FetchedStore, published: Store, base: LoadedModel, elsewhere: Elsewhere
    ) -> None:
        ref, other = published.versions.read("v1").tensors
        path = published.tensors.path(ref.sha256)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        with pytest.raises(NotFetched, match=f"tensor {ref.name} of v1 .*damaged twice"):
            VersionViews(base, copy).get("v1")
        assert ref.name in str(elsewhere.described().trouble)
        path.write_bytes(b"short")
        with pytest.raises(CorruptTensor, match=f"tensor {ref.name} of v1: .*another size"):
            VersionViews(base, copy).get("v1")
        assert copy.tensors.path(other.sha256).exists()

    @pytest.mark.parametrize("known_to_the_api", [True, False])
    def test_one_that_is_moved_aside_while_it_is_fetched_says_so(
        self, served: Settings, following: MakeSettings, published: Store, base: LoadedModel,
        stack: ExitStack, known_to_the_api: bool,
    ) -> None:  # fmt: skip
        with running(served) as address:
            copy = opened(Elsewhere(following(store_url=address), stack))
            manifest = copy.versions.read("v1")
            if known_to_the_api:
                self.assert_gone(copy, published, base)
        if not known_to_the_api:
            with running(served, int(address.rpartition(":")[2])):
                self.assert_gone(copy, published, base)
        assert not any(copy.tensors.path(ref.sha256).exists() for ref in manifest.tensors)

    def assert_gone(self, copy: FetchedStore, published: Store, base: LoadedModel) -> None:
        """As a repair leaves it."""
        refs = published.versions.read("v1").tensors
        (published.root / "versions" / "v1").rename(published.root / "aside")
        for ref in refs:
            published.tensors.path(ref.sha256).unlink()
        with pytest.raises((UnknownVersion, CorruptTensor), match="v1"):
            VersionViews(base, copy).get("v1")


class TestHead:
    def test_is_followed(
        self, elsewhere: Elsewhere, copy: FetchedStore, published: Store, base: LoadedModel,
        stack: ExitStack,
    ) -> None:  # fmt: skip
        follow(elsewhere, stack)
        version = add_edit(base, published)
        until(lambda: head_of(copy) == version)
        (copy.root / "head.json").write_bytes(b"{")
        until(lambda: (copy.root / "head.json").read_bytes() != b"{")
        assert head_of(copy) == version

    def test_of_another_store_is_not(
        self, elsewhere: Elsewhere, copy: FetchedStore, published: Store, base: LoadedModel,
        stack: ExitStack,
    ) -> None:  # fmt: skip
        assert copy.id == published.id
        follow(elsewhere, stack)
        replace(published.root / "id.json", encode(StoreIdentity(id="another")))
        add_edit(base, published)
        until(lambda: b"another" in (copy.root / "id.json").read_bytes())
        with pytest.raises(StoreReplaced):
            check_identity(copy)
        assert head_of(copy) == "v1"


class TestAway:
    def test_what_is_here_is_answered_and_the_rest_is_not(
        self, served: Settings, published: Store, base: LoadedModel, following: MakeSettings,
        stack: ExitStack,
    ) -> None:  # fmt: skip
        with running(served) as address:
            elsewhere = Elsewhere(following(store_url=address), stack)
            copy = opened(elsewhere)
            VersionViews(base, copy).get("v1")
            later = add_edit(base, published)
        follow(elsewhere, stack)
        until(lambda: elsewhere.described().away_s is not None)
        assert VersionViews(base, opened(elsewhere)).get("v1")
        with pytest.raises(NotFetched, match=f"{later} is not on this follower's disk"):
            copy.versions.read(later)
        port = int(address.rpartition(":")[2])
        with running(served, port):
            until(lambda: elsewhere.described().away_s is None)
            assert VersionViews(base, copy).get(later)
            until(lambda: elsewhere.described().trouble is None)
            elsewhere.stop.set()

    def test_without_anything_here_it_is_waited_for(
        self, following: MakeSettings, stack: ExitStack, caplog: pytest.LogCaptureFixture
    ) -> None:
        nowhere = "http://127.0.0.1:9"
        elsewhere = Elsewhere(following(store_url=nowhere), stack)
        assert (elsewhere.opened(), elsewhere.opened()) == (None, None)
        assert caplog.text.count("waiting for its api to answer") == 1

    def test_an_api_that_is_too_busy_is_not_away(
        self, elsewhere: Elsewhere, copy: FetchedStore, stack: ExitStack,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        problem = Problem(
            title="", status=429, detail="slower", code="too_many_requests", request_id=""
        )

        def busy(*_: object) -> None:
            raise ApiError(problem)

        with monkeypatch.context() as patched:
            patched.setattr(Client, "store_change", busy)
            follow(elsewhere, stack)
            until(lambda: elsewhere.described().trouble is not None)
            assert "slower" in str(elsewhere.described().trouble)
            assert elsewhere.described().away_s is None
            assert copy.versions.read("v1")
        until(lambda: elsewhere.described().trouble is None)

    @pytest.mark.parametrize("name", ["../../outside", "/tmp/outside", "..", ""])
    def test_an_id_that_leads_out_of_the_folder_is_no_answer(
        self, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        given = StoreState.model_construct(id=name, format=FORMAT).model_dump_json().encode()
        monkeypatch.setattr(following_routes, "_described", lambda store: given)
        assert elsewhere.opened() is None
        assert elsewhere.described().away_s is not None


class TestKeys:
    @pytest.mark.parametrize(
        "key", [None, "jeep_unknown_key", Scope.READ, Scope.GENERATE, Scope.EDIT]
    )
    def test_another_one_is_refused(
        self, following: MakeSettings, published: Store, stack: ExitStack, key: str | None
    ) -> None:
        if isinstance(key, Scope):
            key = published.keys.create(key, [key])[1]
        elsewhere = Elsewhere(following(store_key=key), stack)
        with pytest.raises(SettingsError, match=r"JEEP_STORE_KEY: .*--scope follow") as refused:
            elsewhere.opened()
        assert key is None or key not in str(refused.value)

    def test_that_is_none_is_refused_at_once(
        self, following: MakeSettings, stack: ExitStack
    ) -> None:
        with pytest.raises(SettingsError, match="JEEP_STORE_KEY"):
            Elsewhere(following(store_key="two words"), stack)

    def test_one_that_is_revoked_ends_the_follower(
        self, following: MakeSettings, published: Store, stack: ExitStack
    ) -> None:
        reasons: list[str] = []
        elsewhere = Elsewhere(following(), stack, reasons.append)
        opened(elsewhere)
        published.keys.revoke("follower")
        elsewhere.follow()
        assert "invalid_key" in reasons[0]
