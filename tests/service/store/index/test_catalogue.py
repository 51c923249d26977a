"""Lists from the index are those that the records themselves give."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from support.service.builders import add_version, move
from support.service.trees import SUBJECTS, batch, grow, outcome

from service.contracts.schemas import FactEntry, Snapshot
from service.contracts.schemas.edits import FactRecord
from service.store import Store
from service.store.history import containing, facts_of
from service.store.index import facts as indexed
from service.store.index import listing
from service.store.index.checking import difference
from service.store.index.database import FORMAT, NoIndex
from service.store.index.facts import Place
from service.store.maintenance.retention import drop_tensors, retained_versions
from service.store.maintenance.verify import verify
from service.store.versions import Thin


@pytest.fixture(scope="module", params=range(2))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store.open(tmp_path_factory.mktemp("made") / "store")
    store.create_base("weights")
    rng = random.Random(request.param)
    for _ in range(3):
        grow(store, rng, 8)
        agrees(store)  # what was added since the last time is found, too
    store.catalogue.database.close()
    return store.root


@pytest.fixture
def grown(made: Path, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(made, tmp_path / "grown"))


def agrees(store: Store) -> None:
    told = store.checks.answers()
    for number in store.versions.numbers():
        tip = f"v{number}"
        line = store.versions.lineage(tip)
        live = [one for one in facts_of(line, answers=told) if one.state == "live"]
        assert list(listing.facts(store, tip)) == live
        assert listing.live_count(store, tip) == len(live)
        for subject in (*SUBJECTS, " Lyon ", "nobody"):
            found = list(listing.facts(store, tip, subject=subject))
            assert found == list(facts_of(line, subject=subject, answers=told))
        for text in ("in", "LYON", "strasse", "o\u0301bidos", "japan"):
            some = facts_of(line, containing(text), answers=told)
            wanted = [one for one in some if one.state == "live"]
            assert list(listing.facts(store, tip, containing=text)) == wanted
        for holds in (True, False):
            wanted = [one for one in live if one.holds is holds]
            assert list(listing.facts(store, tip, holds=holds)) == wanted
            some = facts_of(line, subject="Lyon", answers=told)
            wanted = [one for one in some if one.holds is holds]
            assert list(listing.facts(store, tip, subject="Lyon", holds=holds)) == wanted
        for batch_id in {one.edit_id for one in store.versions.all()} - {None}:
            inside = [one.id for one in line if one.edit_id == batch_id]
            assert listing.applied_in(store, str(batch_id), tip) == (inside[-1] if inside else None)


def test_two_versions_part_where_their_lines_do(
    grown: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"v{number}" for number in sorted(grown.versions.numbers())]
    lines = {one: [each.id for each in grown.versions.lineage(one)] for one in ids}
    used(monkeypatch)
    for a in ids:
        for b in ids:
            found = listing.fork(grown, a, b)
            own_a = [one for one in lines[a] if one not in lines[b]]
            own_b = [one for one in lines[b] if one not in lines[a]]
            shared = [one for one in lines[a] if one in lines[b]]
            assert found.ancestor == shared[-1]
            assert [one.id for one in found.own_a] == own_a
            assert [one.id for one in found.own_b] == own_b


def used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be read from the records instead."""

    def refused(*_: object) -> None:
        raise AssertionError("records were read one by one")

    monkeypatch.setattr("service.store.versions.Versions.lineage", refused)
    monkeypatch.setattr("service.store.versions.Versions.all", refused)
    monkeypatch.setattr("service.store.head.HeadPointer.reflog", refused)
    monkeypatch.setattr("service.store.head.HeadPointer.committed", refused)


def pages(store: Store, tip: str, size: int, **query: Any) -> list[FactEntry]:
    found: list[FactEntry] = []
    place = None
    while some := list(islice(listing.facts(store, tip, after=place, **query), size)):
        found += some
        place = Place(some[-1].version, some[-1].index)
    return found


def refused_index(*_: object, **__: object) -> None:
    raise NoIndex("not now")


