"""Rounds of retention that look at what may have changed come to what whole ones come to."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from threading import Thread

import pytest
from support.library.tiny import random_model
from support.service.builders import add_version, move
from support.service.thin_versions import add_chain, add_edit

from jeep_core.models.loading import LoadedModel
from service.contracts.schemas import Manifest
from service.store import CorruptFile, Store
from service.store.index.database import NoIndex
from service.store.maintenance import sweep as sweep_module
from service.store.maintenance.retention import Plan, plan_retention, referenced_tensors
from service.store.maintenance.sweep import leftovers, sweep_own
from service.worker.versions.retention import Keeper
from service.worker.versions.views import VersionViews


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return random_model("gptj")


def without_index(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    fresh = Store.open(store.root)

    def refused() -> None:
        raise NoIndex("locked")

    monkeypatch.setattr(fresh.catalogue, "up_to_date", refused)
    return fresh


def same(one: Plan, other: Plan) -> None:
    assert (one.kept, one.restore, one.ids) == (other.kept, other.restore, other.ids)
    assert [m.id for m in one.drop] == [m.id for m in other.drop]
    assert set(one.waiting) == set(other.waiting)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_left_to_drop_after_a_round(
    base: LoadedModel, store: Store, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edits, rollbacks, names, staged versions, versions in memory, and workers that start anew."""
    rng, busy = random.Random(seed), set[str]()
    add_chain(base, store, 2)
    keeper = Keeper(base, store, newest=2, busy=lambda: set(busy))
    for number in range(14):
        head, known = store.head.read().version, sorted(store.versions.numbers())
        any_version = f"v{rng.choice(known)}"
        match rng.choice(["edits", "staged", "rollback", "name", "load", "unload"]):
            case "edits":
                for _ in range(rng.randint(1, 4)):
                    add_edit(base, store)
            case "staged":
                add_edit(base, store, commit=False, staged=True)
            case "rollback":
                move(store, any_version, expected=head)
            case "name":
                store.names.give(f"name-{number}", any_version)
            case "load":
                busy.add(any_version)
            case _:
                busy.clear()
        if rng.random() < 0.15:
            keeper = Keeper(base, store, newest=2, busy=lambda: set(busy))
        keeper.collect(orphans=False)
        plan = plan_retention(store, 2, busy)
        assert (list(plan.drop), plan.restore) == ([], [])
        same(plan_retention(without_index(store, monkeypatch), 2, busy), plan)
    views = VersionViews(base, Store.open(store.root))
    for manifest in store.versions.all():
        assert views.get(manifest.id).weights_sha256() == manifest.weights_sha256


