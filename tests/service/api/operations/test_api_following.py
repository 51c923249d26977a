"""``/store``: what followers without the store's disk are given."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import httpx
import pytest
from support.service.builders import add_version, move

from service.api.http.problems import problem_for
from service.api.operations import following
from service.client import ApiError, Client
from service.contracts.schemas import TensorRef
from service.store import Store, StoreReplaced
from service.store.files import encode, replace
from service.store.store import StoreIdentity
from service.store.versions import Thin

WEIGHTS = bytes(range(256)) * 20
UNKNOWN = "0" * 64


def put(store: Store, name: str, data: bytes = WEIGHTS) -> TensorRef:
    return store.tensors.put(name, "U8", [len(data)], data)


@pytest.fixture
def made(model: Store) -> tuple[str, TensorRef]:
    """A version with a tensor and an artifact."""
    ref, factor = put(model, "w"), put(model, "u.w", WEIGHTS[:64])
    return add_version(model, tensors=[ref], artifacts=[factor]), ref


def address(version: str, ref: TensorRef) -> str:
    return f"/store/versions/{version}/tensors/{ref.sha256}"


class TestState:
    def test_is_the_store_as_it_is(self, client: Client, model: Store) -> None:
        state = client.store_state()
        assert (state.id, state.format) == (model.id, 1)
        assert state.head == model.head.read()
        assert state.info == model.base.info()

    def test_of_a_store_without_a_model_has_neither(self, client: Client, store: Store) -> None:
        state = client.store_state()
        assert (state.id, state.info, state.head) == (store.id, None, None)

    def test_has_a_tag_that_changes_with_head(
        self, client: Client, model: Store, made: tuple[str, TensorRef]
    ) -> None:
        first = client.store_change("", 0)
        assert first is not None
        assert client.store_change(first[1], 0) is None
        move(model, made[0], expected="v0")
        second = client.store_change(first[1], 0)
        assert second is not None
        assert second[0].head is not None
        assert (second[0].head.version, second[1] != first[1]) == (made[0], True)

    def test_is_waited_for(self, client: Client, model: Store, made: tuple[str, TensorRef]) -> None:
        first, heads = client.store_change("", 0), []
        assert first is not None

        def wait() -> None:
            found = client.store_change(first[1], 4)
            heads.append(found[0].head.version if found and found[0].head else None)

        waiting = threading.Thread(target=wait)
        waiting.start()
        move(model, made[0], expected="v0")
        waiting.join(15)
        assert heads == [made[0]]

    def test_names_the_store_that_was_put_into_the_folder_meanwhile(
        self, client: Client, model: Store
    ) -> None:
        assert client.store_state().id == model.id
        replace(model.root / "id.json", encode(StoreIdentity(id="another")))
        assert client.store_state().id == "another"

    def test_nothing_is_told_of_the_store_that_was_there_before(
        self, client: Client, http: httpx.Client, model: Store, made: tuple[str, TensorRef]
    ) -> None:
        assert client.version_line(made[0])  # which is kept in memory
        here = model.root / "id.json"
        there = here.read_bytes()
        paths = [f"/store/versions/{made[0]}", "/head", "/livez", "/readyz"]

        def assert_refused(*paths: str) -> None:
            for path in paths:
                answer = http.get(path)
                assert (answer.status_code, answer.json()["code"]) == (503, "store_replaced")
                assert "Retry-After" in answer.headers

        replace(here, encode(StoreIdentity(id="another")))
        assert_refused(*paths)
        whole = model.root / "format.json"
        whole.rename(model.root / "aside")  # being restored: there may be no keys yet
        assert_refused(*paths, "/store")
        here.unlink()
        assert_refused(*paths, "/store")
        (model.root / "aside").rename(whole)
        replace(here, there)
        assert client.version_line(made[0])
        here.write_bytes(b"{")  # damaged: the next start says so
        assert client.version_line(made[0])

    def test_one_that_goes_while_it_is_waited_for_is_no_fault_of_the_api(
        self, model: Store
    ) -> None:
        assert following._described(model)
        model.root.rename(model.root.with_name("moved"))
        with pytest.raises(StoreReplaced) as told:
            following._described(model)
        assert problem_for(told.value).status == 503


class TestVersions:
    def test_are_given_as_they_are_stored(
        self, client: Client, model: Store, made: tuple[str, TensorRef]
    ) -> None:
        assert client.version_line(made[0]) == [model.versions.read(made[0])]

    def test_are_given_with_those_below(self, client: Client, model: Store) -> None:
        first = add_version(model)
        second = add_version(model, parent=first)
        given = [one.id for one in client.version_line(second, 64)]
        assert given == [second, first, "v0"]
        assert [one.id for one in client.version_line(second, 2)] == [second, first]

    def test_below_a_damaged_one_are_not(
        self, http: httpx.Client, client: Client, model: Store
    ) -> None:
        first = add_version(model)
        second = add_version(model, parent=first)
        (model.root / "versions" / first / "manifest.json").write_bytes(b"{")
        assert [one.id for one in client.version_line(second, 64)] == [second]
        assert http.get(f"/store/versions/{first}").json()["code"] == "corrupt_file"

    def test_that_are_not_there_are_unknown(self, client: Client, model: Store) -> None:
        with pytest.raises(ApiError) as refused:
            client.version_line("v7")
        assert refused.value.code == "unknown_version"


class TestTensors:
    def test_are_given_whole_and_in_parts(
        self, http: httpx.Client, made: tuple[str, TensorRef]
    ) -> None:
        url = address(*made)
        whole = http.get(url)
        assert (whole.status_code, whole.content) == (200, WEIGHTS)
        assert whole.headers["etag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
        for asked, first, end in (("7-9", 7, 10), ("100-", 100, 5120), ("-5", 5115, 5120)):
            part = http.get(url, headers={"Range": f"bytes={asked}"})
            assert (part.status_code, part.content) == (206, WEIGHTS[first:end])
            assert part.headers["content-range"] == f"bytes {first}-{end - 1}/5120"
        other = http.get(url, headers={"Range": "bytes=7-9", "If-Range": '"x"'})
        assert (other.status_code, other.content) == (200, WEIGHTS)
        assert http.get(url, headers={"Range": "bytes=5120-"}).status_code == 416
        assert http.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304

    def test_of_an_edit_are_given_as_well(
        self, http: httpx.Client, model: Store, made: tuple[str, TensorRef]
    ) -> None:
        [factor] = model.versions.read(made[0]).artifacts
        assert http.get(address(made[0], factor)).content == WEIGHTS[:64]

    def test_of_another_version_are_not(
        self, http: httpx.Client, model: Store, made: tuple[str, TensorRef]
    ) -> None:
        other = put(model, "x", b"another")
        assert http.get(address(made[0], other)).json()["code"] == "unknown_file"
        assert http.get(f"/store/versions/{made[0]}/tensors/id.json").status_code == 422

    def test_of_another_size_are_damaged(
        self, http: httpx.Client, model: Store, made: tuple[str, TensorRef]
    ) -> None:
        path = model.tensors.path(made[1].sha256)
        path.write_bytes(path.read_bytes()[:-1])
        assert http.get(address(*made)).json()["code"] == "corrupt_version"

    def test_that_were_dropped_need_the_writer(
        self, http: httpx.Client, model: Store, made: tuple[str, TensorRef]
    ) -> None:
        model.versions.mark_thin(made[0], Thin())
        model.tensors.path(made[1].sha256).unlink()
        answer = http.get(address(*made))
        assert (answer.status_code, answer.json()["code"]) == (503, "no_worker")


class TestDownload:
    """By the client: the bytes have their hash in the end, whatever was there before."""

    def fetch(self, client: Client, made: tuple[str, TensorRef], path: Path) -> bytes:
        version, ref = made
        return client.download_tensor(version, ref.sha256, 5120, path, b"head").read_bytes()

    def test_is_whole(self, client: Client, made: tuple[str, TensorRef], tmp_path: Path) -> None:
        assert self.fetch(client, made, tmp_path / "t") == b"head" + WEIGHTS
        assert [one.name for one in tmp_path.iterdir() if one.name.startswith("t")] == ["t"]

    @pytest.mark.parametrize(
        ("part", "kept"),
        [(b"head" + WEIGHTS[:900], 900), (b"head", 0), (b"hea", 0), (b"head" + WEIGHTS, 5120)],
    )
    def test_goes_on_after_what_is_there(
        self, client: Client, made: tuple[str, TensorRef], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, part: bytes, kept: int,
    ) -> None:  # fmt: skip
        (tmp_path / "t.part").write_bytes(part)
        plain, asked = client._http.stream, []

        def noted(*given: object, **more: object) -> object:
            asked.append(dict(more["headers"]).get("Range"))  # type: ignore[call-overload]
            return plain(*given, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(client._http, "stream", noted)
        assert self.fetch(client, made, tmp_path / "t") == b"head" + WEIGHTS
        wanted = {0: [None], 900: ["bytes=900-"], 5120: []}
        assert asked == wanted[kept]

    def test_begins_again_after_a_damaged_part(
        self, client: Client, made: tuple[str, TensorRef], tmp_path: Path
    ) -> None:
        (tmp_path / "t.part").write_bytes(b"head" + b"x" * 900)
        assert self.fetch(client, made, tmp_path / "t") == b"head" + WEIGHTS