@pytest.mark.parametrize(
    "query",
    [
        {}, {"subject": "Lyon"}, {"containing": "in"}, {"holds": True}, {"holds": False},
        {"holds": False, "containing": "in"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 3])
def test_pages_join_to_the_whole(
    grown: Store, size: int, query: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = grown.head.read().version
    whole = list(listing.facts(grown, tip, **query))
    assert pages(grown, tip, size, **query) == whole
    with monkeypatch.context() as without_index:
        without_index.setattr(indexed, "facts", refused_index)
        assert pages(grown, tip, size, **query) == whole
    monkeypatch.setattr("service.store.index.facts.BATCH", 2)
    used(monkeypatch)
    assert list(listing.facts(grown, tip, **query)) == whole


def test_a_list_of_missing_facts_reads_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "store")
    store.create_base("weights")
    for number in range(1, 4):
        add_facts(store, f"v{number - 1}", 40, missing={"v1": [7]} if number == 3 else {})
    looked: list[int] = []
    later = indexed._later
    monkeypatch.setattr(
        indexed, "_later", lambda *given: looked.append(given[2].position) or later(*given)
    )
    used(monkeypatch)
    [found] = listing.facts(store, "v3", holds=False)
    assert (found.version, found.index, found.holds, found.checked_in) == ("v1", 7, False, "v3")
    assert looked == [7]
    assert [one.checked_in for one in listing.facts(store, "v2", holds=False)] == []
    held = list(listing.facts(store, "v3", holds=True))
    assert len(held) == 119, "all others, by the answer after their own edit"


def add_facts(store: Store, parent: str, count: int, missing: dict[str, list[int]]) -> None:
    """A batch on a version, all of which took, that has lost some earlier facts."""
    facts = [
        FactRecord(subject=f"City {i} of {parent}", prompt="{} is in", target_new="Peru")
        for i in range(count)
    ]
    result = {
        "edit_id": f"edit_{parent}", "version": "", "parent": parent, "efficacy": 1.0,
        "greedy_success": 1.0, "layers": [], "seconds": {},
        "facts": [outcome(i, one, True) for i, one in enumerate(facts)],
        "earlier": {"live": 1, "checked": 1, "seed": 0, "missing": missing},
    }  # fmt: skip
    add_version(store, parent, edit_id=f"edit_{parent}", facts=facts, result=result)


def test_the_list_of_versions_is_that_of_the_manifests(
    grown: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = listing._from_manifests(grown, None, 1000)
    states = {one.state for one in whole}
    assert {"head", "committed"} <= states
    some = listing._from_manifests(grown, 9, 4)
    ones = [listing.snapshot(grown, one.id) for one in whole]
    used(monkeypatch)
    assert listing.snapshots(grown, None, 1000) == whole == ones
    assert listing.snapshots(grown, 9, 4) == some


def test_a_version_is_found_by_its_job(grown: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    used(monkeypatch)
    found = listing.of_job(grown, "job_5")
    assert found is not None
    assert found.edit_id == "edit_5"
    assert listing.of_job(grown, "job_x") is None


def test_another_process_goes_on_with_the_same_file(grown: Store) -> None:
    other = Store.open(grown.root)
    agrees(other)
    grow(other, random.Random(9), 4)
    agrees(grown)


@pytest.mark.parametrize("content", [b"", b"no database at all" * 99], ids=["empty", "damaged"])
def test_a_damaged_index_is_made_again(grown: Store, content: bytes) -> None:
    grown.catalogue.database.close()
    for path in (grown.root / "index").iterdir():
        path.write_bytes(content)
    fresh = Store.open(grown.root)
    with pytest.MonkeyPatch.context() as patch:
        agrees(fresh)
        agrees(fresh)
        used(patch)
        assert listing.snapshots(fresh, None, 5)


def test_an_index_that_is_damaged_while_it_is_open_is_made_again(grown: Store) -> None:
    grown.catalogue.database.close()
    path = grown.root / "index" / "catalogue.sqlite"
    data = bytearray(path.read_bytes())
    data[200:] = bytes(len(data) - 200)
    path.write_bytes(data)
    agrees(grown)
    agrees(grown)
    assert grown.catalogue.spans("v1") is not None


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("fact", "entry", "replace(entry, 'Japan', 'Jaqan')"),
        ("fact", "place", "place + 1"),
        ("version", "shown", "replace(shown, 'jeep', 'jeeq')"),
        ("version", "staged", "1 - staged"),
    ],
)
def test_a_flipped_bit_in_a_row_is_noticed(
    grown: Store, table: str, column: str, value: str
) -> None:
    with grown.catalogue.database.writing() as connection:
        connection.execute(f"UPDATE {table} SET {column} = {value}")
    agrees(grown)
    whole = listing._from_manifests(grown, None, 1000)
    assert listing.snapshots(grown, None, 1000) == whole
    assert difference(grown) is None


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE version SET depth = depth + 1 WHERE number = 3",
        "UPDATE version SET line = 77 WHERE number = 3",
        "UPDATE version SET edit_id = 'edit_x' WHERE number = 3",
        "DELETE FROM fact WHERE number = 3",
        "UPDATE fact SET until = 99 WHERE number = 3",
        "UPDATE asked SET holds = 1 - holds",
        "DELETE FROM missed WHERE number IN (SELECT min(number) FROM missed)",
        "UPDATE missed SET number = 0 WHERE number IN (SELECT min(number) FROM missed)",
        "UPDATE line SET fork = fork + 1 WHERE id > 0",
    ],
)
def test_verify_compares_it_with_the_records(grown: Store, change: str) -> None:
    assert verify(grown).findings == []
    with grown.catalogue.database.writing() as connection:
        connection.execute(change)
    [found] = verify(grown).findings
    assert found.path == "index"
    assert "made again" in found.advice


