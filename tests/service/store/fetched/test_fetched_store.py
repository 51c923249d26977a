"""A copy of a store: what is not in it is brought, once, and makes way when it is not used."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from support.service.builders import add_version, move

from jeep_core.storage.looking import LOST_AND_FOUND
from service.contracts.schemas import Manifest, TensorRef
from service.store import (
    CorruptTensor,
    NotAStore,
    NotFetched,
    Store,
    StoreBusy,
    UnknownVersion,
    files,
)
from service.store.fetched import replica
from service.store.fetched.cache import Cache, followed_id
from service.store.fetched.replica import FetchedStore
from service.store.files import TEMPORARY, encode, locked, replace
from service.store.store import StoreIdentity
from service.store.tensors import Tensors

SIZE = 1000


class Other:
    """A `Source` that reads a store of this machine."""

    def __init__(self, store: Store) -> None:
        self.store, self.asked = store, list[str]()
        self.damage = self.full = 0

    def line(self, version: str, count: int) -> list[Manifest]:
        self.asked.append(f"{version}+{count}")
        found = []
        for manifest in self.store.versions.back(version):
            found.append(manifest)
            if len(found) == count:
                break
        return found

    def tensor(self, version: str, ref: TensorRef, path: Path, head: bytes) -> None:
        if self.full:
            self.full -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        self.asked.append(f"{version} {ref.name}")
        data = self.store.tensors.read(ref)
        if self.damage:
            self.damage -= 1
            data = b"?" * len(data)
        path.write_bytes(head + data)


@pytest.fixture
def other(based: Store) -> Other:
    return Other(based)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    (tmp_path / "own").mkdir()
    return Cache(tmp_path / "own", 10**9)


@pytest.fixture
def copy(other: Other, cache: Cache) -> FetchedStore:
    return opened(other, cache)


def opened(other: Other, cache: Cache) -> FetchedStore:
    store = other.store
    root = cache.enter(store.id)
    replace(root / "id.json", encode(StoreIdentity(id=store.id)))
    replace(root / "head.json", encode(store.head.read()))
    return FetchedStore(root, cache, other)


def add(store: Store, *letters: str, parent: str = "v0") -> str:
    """A version whose tensors are named by letters and hold nothing else."""
    refs = [store.tensors.put(one, "U8", [SIZE], one.encode() * SIZE) for one in letters]
    return add_version(store, parent=parent, tensors=refs)


def load(copy: FetchedStore, version: str) -> list[bytes]:
    """The tensors of a version, as a follower reads them."""
    manifest = copy.versions.read(version)
    assert copy.versions.missing(manifest) == []
    return [bytes(copy.tensors.map(ref)) for ref in manifest.tensors]


def names(copy: FetchedStore) -> set[str]:
    return {path.name[:64] for path in (copy.root / "tensors").rglob("*.safetensors")}


class TestReading:
    def test_brings_what_is_missing_once(self, other: Other, copy: FetchedStore) -> None:
        version = add(other.store, "a", "b")
        assert load(copy, version) == [b"a" * SIZE, b"b" * SIZE]
        assert sorted(other.asked) == sorted([f"{version}+1", f"{version} a", f"{version} b"])
        again = FetchedStore(copy.root, copy._cache, other)
        assert load(again, version) == load(copy, version)
        assert len(other.asked) == 3

    def test_brings_a_tensor_of_two_versions_once(self, other: Other, copy: FetchedStore) -> None:
        first, second = add(other.store, "a", "b"), add(other.store, "a", "c")
        load(copy, first)
        load(copy, second)
        assert len([one for one in other.asked if one.endswith(" a")]) == 1

    def test_brings_a_line_many_at_a_time(
        self, other: Other, copy: FetchedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replica, "LONGEST_LINE", 4)
        version = "v0"
        for _ in range(6):
            version = add_version(other.store, parent=version)
        assert [one.id for one in copy.versions.lineage(version)][:2] == ["v0", "v1"]
        assert other.asked == ["v6+1", "v5+4", "v1+4"]

    def test_brings_a_damaged_file_again(self, other: Other, copy: FetchedStore) -> None:
        version = add(other.store, "a")
        [ref] = copy.versions.read(version).tensors
        load(copy, version)
        path = copy.tensors.path(ref.sha256)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        (copy.root / "versions" / version / "manifest.json").write_bytes(b"{")
        assert load(FetchedStore(copy.root, copy._cache, other), version) == [b"a" * SIZE]
        assert other.asked.count(f"{version} a") == 2

    @pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
    def test_brings_what_its_disk_cannot_read_any_more_again(
        self, other: Other, copy: FetchedStore, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        version = add(other.store, "a")
        load(copy, version)
        left, whole = [OSError(number, os.strerror(number))], Tensors.map

        def hindered(tensors: Tensors, ref: TensorRef) -> memoryview:
            if left:
                raise left.pop()
            return whole(tensors, ref)

        monkeypatch.setattr(Tensors, "map", hindered)
        if number == errno.EMFILE:
            with pytest.raises(OSError, match="Too many open files"):
                load(copy, version)
        assert load(copy, version) == [b"a" * SIZE]
        assert other.asked.count(f"{version} a") == (2 if number == errno.EIO else 1)

    def test_reports_what_stays_damaged(self, other: Other, copy: FetchedStore) -> None:
        version = add(other.store, "a")
        other.damage = 9
        with pytest.raises(CorruptTensor, match="tensor a is damaged"):
            load(copy, version)

    def test_of_what_is_not_there_says_so(self, copy: FetchedStore) -> None:
        for version in ("v7", "../v0"):
            with pytest.raises(UnknownVersion):
                copy.versions.read(version)


class TestWhatIsGivenInstead:
    """An api that is not to be trusted, or the disk of one, names no file outside the copy."""

    @pytest.mark.parametrize(
        "change",
        [
            {"id": "../../v1"},
            {"id": "v2"},
            {"parent": "../v0"},
            {"parent": "v1"},
            {"parent": "v7"},
            {"tensors": [TensorRef(name="a", dtype="U8", shape=[1], sha256="ab/../../../x")]},
            {"artifacts": [TensorRef(name="a", dtype="U8", shape=[1], sha256="A" * 64)]},
            {"tensors": [TensorRef(name="a", dtype="U9", shape=[1], sha256="0" * 64)]},
            {"tensors": [TensorRef(name="a", dtype="U8", shape=[-1], sha256="0" * 64)]},
        ],
    )
    def test_is_no_version(
        self, other: Other, copy: FetchedStore, change: dict[str, object],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        version = add(other.store, "a")
        given = other.store.versions.read(version).model_copy(update=change)
        monkeypatch.setattr(other, "line", lambda version, count: [given])
        before = sorted(copy._cache.folder.rglob("*"))
        with pytest.raises(NotFetched, match="not its manifest"):
            copy.versions.read(version)
        assert sorted(copy._cache.folder.rglob("*")) == before

    def test_nor_a_line(
        self, other: Other, copy: FetchedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = add(other.store, "a")
        second = add(other.store, "b", parent=first)
        found = [other.store.versions.read(one) for one in (second, "v0")]
        for given in (found, []):
            monkeypatch.setattr(other, "line", lambda version, count, given=given: given)
            with pytest.raises(NotFetched):
                copy.versions.read(second)


class TestRoom:
    def limited(self, other: Other, cache: Cache, tensors: float) -> FetchedStore:
        """A copy with room for so many tensors beside head's manifest and the like."""
        copy = opened(other, cache)
        for version in list(other.store.versions.numbers()):
            copy.versions.read(f"v{version}")
        cache.limit = cache.trim((), 2**40) + int(tensors * (SIZE + 200))
        return copy

    def aged(self, copy: FetchedStore, version: str, seconds: int) -> None:
        for ref in copy.versions.read(version).tensors:
            moment = 1_000_000_000 - seconds
            os.utime(copy.tensors.path(ref.sha256), (moment, moment))

    def test_what_was_used_least_recently_goes(self, other: Other, cache: Cache) -> None:
        versions = [add(other.store, letter) for letter in "abc"]
        copy = self.limited(other, cache, 2.5)
        for age, version in ((10, versions[0]), (20, versions[1])):
            load(copy, version)
            self.aged(copy, version, age)
        load(copy, versions[2])
        assert names(copy) == {ref.sha256 for v in (versions[0], versions[2]) for ref in
                               copy.versions.read(v).tensors}  # fmt: skip
        assert copy.cached_bytes <= cache.limit

    def test_head_and_what_is_in_use_stay(
        self, other: Other, cache: Cache, caplog: pytest.LogCaptureFixture
    ) -> None:
        head, used, rest = (add(other.store, letter) for letter in "abc")
        move(other.store, head, expected="v0")
        copy = self.limited(other, cache, 0.5)
        copy.in_use = lambda: {used}
        for version in (head, used):
            load(copy, version)
            self.aged(copy, version, 10)
        load(copy, rest)
        copy.trim()
        held = {ref.sha256 for v in (head, used) for ref in copy.versions.read(v).tensors}
        assert names(copy) == held
        assert "JEEP_STORE_CACHE_MB" in caplog.text

    def test_on_a_full_disk_all_else_makes_way_once(self, other: Other, cache: Cache) -> None:
        first, second = add(other.store, "a"), add(other.store, "b")
        copy = opened(other, cache)
        load(copy, first)
        other.full = 1
        assert load(copy, second) == [b"b" * SIZE]
        assert names(copy) == {ref.sha256 for ref in copy.versions.read(second).tensors}
        other.full = 2
        with pytest.raises(NotFetched, match="No space left on device"):
            load(copy, first)

    def test_locks_and_what_is_being_written_stay(
        self, other: Other, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two threads fetch, and the disk is full for one of them."""
        first, second = add(other.store, "a"), add(other.store, "b")
        copy = opened(other, cache)
        load(copy, first)
        with locked(copy.root / "locks" / "claims"):
            held = {path: path.stat().st_ino for path in (copy.root / "locks").iterdir()}
            assert held
            write_new, wanted = files.write_new, copy.versions.file(second)

            def beside_a_full_disk(path: Path, *given: Any, **more: Any) -> None:
                write_new(path, *given, **more)
                if path.parent == wanted.parent:
                    copy.trim(0)

            monkeypatch.setattr(files, "write_new", beside_a_full_disk)
            assert copy.versions.read(second).id == second
            assert {path: path.stat().st_ino for path in (copy.root / "locks").iterdir()} == held
        assert names(copy) == set()

    def test_what_a_killed_follower_was_writing_goes_when_it_starts_again(
        self, other: Other, cache: Cache
    ) -> None:
        root = opened(other, cache).root
        left = root / "versions" / ".manifest.json.0123.tmp"
        left.write_bytes(b"{")
        cache.enter(other.store.id)
        assert not left.exists()

    def test_manifests_that_went_are_brought_again(self, other: Other, cache: Cache) -> None:
        version = add(other.store, "a")
        copy = opened(other, cache)
        load(copy, version)
        copy.trim(0)
        assert names(copy) == set()
        assert load(FetchedStore(copy.root, cache, other), version) == [b"a" * SIZE]


class TestFolder:
    def test_is_one_followers(self, cache: Cache) -> None:
        other = Cache(cache.folder, 1)
        refused = pytest.raises(StoreBusy, match="a JEEP_STORE of its own")
        with cache.owned(), refused, other.owned():
            pass
        with other.owned():
            pass

    def test_is_no_store(self, other: Other) -> None:
        with pytest.raises(NotAStore, match="is a store"), Cache(other.store.root, 1).owned():
            pass

    def test_holds_nothing_else(self, cache: Cache) -> None:
        (cache.folder / "letters.txt").write_text("mine")
        with pytest.raises(NotAStore, match=r"holds letters\.txt"), cache.owned():
            pass

    def test_is_not_taken_for_a_store(self, cache: Cache, copy: FetchedStore) -> None:
        with pytest.raises(NotAStore):
            Store.open(cache.folder)

    def test_keeps_nothing_of_a_store_that_was_replaced(self, cache: Cache) -> None:
        assert cache.known() is None
        first = cache.enter("one")
        assert (cache.known(), followed_id(cache.folder)) == (first, "one")
        (first / "versions" / "v1").mkdir()
        second = cache.enter("two")
        assert (cache.known(), first.exists()) == (second, False)

    def test_a_folder_of_the_file_system_may_be_shut(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (cache.folder / LOST_AND_FOUND).mkdir(parents=True)
        stat = Path.stat

        def denied(path: Path, **more: Any) -> os.stat_result:
            if path.parent.name == LOST_AND_FOUND:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return stat(path, **more)

        monkeypatch.setattr(Path, "stat", denied)
        assert cache.enter("one") == cache.known()

    def test_what_belongs_to_the_file_system_is_neither_counted_nor_removed(
        self, cache: Cache
    ) -> None:
        tensors = cache.enter("one") / "tensors"
        before = cache.trim((), limit=0)
        found = [folder / LOST_AND_FOUND / "#1" / f".a{TEMPORARY}"
                 for folder in (cache.folder, tensors)]  # fmt: skip
        for path in (*found, *(one.with_name("a.safetensors") for one in found)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"123")
        cache.enter("one")
        assert cache.trim((), limit=0) == before
        assert [len(list(one.parent.iterdir())) for one in found] == [2, 2]


def test_all_that_fetches_says_where_parts_lie() -> None:
    from service.client import files

    assert replica.PART == files.PART