def test_plans_are_the_same_without_the_index(
    base: LoadedModel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_chain(base, store, 6)
    store.names.give("good", "v2")
    add_edit(base, store, commit=False, staged=True)
    plan = plan_retention(store, newest=1)
    assert [one.id for one in plan.drop] == ["v1", "v3", "v4", "v5"]
    same(plan_retention(without_index(store, monkeypatch), newest=1), plan)
    other = without_index(store, monkeypatch)
    assert list(Keeper(base, other, newest=1).collect().dropped) == ["v1", "v3", "v4", "v5"]


def test_a_later_round_reads_no_old_version(base: LoadedModel, store: Store) -> None:
    add_chain(base, store, 12)
    keeper = Keeper(base, store, newest=2)
    keeper.collect()
    store.versions.keeps = 0
    add_edit(base, store)
    store.catalogue.up_to_date()
    read: list[str] = []
    parsed = store.versions.parsed

    def counted(version: str) -> Manifest:
        read.append(version)
        return parsed(version)

    store.versions.parsed = counted  # type: ignore[method-assign]
    assert list(keeper.collect(orphans=False).dropped) == ["v11"]
    assert {int(version[1:]) for version in read} <= {10, 11, 12, 13}


def test_hashes_are_found_without_parsing_records(
    base: LoadedModel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_chain(base, store, 5)
    Keeper(base, store, newest=1).collect()
    lost = store.tensors.put("w", "F32", [1], b"lost")
    wanted = [store.tensors.path(lost.sha256)]
    assert leftovers(without_index(store, monkeypatch)) == wanted
    fresh = Store.open(store.root)

    def refused(version: str) -> Manifest:
        raise AssertionError(f"{version} is parsed")

    monkeypatch.setattr(fresh.versions, "parsed", refused)
    assert leftovers(fresh) == wanted
    named = {ref.sha256 for ref in referenced_tensors(store)}
    files = {path.stem for path in (store.root / "tensors").glob("*/*")}
    assert files - named == {lost.sha256}


def test_records_are_read_only_where_something_may_be_left_over(
    base: LoadedModel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where thin versions name tensors of their own."""
    add_chain(base, store, 5)
    Keeper(base, store, newest=1).collect()
    thin = store.versions.thin("v2")
    assert thin is not None
    assert thin.refs()
    read = list[int]()
    hashes = sweep_module._hashes
    monkeypatch.setattr(sweep_module, "_hashes", lambda store: read.append(1) or hashes(store))
    assert (leftovers(store), read) == ([], [])
    lost = store.tensors.put("w", "F32", [1], b"lost")
    assert (leftovers(store), read) == ([store.tensors.path(lost.sha256)], [1])


def test_what_nothing_names_goes_while_the_worker_serves(base: LoadedModel, store: Store) -> None:
    add_chain(base, store, 1)
    lost = store.tensors.path(store.tensors.put("w", "F32", [1], b"lost").sha256)
    (store.root / "staging" / "v9").mkdir()
    (store.root / "work" / "job_gone").mkdir()
    sweep_own(store)
    assert not list((store.root / "staging").iterdir())
    assert not list((store.root / "work").iterdir())
    assert lost.exists()
    there: list[bool] = []

    def look() -> None:
        there.append(lost.exists())
        keeper.due()
        if len(there) == 2:
            keeper.stop.set()

    keeper = Keeper(base, store, newest=1, look=look)
    thread = Thread(target=keeper.run)
    thread.start()
    thread.join(30)
    assert there == [True, False]


def test_the_move_of_a_job_is_found_as_the_reflog_grows(based: Store) -> None:
    made: dict[str, str] = {}
    for number in range(6):
        head = based.head.read().version
        version = add_version(based, head)
        based.head.move(
            version, expected=head, job_id=f"job_{number}", fence=1, who="worker", why="edit"
        )
        made[f"job_{number}"] = version
        assert based.head.move_of("job_none") is None
        for job, to in made.items():
            found = based.head.move_of(job)
            assert found is not None
            assert found.to == to
            assert found == Store.open(based.root).head.move_of(job)


def test_damage_in_what_was_read_of_the_reflog_is_found(based: Store) -> None:
    for number in range(3):
        head = based.head.read().version
        version = add_version(based, head)
        based.head.move(
            version, expected=head, job_id=f"job_{number}", fence=1, who="worker", why="edit"
        )
    assert based.head.move_of("job_none") is None
    path = based.root / "reflog.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    with pytest.raises(CorruptFile, match="damaged line, number 1"):
        based.head.move_of("job_none")
    path.write_bytes(whole)
    found = based.head.move_of("job_1")
    assert found is not None
    assert found.to == "v2"


def test_numbers_are_looked_up_in_the_folder_once(
    based: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (based.root / "counter.json").unlink(missing_ok=True)
    add_version(based)
    add_version(based)
    looked = []
    numbers = based.versions.numbers

    def counted() -> set[int]:
        looked.append(1)
        return numbers()

    (based.root / "counter.json").unlink()
    fresh = Store.open(based.root)
    monkeypatch.setattr(fresh.versions, "numbers", counted)
    assert [fresh.versions.new_id() for _ in range(3)] == ["v3", "v4", "v5"]
    assert len(looked) == 1
    fresh.versions.write(fresh.versions.read("v2").model_copy(update={"id": "v9"}))
    (based.root / "counter.json").unlink()
    assert fresh.versions.new_id() == "v10"


def test_a_mark_whose_job_ends_meanwhile_is_no_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, exists = store.root / "jobs" / "open" / "job_1.open", Path.exists
    mark.touch()

    def ended(self: Path) -> bool:
        if self.name == "job_1.json":
            mark.unlink(missing_ok=True)
        return exists(self)

    monkeypatch.setattr(Path, "exists", ended)
    assert leftovers(store) == []


def test_a_whole_round_that_falls_due_while_another_begins_is_not_lost(
    base: LoadedModel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(base, store, newest=2)
    rounds: list[bool] = []

    class Looked(threading.Event):
        """While it is looked at in the second round, a job ends that may have left something."""

        def is_set(self) -> bool:
            found = super().is_set()
            if len(rounds) == 1 and not found:
                keeper.due(whole=True)
            return found

    def collect(*, orphans: bool) -> None:
        rounds.append(orphans)
        keeper.due()
        if len(rounds) == 3:
            keeper.stop.set()

    monkeypatch.setattr(keeper, "_whole", Looked())
    monkeypatch.setattr(keeper, "collect", collect)
    keeper.run()
    assert rounds == [True, False, True]
