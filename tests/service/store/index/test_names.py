"""The folder of versions is listed once; what is written, moved or gone is found all the same."""

from __future__ import annotations

import os
import shutil
import time

import pytest
from support.service.builders import add_version

from service.store import Store
from service.store.index import names
from service.store.index.database import NoIndex
from service.store.maintenance.repair import repair
from service.store.versions import Counter, Versions, encode


@pytest.fixture
def listed(based: Store, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the folder was listed since the index was made of three versions."""
    for _ in range(3):
        add_version(based)
    settle(based)
    based.catalogue.up_to_date()
    looked: list[int] = []
    numbers = Versions.numbers

    def counted(self: Versions) -> set[int]:
        looked.append(1)
        return numbers(self)

    monkeypatch.setattr(Versions, "numbers", counted)
    return looked


def settle(store: Store, seconds: float = 9.0) -> None:
    past = time.time_ns() - int(seconds * 1e9)
    os.utime(store.root / "versions", ns=(past, past))


def known(store: Store) -> list[int]:
    return [row.number for row in store.catalogue.newest(None, 99)[0]]


def test_new_versions_are_found_without_a_listing(based: Store, listed: list[int]) -> None:
    for number in range(4, 9):
        add_version(based, "v2")
        assert known(based) == list(range(number, -1, -1))
        assert known(based) == list(range(number, -1, -1))
    assert listed == []


def test_a_version_is_found_that_is_written_after_later_ones(
    based: Store, listed: list[int]
) -> None:
    """Drafts get their numbers when they are made, and a name when all of them are ready."""
    draft = based.versions.new_id()
    add_version(based)
    assert known(based) == [5, 3, 2, 1, 0]
    based.versions.write(based.versions.read("v3").model_copy(update={"id": draft}))
    assert known(based) == [5, 4, 3, 2, 1, 0]
    assert listed == []


@pytest.mark.parametrize("also_new", [False, True])
def test_versions_that_were_set_aside_are_gone(
    based: Store, listed: list[int], also_new: bool
) -> None:
    (based.root / "versions" / "v3" / "manifest.json").write_bytes(b"{")
    if also_new:
        add_version(based)
    assert [one.version for one in repair(Store.open(based.root))] == ["v3"]
    assert known(based) == [*([4] if also_new else []), 2, 1, 0]


def test_a_folder_that_changed_in_another_way_is_listed(based: Store, listed: list[int]) -> None:
    shutil.rmtree(based.root / "versions" / "v3")
    settle(based, 5.0)
    assert known(based) == [2, 1, 0]
    shutil.copytree(based.root / "versions" / "v2", based.root / "versions" / "v800")
    settle(based, 4.0)
    with pytest.raises(NoIndex, match="v800"):  # its manifest says that it is v2
        known(based)
    assert len(listed) == 2


def test_it_is_listed_now_and_then_and_where_the_counter_is_lost(
    based: Store, listed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = based.root / "counter.json"
    for broken in (None, b"{", encode(Counter(next=10_000))):
        before = len(listed)
        counter.unlink() if broken is None else counter.write_bytes(broken)
        newest = max(known(based))
        based.versions.write(based.versions.read("v1").model_copy(update={"id": f"v{newest + 1}"}))
        assert max(known(based)) == newest + 1
        assert len(listed) > before
    monkeypatch.setattr(names, "LIST_EVERY_S", -1.0)
    counter.write_bytes(encode(Counter(next=max(known(based)) + 1)))
    before = len(listed)
    add_version(based)
    known(based)
    assert len(listed) > before


def test_what_could_not_be_added_is_added_later(
    based: Store, listed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_version(based)
    with monkeypatch.context() as broken:
        broken.setattr(Versions, "parsed", lambda self, version: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            based.catalogue.up_to_date()
    assert known(based) == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("gone", [False, True])
def test_a_listing_that_the_index_could_not_follow_is_done_again(
    based: Store, listed: list[int], gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower only reads the index, so that it must wait for another process to change it."""
    follower = Store.open(based.root, following=True)
    assert known(follower) == [3, 2, 1, 0]
    if gone:
        (based.root / "versions" / "v3" / "manifest.json").write_bytes(b"{")
        repair(Store.open(based.root))
    else:
        add_version(based)
        monkeypatch.setattr(names, "LIST_EVERY_S", -1.0)
    settle(based, 5.0)
    for _ in range(3):
        with pytest.raises(NoIndex):
            follower.catalogue.up_to_date()
        monkeypatch.setattr(names, "LIST_EVERY_S", 600.0)
    now = [2, 1, 0] if gone else [4, 3, 2, 1, 0]
    assert known(based) == now
    assert known(follower) == now


def test_versions_that_are_set_aside_one_by_one_are_gone_also_at_one_time_of_change(
    based: Store, listed: list[int]
) -> None:
    """Times of change come in steps: the second move may leave them as they are."""
    now = time.time_ns()
    for number in (3, 2):
        aside = based.root / "damaged"
        aside.mkdir(exist_ok=True)
        (based.root / "versions" / f"v{number}").rename(aside / f"v{number}")
        for folder in (based.root / "versions", aside):
            os.utime(folder, ns=(now, now))
        assert known(based) == list(range(number - 1, -1, -1))


def test_the_base_is_found_that_was_written_after_the_first_look(store: Store) -> None:
    store.catalogue.up_to_date()
    settle(store)
    store.catalogue.up_to_date()
    store.create_base("weights-0")
    add_version(store)
    assert known(store) == [1, 0]
