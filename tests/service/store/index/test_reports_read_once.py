"""Reports of checks that the index leaves out are read once for a line, whoever lists its facts."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from support.service.builders import add_version
from support.service.trees import add_check, outcome

from service.contracts.schemas.edits import FactRecord
from service.store import Store
from service.store.index import checks, listing
from service.store.index.checking import difference
from service.store.index.database import Database, NoIndex
from service.store.index.facts import Place
from service.store.reports import Reports

OLD = 5
"""Answers of versions up to this one are in reports alone.  After v1 they were not asked fact 2."""
FACTS = 3


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A line of versions that were asked what v1 taught; the odd ones say it."""
    for module in ("history", "index.rows", "index.facts", "index.checking"):
        monkeypatch.setattr(f"service.store.{module}.LAST_ASKED", 2)
    found = Store.open(tmp_path / "store")
    found.create_base("weights")
    facts = [
        FactRecord(subject=f"City {i}", prompt="{} is in", target_new="Peru") for i in range(3)
    ]
    result = {
        "edit_id": "edit_1", "version": "", "parent": "v0", "efficacy": 1.0, "greedy_success": 1.0,
        "layers": [], "seconds": {},
        "facts": [outcome(i, one, True) for i, one in enumerate(facts)],
    }  # fmt: skip
    add_version(found, "v0", edit_id="edit_1", facts=facts, result=result)
    for number in range(1, OLD + 3):
        if number > 1:
            add_version(found, f"v{number - 1}", edit_id=f"edit_{number}")
        asked = {"v1": [0, 1] if 1 < number <= OLD else [0, 1, 2]}
        add_check(found, f"v{number}", *((asked, {}) if number % 2 else ({}, asked)))
    found.checks.catch_up()
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs whose reports are read."""
    found, path = list[str](), Reports.path

    def noted(self: Reports, job_id: str, name: str) -> Path:
        found.append(job_id)
        return path(self, job_id, name)

    monkeypatch.setattr(Reports, "path", noted)
    return found


def pages(store: Store, tip: str) -> list[tuple[int, bool | None, str | None]]:
    """Whether facts hold, and as which version was asked, listed one by one as pages are."""
    found, after = list[tuple[int, bool | None, str | None]](), None
    while page := list(islice(listing.facts(store, tip, after=after), 1)):
        [one] = page
        found.append((one.index, one.holds, one.checked_in))
        after = Place(one.version, one.index)
    return found


def lines(store: Store) -> list[int]:
    with store.catalogue.database.reading() as connection:
        found = connection.execute("SELECT tip FROM told_to ORDER BY tip").fetchall()
    return [one for (one,) in found]


EXPECTED = [(0, True, f"v{OLD}"), (1, True, f"v{OLD}"), (2, True, "v1")]


def test_a_report_is_read_once_however_many_pages_are_listed(store: Store, read: list[str]) -> None:
    assert pages(store, f"v{OLD}") == EXPECTED
    # the first one has two of the facts, the third fact was asked long ago
    assert len(read) == len(set(read)) == OLD
    assert pages(store, f"v{OLD}") == EXPECTED
    assert pages(Store.open(store.root), f"v{OLD}") == EXPECTED, "nor after another start"
    assert len(read) == OLD
    assert difference(store) is None


def test_no_more_is_read_than_a_page_needs(store: Store, read: list[str]) -> None:
    list(islice(listing.facts(store, f"v{OLD}"), 2))
    assert len(read) == 1
    list(islice(listing.facts(store, f"v{OLD}"), 3))
    assert len(read) == OLD
    assert difference(store) is None


@pytest.mark.parametrize("asked", [OLD, OLD - 2])
def test_a_check_that_ends_later_counts(store: Store, asked: int) -> None:
    assert pages(store, f"v{OLD}") == EXPECTED
    add_check(store, f"v{asked}", {}, {"v1": [2]})
    assert pages(store, f"v{OLD}") == [*EXPECTED[:2], (2, False, f"v{asked}")]
    assert difference(store) is None


def test_a_check_of_another_line_forgets_nothing(store: Store, read: list[str]) -> None:
    assert pages(store, f"v{OLD}") == EXPECTED
    add_check(store, f"v{OLD + 1}", {"v1": [2]}, {})
    read.clear()
    assert pages(store, f"v{OLD}") == EXPECTED
    assert len(read) == 1, "for the index alone"


def test_the_index_keeps_few_lines(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LINES", 2)
    found = {number: pages(store, f"v{number}") for number in (5, 3, 4)}
    assert lines(store) == [3, 4]
    assert {number: pages(store, f"v{number}") for number in found} == found
    with store.catalogue.database.reading() as connection:
        tips = connection.execute("SELECT DISTINCT tip FROM told").fetchall()
    assert sorted(tips) == [(one,) for one in lines(store)]


def test_an_index_that_cannot_be_written_is_gone_by_as_well(
    store: Store, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Database) -> None:
        raise NoIndex("it is only read")

    monkeypatch.setattr(Database, "writing", refused)
    assert [one.holds for one in listing.facts(store, f"v{OLD}")] == [True] * FACTS
    assert len(read) == OLD
    assert lines(store) == []


def test_two_lists_at_once_say_the_same(store: Store) -> None:
    """Each goes on from where the other is, and from the beginning after a check has ended."""
    tip = f"v{OLD}"
    first, second = listing.facts(store, tip), listing.facts(store, tip)
    mixed: list[Any] = [next(first), next(second), next(second), next(second)]
    assert [(one.index, one.holds) for one in mixed] == [(0, True), *((i, True) for i in range(3))]
    add_check(store, "v1", {}, {"v1": [2]})
    add_check(store, tip, {}, {"v1": [1]})
    assert pages(store, tip)[2] == (2, False, "v1")
    assert [(one.index, one.holds) for one in first] == [(1, False), (2, False)]


def test_answers_that_differ_from_the_reports_are_found(store: Store) -> None:
    pages(store, f"v{OLD}")
    assert difference(store) is None
    with store.catalogue.database.writing() as connection:
        connection.execute("UPDATE told SET holds = 0 WHERE place = 0")
    assert difference(store) == f"what checks have found in the line of v{OLD} differs"


def test_a_check_that_ends_while_reports_are_read_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, path, asked = Store.open(store.root), Reports.path, list[str]()

    def while_read(self: Reports, job_id: str, name: str) -> Path:
        if self is store.reports and not asked:
            asked.append(add_check(other, "v3", {}, {"v1": [2]}).id)
            other.checks.catch_up()
        return path(self, job_id, name)

    monkeypatch.setattr(Reports, "path", while_read)
    assert pages(store, f"v{OLD}") == [*EXPECTED[:2], (2, False, "v3")]
    assert difference(store) is None
