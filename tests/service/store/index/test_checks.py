"""The findings of checks of facts are shown of the version that was asked, whoever reads them."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.service.builders import add_version
from support.service.trees import add_check, batch, grow, outcome

from service.contracts.jobs import JobStatus, new_id
from service.contracts.schemas import FactEntry
from service.contracts.schemas.edits import FactRecord
from service.contracts.schemas.effects.checks import ANSWERS_FILE
from service.store import Store
from service.store.history import Asked
from service.store.index import checks, listing
from service.store.index import facts as indexed
from service.store.index.checking import difference
from service.store.index.database import NoIndex
from service.store.maintenance.backup import back_up, restore
from service.store.maintenance.verify import verify


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """v1 taught three facts, of which the last did not take; v2 and v3 are built on it."""
    found = Store.open(tmp_path / "store")
    found.create_base("weights")
    add_facts(found, "v0", 3)
    add_facts(found, "v1", 1, held={"v1": [0]}, missing={"v1": [1]})
    add_facts(found, "v1", 1)
    return found


def add_facts(
    store: Store,
    parent: str,
    count: int,
    held: dict[str, list[int]] | None = None,
    missing: dict[str, list[int]] | None = None,
) -> None:
    facts = [
        FactRecord(subject=f"City {i} of {parent}", prompt="{} is in", target_new="Peru")
        for i in range(count)
    ]
    earlier = {"live": 3, "checked": 3, "seed": 0, "held": held or {}, "missing": missing or {}}
    result = {
        "edit_id": f"edit_{parent}", "version": "", "parent": parent, "efficacy": 1.0,
        "greedy_success": 1.0, "layers": [], "seconds": {}, "earlier": earlier,
        "facts": [outcome(i, one, i != 2) for i, one in enumerate(facts)],
    }  # fmt: skip
    add_version(store, parent, edit_id=f"edit_{parent}", facts=facts, result=result)


Shown = dict[tuple[str, int], tuple[bool | None, str | None, bool]]


def shown(store: Store, tip: str) -> Shown:
    """Whether facts hold, as which version was asked, and whether by a check."""
    return {
        (one.version, one.index): (one.holds, one.checked_in, one.check_id is not None)
        for one in listing.facts(store, tip)
    }


def missing(store: Store, tip: str) -> list[tuple[str, int]]:
    return [(one.version, one.index) for one in listing.facts(store, tip, holds=False)]


def refused(*_: object, **__: object) -> None:
    raise NoIndex("not now")


@pytest.fixture(params=["index", "files"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lists are made of the index, or without it."""
    if request.param == "files":
        monkeypatch.setattr(indexed, "facts", refused)
        monkeypatch.setattr(indexed, "checks", refused)
    return str(request.param)


def test_a_check_counts_for_the_version_that_was_asked(store: Store, way: str) -> None:
    before = {tip: shown(store, tip) for tip in ("v1", "v2", "v3")}
    assert before["v2"]["v1", 1] == (False, "v2", False)
    add_check(store, "v2", {"v1": [1, 2]}, {"v1": [0]})
    assert shown(store, "v2") == {
        ("v1", 0): (False, "v2", True), ("v1", 1): (True, "v2", True),
        ("v1", 2): (True, "v2", True), ("v2", 0): (True, "v2", False),
    }  # fmt: skip
    assert missing(store, "v2") == [("v1", 0)]
    assert missing(store, "v1") == [("v1", 2)]
    assert {tip: shown(store, tip) for tip in ("v1", "v3")} == {
        tip: before[tip] for tip in ("v1", "v3")
    }, "neither the version below it nor the one beside it was asked"