def test_an_index_that_is_removed_is_made_again(grown: Store) -> None:
    for path in (grown.root / "index").iterdir():
        path.unlink()
    agrees(grown)
    assert any((grown.root / "index").iterdir())


def test_an_index_of_another_format_is_made_again(
    grown: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.index.database.FORMAT", 99)
    fresh = Store.open(grown.root)
    with pytest.raises(NoIndex, match=f"format {FORMAT}"):
        fresh.catalogue.up_to_date()
    agrees(fresh)


def test_records_are_read_while_another_process_writes_the_index(
    grown: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.index.database.BUSY_S", 0.01)
    other = Store.open(grown.root)
    with grown.catalogue.database.writing():
        add_version(grown, "v1", facts=batch(random.Random(0)))
        agrees(other)
    agrees(other)


def test_a_folder_that_cannot_be_written_costs_time_only(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create_base("weights")
    (store.root / "index").rmdir() if not any((store.root / "index").iterdir()) else None
    monkeypatch.setattr(Path, "mkdir", _refuse)
    assert [one.id for one in listing.snapshots(store, None, 5)] == ["v0"]


def _refuse(*_: object, **__: object) -> None:
    raise OSError(30, "Read-only file system")


def test_versions_that_were_moved_aside_are_gone(grown: Store) -> None:
    leaf = max(grown.versions.numbers())
    (grown.root / "damaged").mkdir(exist_ok=True)
    (grown.root / "versions" / f"v{leaf}").rename(grown.root / "damaged" / f"v{leaf}")
    fresh = Store.open(grown.root)
    assert [one.id for one in listing.snapshots(fresh, None, 1)] == [f"v{leaf - 1}"]
    agrees(fresh)


def test_a_damaged_version_is_shown_as_such(grown: Store) -> None:
    agrees(grown)
    path = grown.root / "versions" / "v3" / "manifest.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    fresh = Store.open(grown.root)
    shown = {one.id: one for one in listing.snapshots(fresh, None, 1000)}
    assert shown["v3"].state == "damaged"
    assert shown["v3"].damage is not None
    assert "v3" in shown["v3"].damage
    assert sorted(shown) == sorted(f"v{number}" for number in fresh.versions.numbers())
    path.write_bytes(whole)
    assert {one.state for one in listing.snapshots(fresh, None, 1000)} <= {
        "head", "committed", "staged", "unused"
    }  # fmt: skip


def test_an_index_that_vanishes_while_it_is_used_is_made_again(grown: Store) -> None:
    agrees(grown)
    for path in (grown.root / "index").glob("catalogue*"):
        path.unlink()
    agrees(grown)


@pytest.mark.parametrize("seen", [False, True], ids=["made after the damage", "made before it"])
def test_versions_that_are_built_on_a_damaged_one_are_listed(grown: Store, seen: bool) -> None:
    whole = {one.id: one for one in listing._from_manifests(grown, None, 1000)}
    if not seen:
        remove(grown)
    damaged = next(one.parent for one in whole.values() if one.parent not in (None, "v0"))
    path = grown.root / "versions" / str(damaged) / "manifest.json"
    path.write_bytes(path.read_bytes()[:40])
    fresh = Store.open(grown.root)
    built_on_it = [one for one in whole if damaged in line_of(whole, one)[1:]]
    assert built_on_it
    for _ in range(2):
        shown = {one.id: one.state for one in listing.snapshots(fresh, None, 1000)}
        assert shown.keys() == whole.keys()
        assert shown[str(damaged)] == "damaged"
        assert all(shown[one] != "damaged" for one in built_on_it)
        assert listing.snapshot(fresh, built_on_it[-1]).id == built_on_it[-1]


def line_of(whole: Mapping[str, Snapshot], version: str) -> list[str]:
    found = [version]
    while (parent := whole[found[-1]].parent) is not None:
        found.append(parent)
    return found


def test_a_damaged_version_does_not_make_others_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are built on it are, as they are not in an index that was made after it."""
    store = Store.open(tmp_path / "store")
    store.create_base("weights")
    shared, own = (store.tensors.put("matrix", "U8", [3], data) for data in (b"abc", b"xyz"))
    for number in range(6):
        fields = {"tensors": [shared], "staged": number in (1, 3)}
        add_version(store, f"v{number}", job_id=f"job_{number}", **fields)
    move(store, "v2", expected="v0")
    add_version(store, "v3", job_id="job_a", tensors=[own])
    (store.root / "versions" / "v5" / "manifest.json").write_text("{}")
    remove(store)
    fresh = Store.open(store.root)
    used(monkeypatch)
    found = [listing.of_job(fresh, f"job_{job}") for job in (3, 4, 5, "a")]
    assert [one and one.id for one in found] == ["v4", None, "v6", "v7"]
    kept = retained_versions(fresh, 3)
    assert [one for one, why in kept.items() if why == "among the newest"] == ["v7", "v6"]
    assert (kept["v2"], kept["v4"]) == ("head", "staged")
    assert drop_tensors(fresh, fresh.versions.read("v4"), Thin(), newest=2) == 0
    assert drop_tensors(fresh, fresh.versions.read("v7"), Thin(), newest=0) == len(b"xyz")


def test_an_index_that_another_process_has_made_again_is_gone_on_with(grown: Store) -> None:
    agrees(grown)
    before = grown.catalogue.database.generation
    remove(grown)
    other = Store.open(grown.root)
    agrees(other)
    with other.catalogue.database.writing() as connection:
        connection.execute("INSERT INTO note VALUES ('seen', 'by both')")
    agrees(grown)
    with grown.catalogue.database.reading() as connection:
        assert connection.execute("SELECT value FROM note WHERE name = 'seen'").fetchone()
    assert grown.catalogue.database.generation > before


def test_threads_may_ask_at_once_while_versions_are_added(grown: Store) -> None:
    head = grown.head.read().version

    def ask(number: int) -> int:
        if number % 4 == 0:
            add_version(grown, head, facts=batch(random.Random(number)))
        return len(list(listing.facts(grown, head)))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(80)))) == 1


def remove(store: Store) -> None:
    for path in (store.root / "index").glob("catalogue*"):
        path.unlink()
