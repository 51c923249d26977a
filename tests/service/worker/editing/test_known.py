"""Facts of a line by number: the index and the records say the same, and draws are the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.service.trees import SUBJECTS, batch, grow

from jeep_core.spec.facts import Fact, question_key
from service.contracts.schemas import Manifest
from service.store import Store
from service.store.index.database import NoIndex
from service.store.index.line import Line
from service.worker.editing import earlier
from service.worker.editing.earlier import sample
from service.worker.editing.known import Known, Read, known_facts

LAYERS = 4


@pytest.fixture(scope="module", params=range(2))
def grown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.open(tmp_path_factory.mktemp("grown") / "store")
    store.create_base("weights")
    grow(store, random.Random(request.param), 25)
    return store


def lines(store: Store) -> list[Line]:
    """Every version's line, some with drafts on top."""
    rng, found = random.Random(0), list[Line]()
    for number in sorted(store.versions.numbers()):
        found.append(Line(store, f"v{number}"))
        draft = store.versions.read("v1").model_copy(
            update={"id": f"v{100 + number}", "facts": batch(rng), "result": None}
        )
        found.append(Line(store, f"v{number}", [draft]))
    return found


def same(one: Known, other: Known) -> None:
    assert one.counts() == other.counts()
    assert one.every() == other.every()
    for number in range(one.counts()[0]):
        assert one.live(number) == other.live(number)
    for subject in (*SUBJECTS, "nobody"):
        key = question_key(subject, "{} is in")
        assert one.knows(key) == other.knows(key)
        assert one.about(f" {subject} ") == other.about(f" {subject} ")
    for version in {fact.version for fact in other.every()}:
        assert one.of_version(version) == other.of_version(version) != []


def test_the_index_says_what_the_records_say(grown: Store) -> None:
    for line in lines(grown):
        known = known_facts(line, LAYERS)
        assert not isinstance(known, Read)
        same(known, Read(list(line), LAYERS))


@pytest.mark.parametrize("how_many", [1, 2, 5, "all"])
@pytest.mark.parametrize("draws", [0, 1, 16])
def test_the_same_facts_are_drawn_either_way(
    grown: Store, how_many: int, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier, "DRAWS", draws)
    again = [Fact("Lyon", "{} is in", "Peru"), Fact("nobody", "{} is in", "Peru")]
    for line in lines(grown):
        found = sample(line, again, LAYERS, how_many)
        assert found == sample(list(line), again, LAYERS, how_many)
        keys = [one.fact.key for one in found.facts]
        assert len(set(keys)) == len(keys)
        assert again[0].key not in keys
        if how_many != "all":
            assert len(found.facts) == min(how_many, found.live)


def test_a_line_is_read_where_the_index_cannot_be_used(
    grown: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise NoIndex("locked")

    line = Line(grown, grown.head.read().version)
    wanted = sample(line, [], LAYERS, 3)
    monkeypatch.setattr(grown.catalogue, "spans", refused)
    assert isinstance(known_facts(line, LAYERS), Read)
    assert sample(line, [], LAYERS, 3) == wanted


def test_a_draw_reads_the_versions_that_it_draws(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    store.create_base("weights")
    grow(store, random.Random(3), 40)
    line = Line(store, store.head.read().version)
    sample(line, [], LAYERS, 2)
    fresh = Store.open(store.root)
    read: list[str] = []
    parsed = fresh.versions.parsed

    def counted(version: str) -> Manifest:
        read.append(version)
        return parsed(version)

    fresh.versions.parsed = counted  # type: ignore[method-assign]
    sample(Line(fresh, line.version), [], LAYERS, 2)
    assert len(read) <= 4


def test_facts_of_one_batch_or_subject_are_found_without_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "store")
    store.create_base("weights")
    grow(store, random.Random(3), 40)
    line = Line(store, store.head.read().version)
    known = known_facts(line, LAYERS)
    oldest = known.every()[0]
    read: list[str] = []
    whole = store.versions.read

    def noted(version: str) -> Manifest:
        read.append(version)
        return whole(version)

    monkeypatch.setattr(store.versions, "read", noted)
    assert oldest in known.of_version(oldest.version)
    assert {*read} == {oldest.version}
    read.clear()
    about = known.about(oldest.fact.subject)
    assert oldest in about
    assert {*read} == {one.version for one in about}