def test_a_version_on_top_says_which_one_was_asked(store: Store, way: str) -> None:
    add_check(store, "v1", {"v1": [2]}, {"v1": [0, 1]})
    assert shown(store, "v1") == {("v1", i): (i == 2, "v1", True) for i in range(3)}
    # what v2 itself was asked is later
    assert shown(store, "v2")["v1", 0] == (True, "v2", False)
    assert shown(store, "v2")["v1", 2] == (True, "v1", True)
    assert shown(store, "v3")["v1", 1] == (False, "v1", True)


def test_the_newest_check_of_a_version_counts_whichever_ends_first(store: Store, way: str) -> None:
    first, second = new_id("job"), new_id("job")
    add_check(store, "v1", {}, {"v1": [0]}, second)
    assert shown(store, "v1")["v1", 0] == (False, "v1", True)
    add_check(store, "v1", {"v1": [0, 1]}, {}, first)
    assert shown(store, "v1")["v1", 0][0] is False
    [entry] = listing.facts(store, "v1", containing="City 1 of")
    assert entry.check_id == first.replace("job_", "check_")
    assert difference(store) is None


def test_a_fact_that_holds_again_when_it_is_asked_again_is_no_damage(store: Store) -> None:
    add_check(store, "v1", {}, {"v1": [0]})
    shown(store, "v1")
    add_check(store, "v1", {"v1": [0]}, {})
    assert shown(store, "v1")["v1", 0] == (True, "v1", True)
    assert verify(store).findings == []


def test_every_check_of_a_fact_is_in_its_history(store: Store, way: str) -> None:
    job = add_check(store, "v2", {"v1": [1]}, {})
    check_id = job.id.replace("job_", "check_")
    fact = next(one for one in listing.facts(store, "v2") if (one.version, one.index) == ("v1", 1))
    assert listing.checks(store, "v2", fact) == [Asked("v1", True), Asked("v2", True, check_id)]
    assert listing.checks(store, "v3", fact) == [Asked("v1", True)]


def rows_of(store: Store) -> list[tuple[int, ...]]:
    with store.catalogue.database.reading() as connection:
        found = connection.execute("SELECT * FROM asked WHERE job != ''").fetchall()
    return sorted(found)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """So many answers of checks to a fact stay in the index, and are in its history."""
    for module in ("history", "index.rows", "index.facts", "index.checking"):
        monkeypatch.setattr(f"service.store.{module}.LAST_ASKED", 2)
    return 2


def of_every_version(store: Store, tips: Sequence[str]) -> list[object]:
    """All that lists say of facts of some versions, and their histories."""
    every = [(tip, one) for tip in tips for one in listing.facts(store, tip)]
    lost = [list(listing.facts(store, tip, holds=holds)) for tip in tips for holds in (True, False)]
    return [*every, *lost, *(listing.checks(store, tip, one) for tip, one in every)]


