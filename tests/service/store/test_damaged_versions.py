"""A version whose records cannot be read: the others stay usable, and it can be moved aside."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.service.builders import MakeJob, add_version, move
from typer.testing import CliRunner

from jeep_core.storage.records import sealed, unsealed
from service.api.resources.snapshots import diff
from service.cli import app
from service.contracts.schemas import Manifest
from service.store import CorruptFile, Store, StoreBusy
from service.store.index.listing import applied_in
from service.store.maintenance.backup import BackupError, back_up, restore
from service.store.maintenance.repair import Repair, repair
from service.store.maintenance.retention import droppable_bytes, plan_retention
from service.store.maintenance.sweep import sweep
from service.store.maintenance.usage import usage
from service.store.maintenance.verify import verify

Damage = Callable[[Path], None]


def null_for_a_number(folder: Path) -> None:
    """Imitate a version that was written with a NaN: its seal is right, a figure is null."""
    path = folder / "manifest.json"
    record = json.loads(unsealed(path.read_bytes()))
    record["result"] = {
        "edit_id": "edit_2", "version": folder.name, "parent": "v1", "facts": [],
        "efficacy": 1.0, "greedy_success": 1.0, "seconds": {},
        "layers": [{"name": "w", "layer": 1, "region": "mlp", "relative_norm": None,
                    "residual_before": None, "residual_after": None, "condition": None}],
    }  # fmt: skip
    path.write_bytes(sealed(json.dumps(record, separators=(",", ":")).encode()))


def a_flipped_bit(folder: Path) -> None:
    data = bytearray((folder / "manifest.json").read_bytes())
    data[-10] ^= 1
    (folder / "manifest.json").write_bytes(data)


def cut_off(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:40])


def empty(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"")


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def of_another_version(folder: Path) -> None:
    shutil.copy(folder.parent / "v1" / "manifest.json", folder / "manifest.json")


def a_folder_for_a_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


def a_file_for_a_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"?")


DAMAGES: tuple[Damage, ...] = (
    null_for_a_number, a_flipped_bit, cut_off, empty, no_manifest, of_another_version,
    a_folder_for_a_manifest, a_file_for_a_folder,
)  # fmt: skip


def commit(store: Store, value: int) -> str:
    parent = store.head.read().version
    version = aside(store, value)
    move(store, version, expected=parent)
    return version


def aside(store: Store, value: int, **fields: object) -> str:
    """A version with a tensor of its own that is never head."""
    tensor = store.tensors.put("w", "U8", [1000], bytes([value]) * 1000)
    given = {"tensors": [tensor], "weights_sha256": str(value), "edit_id": f"edit_{value}"}
    return add_version(store, store.head.read().version, **given, **fields)


@pytest.fixture
def stored(based: Store) -> Store:
    """v1 committed, v2 beside it, v3 on top of v1; v2 is to be damaged."""
    commit(based, 1)
    aside(based, 2)
    commit(based, 3)
    return based


def damaged(store: Store, damage: Damage, version: str = "v2") -> Store:
    """The store as another process finds it."""
    damage(store.root / "versions" / version)
    return Store.open(store.root)


@pytest.mark.parametrize("damage", DAMAGES)
class TestEveryDamage:
    def test_a_damaged_version_is_named_and_the_others_listed(
        self, stored: Store, damage: Damage
    ) -> None:
        store = damaged(stored, damage)
        assert [one.id for one in store.versions.all()] == ["v3", "v1", "v0"]
        [(version, what)] = store.versions.damaged().items()
        assert version == "v2"
        assert "v2" in what
        assert store.versions.is_readable("v3")
        assert not store.versions.is_readable("v2")
        with pytest.raises(CorruptFile, match="v2"):
            store.versions.read("v2")
        with pytest.raises(CorruptFile, match="v2"):
            store.names.resolve("v2")
        assert [one.id for one in store.versions.lineage("v3")] == ["v0", "v1", "v3"]
        assert store.head.committed() == {"v0", "v1", "v3"}
        assert store.versions.of_job("job_0") is None
        assert applied_in(store, "edit_1", store.head.read().version) == "v1"
        assert diff(store, "v0", "v3").edits_added == ["edit_1", "edit_3"]

    def test_retention_and_sizes_go_on(
        self, stored: Store, damage: Damage, make_job: MakeJob
    ) -> None:
        store = damaged(stored, damage)
        store.tensors.put("w", "U8", [1], b"?")  # may be one that the damaged version needs
        (store.root / "work" / "job_gone").mkdir()
        plan = plan_retention(store, newest=1)
        assert [one.id for one in plan.drop] == ["v1"]
        assert droppable_bytes(store, plan) == {"v1": 1000}
        assert sweep(store) == 1, "the folder of the job; tensors stay while one is unreadable"
        used = usage(store)
        assert used["tensors of versions"].files == 2
        assert used["tensors that nothing names"].files == 2
        commit(store, 4)
        assert store.head.read().version == "v4"

    def test_a_backup_copies_what_is_left_and_says_so(
        self, stored: Store, damage: Damage, tmp_path: Path
    ) -> None:
        store = damaged(stored, damage)
        run = back_up(store, tmp_path / "backup")
        assert run.backup.head == "v3"
        assert list(run.backup.damaged_versions) == ["v2"]
        restore(tmp_path / "backup", tmp_path / "restored")
        again = Store.open(tmp_path / "restored")
        assert [one.id for one in again.versions.all()] == ["v3", "v1", "v0"]
        hidden = again.root / "versions" / "v2"
        assert hidden.exists() == (damage not in (no_manifest, a_folder_for_a_manifest))

    def test_verify_names_it_and_a_repair_moves_it(self, stored: Store, damage: Damage) -> None:
        tensor = stored.versions.read("v2").tensors[0].sha256
        store = damaged(stored, damage)
        left = [path.name for path in (store.root / "versions" / "v2").glob("*")]
        advised = {one.path: one.advice for one in verify(store).findings}
        [path] = [path for path in advised if path.startswith("versions/v2")]
        if damage is not a_file_for_a_folder:
            assert "jeep store verify --repair" in advised[path]
        [done] = repair(store)
        # of its tensors those are with it that the manifest still names
        named = damage in (null_for_a_number, a_flipped_bit)
        assert done == Repair("v2", "damaged/v2", int(named))
        folder = store.root / "damaged" / "v2"
        assert [p.name for p in folder.glob("*") if p.name != "tensors"] == left
        assert (folder / "tensors" / f"{tensor}.safetensors").exists() == named
        assert store.versions.damaged() == {}
        assert verify(store).findings == []
        assert repair(store) == []
        assert sweep(store) == (0 if named else 1), "nobody names its tensor any more"
        (store.root / "counter.json").unlink()
        assert Store.open(store.root).versions.new_id() == "v4"


class TestRepair:
    def test_the_number_of_a_moved_version_is_not_given_again(self, stored: Store) -> None:
        version = aside(stored, 9)
        store = damaged(stored, cut_off, version)
        repair(store)
        (store.root / "counter.json").unlink()
        assert store.versions.new_id() == "v5"

    def test_what_is_needed_stays_and_why_is_said(self, stored: Store) -> None:
        stored.names.give("mine", "v2")
        store = damaged(damaged(damaged(stored, a_flipped_bit), cut_off, "v1"), empty, "v3")
        found = {one.version: one.why_not for one in repair(store)}
        assert found["v3"] == "it is head"
        assert found["v2"] == "it has the name 'mine'"
        assert found["v1"] == "v3, which stays, may be built on it"
        assert not list((store.root / "damaged").iterdir())

    def test_what_others_are_built_on_stays(self, stored: Store) -> None:
        [done] = repair(damaged(stored, cut_off, "v1"))
        assert done == Repair("v1", why_not="v3 is built on it")

    def test_a_draft_counts_as_a_version(self, stored: Store, make_job: MakeJob) -> None:
        job = make_job()
        stored.journal.add(job)
        draft = stored.versions.read("v3").model_copy(
            update={"id": "v9", "parent": "v2", "job_id": job.id}
        )
        stored.drafts.save(Manifest.model_validate(draft))
        [done] = repair(damaged(stored, cut_off))
        assert done.why_not == "v9 is built on it"

    def test_a_tensor_that_others_name_stays(self, stored: Store) -> None:
        shared = stored.versions.read("v1").tensors
        version = add_version(stored, "v3", tensors=shared)
        [done] = repair(damaged(stored, null_for_a_number, version))
        assert (done.folder, done.tensors) == (f"damaged/{version}", 0)
        assert stored.tensors.has(shared[0])

    def test_a_second_repair_takes_another_folder(self, stored: Store) -> None:
        repair(damaged(stored, cut_off))
        shutil.copytree(stored.root / "damaged" / "v2", stored.root / "versions" / "v2")
        [done] = repair(Store.open(stored.root))
        assert done.folder == "damaged/v2-2"

    def test_a_repair_is_refused_while_a_worker_runs(self, stored: Store) -> None:
        store = damaged(stored, cut_off)
        with Store.open(store.root).worker_lock(), pytest.raises(StoreBusy):
            repair(store)
        assert list(store.versions.damaged()) == ["v2"]

    def test_the_reflog_may_name_what_was_moved(self, stored: Store) -> None:
        move(stored, "v1", expected="v3")
        store = damaged(stored, cut_off, "v3")
        assert [one.folder for one in repair(store)] == ["damaged/v3"]
        assert verify(store).findings == []
        assert store.head.committed() == {"v0", "v1", "v3"}


class TestWhatIsBuiltOnIt:
    def test_a_line_through_it_is_refused_by_its_file(self, stored: Store) -> None:
        store = damaged(stored, no_manifest, "v1")
        with pytest.raises(CorruptFile, match=r"v1/manifest.json is missing: v3 is built on v1"):
            store.versions.lineage("v3")
        assert store.head.committed() == {"v3", "v1", "v0"}, "the reflog names v1 and v0"
        assert applied_in(store, "edit_3", store.head.read().version) == "v3"
        assert applied_in(store, "edit_1", store.head.read().version) is None
        assert plan_retention(store, newest=1).kept["v3"] == "head"

    def test_a_damaged_head_is_backed_up_by_nobody(self, stored: Store, tmp_path: Path) -> None:
        store = damaged(stored, cut_off, "v3")
        with pytest.raises(BackupError, match=r"head \(v3\) is damaged: .*roll back"):
            back_up(store, tmp_path / "backup")

    def test_a_damaged_thin_record_stops_no_other(self, stored: Store) -> None:
        (stored.root / "versions" / "v1" / "thin.json").write_text("{")
        store = Store.open(stored.root)
        assert [one.id for one in store.versions.all()] == ["v3", "v2", "v1", "v0"]
        assert usage(store)["tensors of versions"].files == 3
        assert sweep(store) == 0
        assert plan_retention(store, newest=1).drop
        with pytest.raises(CorruptFile, match=r"thin.json"):
            store.versions.thin("v1")


def test_a_damaged_version_is_logged_once(stored: Store, caplog: pytest.LogCaptureFixture) -> None:
    store = damaged(stored, cut_off)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            store.versions.all()
            sweep(store)
    said = [record.getMessage() for record in caplog.records]
    assert len([one for one in said if "v2 is damaged and passed over" in one]) == 1
    assert len([one for one in said if "no tensors are tidied away while v2" in one]) == 1


class TestCommands:
    def run(self, *arguments: str) -> tuple[int, str]:
        shown = CliRunner().invoke(app, [*arguments])
        return shown.exit_code, shown.output.replace("\n", " ")

    def test_commands_back_up_and_restore_a_damaged_store(
        self, stored: Store, tmp_path: Path
    ) -> None:
        store = damaged(stored, null_for_a_number)
        folder = str(tmp_path / "backup")
        code, said = self.run("backup", folder, "--store", str(store.root))
        assert code == 1
        assert "v2 cannot be read, copied as it lies there" in said
        assert "result/layers/0/relative_norm" in said
        code, said = self.run("restore", folder, "--store", str(tmp_path / "again"))
        assert code == 0
        assert "cannot be read, as in the store that was backed up: v2" in said

    def test_gc_and_du_work_on_a_damaged_store(self, stored: Store) -> None:
        store = damaged(stored, null_for_a_number)
        code, said = self.run("store", "gc", "--dry-run", "--keep", "1", "--store", str(store.root))
        assert code == 0
        assert "damaged:" in said
        assert self.run("store", "du", "--store", str(store.root))[0] == 0

    def test_the_verify_command_names_a_damaged_version(self, stored: Store) -> None:
        stored.names.give("mine", "v2")
        store = damaged(damaged(stored, cut_off), cut_off, aside(stored, 7))
        code, said = self.run("store", "verify", "--repair", "--store", str(store.root))
        assert code == 1
        assert f"v4 was moved to {store.root / 'damaged' / 'v4'}, with 0 tensors" in said
        assert "v2 stays where it is: it has the name 'mine'" in said
        (store.root / "names.json").unlink()
        code, said = self.run("store", "verify", "--repair", "--json", "--store", str(store.root))
        assert code == 0
        assert json.loads(said)["repairs"] == [
            {"version": "v2", "folder": "damaged/v2", "tensors": 0, "why_not": ""}
        ]

    def test_a_repair_beside_a_worker_is_refused(self, stored: Store) -> None:
        with stored.worker_lock():
            code, said = self.run("store", "verify", "--repair", "--store", str(stored.root))
        assert code == 1
        assert "nothing was repaired: another worker already uses this store" in said
