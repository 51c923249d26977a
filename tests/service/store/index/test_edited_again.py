"""Facts that are edited again and again cost a page no more than others: rows read are counted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from support.service.builders import add_version
from support.service.trees import outcome

from service.contracts.schemas import FactEntry, Manifest
from service.contracts.schemas.edits import FactRecord
from service.store import Store
from service.store.index import facts as indexed
from service.store.index.database import Database, NoIndex
from service.store.index.facts import FactsOf, Place
from service.store.index.rows import question_of

FEW, MANY = 10, 40
FACTS = [FactRecord(subject=f"City {i}", prompt="{} is in", target_new="Peru") for i in range(4)]
OWN = [FactRecord(subject="Oslo", prompt="{} is in", target_new="Peru")]


def add(store: Store, parent: str, facts: list[FactRecord], held: dict[str, list[int]]) -> str:
    result = {
        "edit_id": "", "version": "", "parent": parent, "efficacy": 1.0,
        "greedy_success": 1.0, "layers": [], "seconds": {},
        "facts": [outcome(i, one, True) for i, one in enumerate(facts)],
        "earlier": {"live": 1, "checked": 1, "seed": 0, "held": held},
    }  # fmt: skip
    return add_version(store, parent, edit_id=f"edit_on_{parent}", facts=facts, result=result)


def line(store: Store, parent: str, versions: int) -> str:
    """Versions that teach the same facts, each asked the facts of v1."""
    for _ in range(versions):
        parent = add(store, parent, FACTS, {"v1": [0]})
    return parent


def line_alone(store: Store, versions: int) -> str:
    return line(store, add(store, "v0", OWN, {}), versions)


def beside_another(store: Store, versions: int) -> str:
    """A line that is left early; all that is edited again later, and asked, is in the other one."""
    parent = line(store, add(store, "v0", OWN, {}), 3)
    line(store, parent, versions)
    return add(store, parent, OWN, {})


def before_the_end(store: Store, versions: int) -> str:
    """A version in the middle of a line."""
    parent = line(store, add(store, "v0", OWN, {}), 3)
    line(store, parent, versions)
    return parent


def shown(store: Store, tip: str, **given: Any) -> Iterator[FactEntry]:
    return indexed.facts(store.catalogue, tip, earlier=store.checks.earlier, **given)


def page(store: Store, tip: str) -> object:
    return list(islice(shown(store, tip), 25))


def next_page(store: Store, tip: str) -> object:
    first = list(islice(shown(store, tip), 2))[-1]
    after = Place(first.version, first.index)
    return list(islice(shown(store, tip, after=after), 25))


def of_a_subject(store: Store, tip: str) -> object:
    return list(islice(shown(store, tip, subject="City 2"), 3))


def taught_last(store: Store, tip: str) -> object:
    return indexed.answers(store.catalogue, tip, [question_of("City 1", "{} is in")])


def by_number(store: Store, tip: str) -> object:
    known = FactsOf(store.catalogue, tip)
    question = question_of("City 1", "{} is in")
    return known.live(0), known.live(1), known.knows(question), len(list(known.newest()))


@pytest.fixture(scope="module", params=[line_alone, beside_another, before_the_end])
def stores(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[tuple[Store, str]]]:
    """The same line of few and of many versions."""
    made = []
    for versions in (FEW, MANY):
        store = Store.open(tmp_path_factory.mktemp("again") / "store")
        store.create_base("weights")
        made.append((store, request.param(store, versions)))
        os.utime(store.root / "versions", ns=(0, 0))  # it has settled: nothing is compared again
        store.catalogue.up_to_date()
    yield made
    for store, _ in made:
        store.catalogue.database.close()


@pytest.mark.parametrize("ask", [page, next_page, of_a_subject, taught_last, by_number])
def test_what_is_read_does_not_grow_with_how_often_facts_were_edited_again(
    stores: list[tuple[Store, str]],
    ask: Callable[[Store, str], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(indexed, "BATCH", 8)
    few, many = (steps(store, partial(ask, store, tip)) for store, tip in stores)
    assert many == few, "steps of SQLite's machine"


def steps(store: Store, do: Callable[[], object]) -> int:
    """How many steps SQLite makes for a question that was asked before."""
    counted: list[int] = []
    do()
    with store.catalogue.database.reading() as connection:
        connection.set_progress_handler(lambda: counted.append(1), 1)
        try:
            do()
        finally:
            connection.set_progress_handler(None, 1)
    return len(counted)


def test_adding_a_version_reads_no_more_of_a_long_line(tmp_path: Path) -> None:
    """Its new questions, and the facts that it edits again, are looked up."""
    counts = []
    store = Store.open(tmp_path / "store")
    store.create_base("weights")
    tip = add(store, "v0", OWN, {})
    for versions in (FEW, MANY):
        tip = line(store, tip, versions)
        store.catalogue.up_to_date()
        tip = add(store, tip, FACTS, {})
        counts.append(steps(store, partial(added, store, store.versions.read(tip))))
    few, many = counts
    assert many == few


def added(store: Store, manifest: Manifest) -> None:
    """Add a version, and take it back."""
    with store.catalogue.database.reading() as connection:
        connection.execute("BEGIN")
        store.catalogue._insert(connection, "", manifest)
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("ask", [page, by_number], ids=["page", "newest"])
def test_a_version_that_is_added_meanwhile_takes_no_facts_from_a_page(
    based: Store, ask: Callable[[Store, str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process edits them again after it was found that nobody had."""
    tip = add(based, "v0", FACTS, {})
    expected, page_of = ask(based, tip), indexed._page_of

    def added_meanwhile(*given: object, **more: object) -> str:
        query = page_of(*given, **more)  # type: ignore[arg-type]
        monkeypatch.undo()
        other = Store.open(based.root)
        add(other, tip, FACTS, {})
        other.catalogue.up_to_date()
        return query

    monkeypatch.setattr(indexed, "_page_of", added_meanwhile)
    assert ask(based, tip) == expected
    assert ask(based, tip) == expected, "in the middle of its line"


@pytest.mark.parametrize("ask", [page, taught_last])
def test_a_row_that_is_gone_when_it_is_looked_at_says_that_there_is_no_index(
    based: Store, ask: Callable[[Store, str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has made the index again, so that places are others."""
    tip = add(based, "v0", FACTS, {})
    monkeypatch.setattr(indexed, "nearest", lambda *_: (9, 9))
    with pytest.raises(NoIndex):
        ask(based, tip)


def test_many_questions_are_looked_up_in_one_reading(
    based: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = add(based, "v0", FACTS, {})
    os.utime(based.root / "versions", ns=(0, 0))
    based.catalogue.up_to_date()
    opened, counts, before = list[int](), list[int](), Database._opened

    def counted(database: Database) -> object:
        opened.append(1)
        return before(database)

    monkeypatch.setattr(Database, "_opened", counted)
    for number in (1, 1, 50):  # the first time spans are read
        opened.clear()
        questions = [question_of(f"City {i}", "{} is in") for i in range(number)]
        found = indexed.answers(based.catalogue, tip, questions)
        assert len(found) == min(number, len(FACTS))
        counts.append(len(opened))
    assert counts[1] == counts[2]