def test_the_index_does_not_grow_with_every_version_that_is_checked(
    store: Store, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leaves out is read from the reports, and says the same as without an index."""
    tips, other = ["v1"], ["v2"]
    for number in range(1, 7):
        for line in (tips, other):  # two lines, whose versions are asked in turn
            if number > 1:
                add_facts(store, line[-1], 1)
                line.append(f"v{max(store.versions.numbers())}")
            held, lost = ([0, 1], [2]) if number % 2 else ([2], [0, 1])
            add_check(store, line[-1], {"v1": held}, {"v1": lost})
            list(listing.facts(store, line[-1]))  # they are added one by one
    rows = rows_of(store)
    assert len(rows) == 3 * few, "the answers of the newest versions, whatever their line"
    assert difference(store) is None
    versions = [*tips, *other]
    found = of_every_version(store, versions)
    again = Store.open(store.root)
    again.catalogue.forget()
    again.checks.catch_up()
    assert rows_of(again) == rows
    monkeypatch.setattr(indexed, "facts", refused)
    monkeypatch.setattr(indexed, "checks", refused)
    assert of_every_version(store, versions) == found
    assert len(listing.checks(store, tips[-1], next(listing.facts(store, "v1")))) == 1 + few


def test_an_answer_of_an_old_version_that_is_asked_again_is_in_its_report_alone(
    store: Store, few: int, way: str
) -> None:
    for version in ("v1", "v2", "v3"):
        add_check(store, version, {"v1": [0]}, {})
    assert shown(store, "v1")["v1", 0] == (True, "v1", True)
    again = add_check(store, "v1", {}, {"v1": [0]})
    [entry] = listing.facts(store, "v1", containing="City 0 of")
    assert (entry.holds, entry.check_id) == (False, again.id.replace("job_", "check_"))
    assert missing(store, "v1") == [("v1", 0), ("v1", 2)]
    if way == "index":
        assert [row[2] for row in rows_of(store)] == [2, 3]
        assert difference(store) is None


def test_what_an_edit_was_told_is_shown_where_the_check_after_it_cannot_be_read(
    store: Store, few: int, way: str
) -> None:
    before = shown(store, "v2")
    job = add_check(store, "v2", {"v1": [1]}, {"v1": [0]})
    for _ in range(few):
        add_facts(store, "v1", 1)
        add_check(store, f"v{max(store.versions.numbers())}", {"v1": [0, 1]}, {})
    assert shown(store, "v2")["v1", 0] == (False, "v2", True)
    assert difference(store) is None
    path = store.root / "reports" / job.id / ANSWERS_FILE
    path.write_bytes(path.read_bytes().replace(b"0", b"1"))
    assert shown(store, "v2") == before
    [entry] = listing.facts(store, "v2", containing="City 0 of v0")
    assert listing.checks(store, "v2", entry) == [Asked("v1", True), Asked("v2", True)]


def test_reports_of_old_versions_are_read_once_for_a_list_and_only_as_far_as_it_needs(
    store: Store, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = {one: add_check(store, one, {"v1": [0, 1]}, {}).id for one in ("v1", "v2", "v3")}
    add_check(store, "v2", {"v1": [0, 1]}, {})
    shown(store, "v3")
    read, path = list[str](), store.reports.path

    def noted(job_id: str, name: str) -> Path:
        read.append(job_id)
        return path(job_id, name)

    monkeypatch.setattr(store.reports, "path", noted)
    shown(store, "v3")
    shown(store, "v2")
    assert read == [], "what is newest is in the index"
    shown(store, "v1")
    assert read == [jobs["v1"]]


def test_only_a_check_that_has_succeeded_counts(store: Store, way: str) -> None:
    before = shown(store, "v1")
    job = add_check(store, "v1", {}, {"v1": [0]})
    failed = {"status": JobStatus.FAILED, "result": None}
    for update in ({"status": JobStatus.RUNNING, "result": None}, failed):
        store.journal.save(job.model_copy(update=update))
        assert shown(store, "v1") == before
    assert difference(store) is None


def test_another_process_sees_it_once_it_has_ended(store: Store) -> None:
    other = Store.open(store.root)
    before = shown(other, "v1")
    job = add_check(store, "v1", {}, {"v1": [0]})
    ended = store.journal.read(job.id)
    store.journal.save(ended.model_copy(update={"status": JobStatus.RUNNING}))
    assert shown(other, "v1") == before
    store.journal.save(ended)
    assert shown(other, "v1")["v1", 0] == (False, "v1", True)


def test_a_restored_store_has_the_answers(store: Store, tmp_path: Path) -> None:
    add_check(store, "v2", {"v1": [1]}, {"v1": [0]})
    expected = shown(store, "v2")
    back_up(store, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "copy")
    copy = Store.open(tmp_path / "copy")
    assert not list((copy.root / "index").glob("catalogue*"))
    assert shown(copy, "v2") == expected
    assert verify(copy).findings == []


def test_without_an_index_reports_are_read_when_their_version_is_asked_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {one: add_check(store, one, {}, {"v1": [0]}).id for one in ("v1", "v2", "v3")}
    read, path = list[str](), store.reports.path

    def noted(job_id: str, name: str) -> Path:
        read.append(job_id)
        return path(job_id, name)

    monkeypatch.setattr(store.reports, "path", noted)
    told = store.checks.answers()
    assert read == []
    assert told("v2") == {("v1", 0): (False, made["v2"])}
    assert read == [made["v2"]]


def test_a_damaged_report_is_logged_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    job = add_check(store, "v1", {}, {"v1": [0]})
    (store.root / "reports" / job.id / ANSWERS_FILE).write_bytes(b"")
    for _ in range(3):
        shown(store, "v1")
    [said] = [one for one in caplog.messages if job.id in one]
    assert "is not shown" in said


def test_of_a_damaged_report_nothing_is_shown_until_it_is_whole(store: Store, way: str) -> None:
    before = shown(store, "v1")
    job = add_check(store, "v1", {}, {"v1": [0]})
    path = store.root / "reports" / job.id / ANSWERS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"0", b"1"))
    assert shown(store, "v1") == before
    [finding] = verify(store).findings
    assert finding.path == f"reports/{job.id}/{ANSWERS_FILE}"
    path.write_bytes(whole)
    assert shown(store, "v1")["v1", 0] == (False, "v1", True)
    assert verify(store).findings == []


def test_a_check_whose_record_was_removed_is_forgotten(store: Store, way: str) -> None:
    before = shown(store, "v1")
    job = add_check(store, "v1", {}, {"v1": [0]})
    assert shown(store, "v1") != before
    (store.root / "jobs" / f"{job.id}.json").unlink()
    assert shown(Store.open(store.root), "v1") == before


def test_answers_are_added_once_a_damaged_version_is_whole_again(store: Store) -> None:
    path = store.root / "versions" / "v2" / "manifest.json"
    whole = path.read_bytes()
    path.write_bytes(b"x" + whole[1:])
    add_check(store, "v2", {"v1": [1]}, {"v1": [0]})
    fresh = Store.open(store.root)
    list(listing.facts(fresh, "v1"))
    path.write_bytes(whole)
    assert shown(fresh, "v2")["v1", 0] == (False, "v2", True)


@pytest.mark.parametrize("table", ["asked", "missed"])
def test_an_index_that_lacks_an_answer_is_found(store: Store, table: str) -> None:
    add_check(store, "v1", {"v1": [1]}, {"v1": [0]})
    shown(store, "v1")
    assert difference(store) is None
    with store.catalogue.database.writing() as connection:
        connection.execute(f"DELETE FROM {table} WHERE number = 1")
    assert difference(store) is not None


def test_answers_are_added_whole_or_not_at_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shown(store, "v1")
    add_check(store, "v1", {"v1": [1, 2]}, {"v1": [0]})
    added = checks.add_answers

    def broken_off(*given: Any) -> None:
        added(*given)
        raise sqlite3.OperationalError("the disk is full")

    with monkeypatch.context() as failing:
        failing.setattr(checks, "add_answers", broken_off)
        assert [holds for holds, _, _ in shown(store, "v1").values()] == [False, True, True]
    store.catalogue.database._rests_until = 0.0
    with store.catalogue.database.reading() as connection:
        assert connection.execute("SELECT * FROM checked").fetchall() == []
        told = connection.execute("SELECT number, place, by FROM asked WHERE by = 1").fetchall()
    assert told == []
    assert shown(store, "v1") != before
    assert difference(store) is None


def test_an_index_of_any_tree_is_that_of_its_files(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "tree")
    store.create_base("weights")
    grow(store, random.Random(5), 12)
    entries: list[FactEntry] = []
    for number in store.versions.numbers():
        entries += listing.facts(store, f"v{number}")
    assert any(one.check_id for one in entries)
    assert difference(store) is None
    add_version(store, "v3", facts=batch(random.Random(1)))
    assert difference(store) is None
