"""A file that cannot be read now, for want of descriptors, memory or a disk, is not damaged."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.service.builders import add_version
from typer.testing import CliRunner

from service.cli import app
from service.contracts.schemas import TensorRef
from service.contracts.schemas.access import Scope
from service.store import CorruptFile, CorruptTensor, StaleFence, Store
from service.store import tensors as tensors_module
from service.store.index import listing
from service.store.index.database import NoIndex
from service.store.maintenance.backup import back_up
from service.store.maintenance.repair import repair
from service.store.maintenance.verify import LATER, verify

PASSING = [errno.EMFILE, errno.ESTALE, errno.EIO, errno.ENOMEM]
Hinder = Callable[..., None]


@pytest.fixture
def hinder(monkeypatch: pytest.MonkeyPatch) -> Hinder:
    """Let reading the files whose paths have a part in them fail; ``times`` at most."""

    def hindered(number: int, *parts: str, times: int = 10**6) -> None:
        left = [times]

        def check(path: Path) -> None:
            if left[0] and any(part in path.as_posix() for part in parts):
                left[0] -= 1
                raise OSError(number, os.strerror(number), str(path))

        def failing(method: Any) -> Any:
            def call(path: Path, mode: str = "rb", *args: Any, **more: Any) -> Any:
                if mode == "rb":
                    check(path)
                return method(path, mode, *args, **more)

            return call

        read_bytes = Path.read_bytes

        def read(path: Path) -> bytes:
            check(path)
            return read_bytes(path)

        monkeypatch.setattr(Path, "open", failing(Path.open))
        monkeypatch.setattr(Path, "read_bytes", read)

    return hindered


@pytest.fixture
def edited(based: Store) -> Store:
    """v0, and v1 with a tensor; head is v0."""
    ref = based.tensors.put("w", "F32", [4], bytes(16))
    assert add_version(based, tensors=[ref]) == "v1"
    return based


def tensor_of(store: Store) -> TensorRef:
    [ref] = store.versions.read("v1").tensors
    return ref


class TestHead:
    @pytest.mark.parametrize("number", PASSING, ids=errno.errorcode.get)
    def test_a_worker_that_was_replaced_moves_nothing_while_head_cannot_be_read(
        self, edited: Store, hinder: Hinder, number: int
    ) -> None:
        """Its own fence would be taken for that of head."""
        old, new = Store.open(edited.root), Store.open(edited.root)
        old.head.claim(1)
        new.head.claim(2)
        given: dict[str, Any] = {"expected": "v0", "job_id": None, "who": "x", "why": "edit"}
        hinder(number, "head.json", times=1)
        with pytest.raises(OSError, match=os.strerror(number)):
            old.head.move("v1", fence=1, **given)
        with pytest.raises(StaleFence):
            old.head.move("v1", fence=1, **given)
        assert (new.head.read().version, new.head.read().fence) == ("v0", 2)

    def test_neither_is_the_reflog(self, edited: Store, hinder: Hinder) -> None:
        hinder(errno.EIO, "reflog.jsonl")
        with pytest.raises(OSError, match="Input/output"):
            edited.head.repair()

    def test_a_folder_in_its_place_is_damage(self, edited: Store) -> None:
        edited.root.joinpath("head.json").unlink()
        edited.root.joinpath("head.json").mkdir()
        assert edited.head.read().version == "v0"  # by the reflog


class TestVersions:
    def test_the_base_is_not_written_again(self, edited: Store, hinder: Hinder) -> None:
        path = edited.root / "versions" / "v0" / "manifest.json"
        before = path.read_bytes()
        hinder(errno.EMFILE, "v0/manifest.json", times=1)
        with pytest.raises(OSError, match="Too many open files"):
            Store.open(edited.root).create_base("weights-0")
        assert path.read_bytes() == before

    @pytest.mark.parametrize("number", PASSING, ids=errno.errorcode.get)
    def test_a_repair_moves_nothing(self, edited: Store, hinder: Hinder, number: int) -> None:
        store = Store.open(edited.root)
        hinder(number, "v1/manifest.json")
        with pytest.raises(OSError, match=os.strerror(number)):
            repair(store)
        assert store.versions.set_aside() == []
        assert store.versions.is_there(1)

    def test_a_repair_moves_no_version_whose_tensors_it_cannot_know(
        self, edited: Store, hinder: Hinder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They are named by what can be read of the damaged manifest."""
        monkeypatch.setattr(edited.versions, "all", list)
        monkeypatch.setattr(edited.versions, "damaged", lambda: {"v1": "is damaged"})
        hinder(errno.EIO, "v1/manifest.json")
        with pytest.raises(OSError, match="Input/output"):
            repair(edited)
        assert edited.versions.is_there(1)


class TestTensors:
    def test_memory_and_disks_that_fail_are_no_damage(
        self, edited: Store, hinder: Hinder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_memory(*_: object, **__: object) -> None:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

        ref = tensor_of(edited)
        with monkeypatch.context() as patch:
            patch.setattr(tensors_module.mmap, "mmap", no_memory)
            with pytest.raises(OSError, match="allocate memory"):
                edited.tensors.map(ref)
        hinder(errno.EIO, ref.sha256)
        for read in (edited.tensors.map, edited.tensors.read):
            with pytest.raises(OSError, match="Input/output"):
                read(ref)

    @pytest.mark.parametrize("length", [1 << 62, (1 << 64) - 1])
    def test_an_absurd_length_is_damage(self, edited: Store, length: int) -> None:
        ref = tensor_of(edited)
        path = edited.tensors.path(ref.sha256)
        path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
        for read in (edited.tensors.map, edited.tensors.read):
            with pytest.raises(CorruptTensor):
                read(ref)


class TestLists:
    """One file that cannot be read does not keep others from being shown."""

    @pytest.mark.parametrize("number", [errno.EIO, errno.EACCES], ids=errno.errorcode.get)
    @pytest.mark.parametrize("indexed", ["before", "never", "not now"])
    def test_a_version_that_cannot_be_read_is_listed_as_such(
        self, edited: Store, hinder: Hinder, monkeypatch: pytest.MonkeyPatch, number: int,
        indexed: str,
    ) -> None:  # fmt: skip
        add_version(edited, "v1")
        add_version(edited)
        edited.head.move("v2", expected="v0", job_id=None, fence=0, who="x", why="edit")
        before = listing.snapshots(edited, None, 9)
        if indexed == "never":
            for path in (edited.root / "index").iterdir():
                path.unlink()
        store = Store.open(edited.root)
        if indexed == "not now":
            monkeypatch.setattr(store.catalogue, "up_to_date", no_index)
            monkeypatch.setattr(store.catalogue, "whole", no_index)
            monkeypatch.setattr(store.catalogue, "spans", no_index)
        with monkeypatch.context() as patch:
            hinder(number, "v1/manifest.json")
            found = {one.id: one for one in listing.snapshots(store, None, 9)}
            assert list(found) == ["v3", "v2", "v1", "v0"]
            lost = found.pop("v1")
            assert lost.state == "unreadable", "also where the index knows it"
            assert f"cannot be read now: {os.strerror(number)}" in str(lost.damage)
            assert str(store.root) not in str(lost.damage)
            assert [one.state for one in found.values()] == ["unused", "head", "committed"]
            assert listing.snapshot(store, "v3").state == "unused"
            assert listing.children(store, "v0") == ["v3"] + ["v1"] * (indexed == "before")
            with pytest.raises(OSError, match=os.strerror(number)):
                store.versions.read("v1")
            with pytest.raises(OSError, match=os.strerror(number)):
                store.versions.all()  # by which tensors are kept
            patch.undo()
        monkeypatch.undo()
        assert listing.snapshots(store, None, 9) == before, "it is whole, and was tried again"

    def test_the_index_answers_for_one_that_can_be_opened(
        self, edited: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A list reads no manifest that the index has."""
        before = listing.snapshots(edited, None, 9)

        def failing(path: Path) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

        store = Store.open(edited.root)
        read_bytes = Path.read_bytes
        monkeypatch.setattr(
            Path,
            "read_bytes",
            lambda path: (failing if path.name == "manifest.json" else read_bytes)(path),
        )
        assert listing.snapshots(store, None, 9) == before

    @pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.ESTALE])
    def test_what_keeps_every_file_from_being_read_is_an_error(
        self, edited: Store, hinder: Hinder, number: int
    ) -> None:
        for path in (edited.root / "index").glob("*"):
            path.unlink()
        store = Store.open(edited.root)
        hinder(number, "v1/manifest.json")
        with pytest.raises(OSError, match=os.strerror(number)):
            listing.snapshots(store, None, 9)


class TestWhereABatchIsApplied:
    @pytest.fixture
    def taught(self, based: Store) -> Store:
        """v1, v2 and v3, each built on the one before it by an edit, are in the index."""
        for number in (1, 2, 3):
            add_version(based, f"v{number - 1}", edit_id=f"edit_{number}")
        based.catalogue.up_to_date()
        return based

    @pytest.mark.parametrize("number", PASSING, ids=errno.errorcode.get)
    def test_the_index_knows_it(self, taught: Store, hinder: Hinder, number: int) -> None:
        store = Store.open(taught.root)
        hinder(number, "v2/manifest.json")
        found = [listing.applied_in(store, f"edit_{one}", "v3") for one in (1, 2, 3, 4)]
        assert found == ["v1", "v2", "v3", None]

    @pytest.mark.parametrize("number", [errno.EIO, errno.EACCES], ids=errno.errorcode.get)
    def test_without_it_nobody_says_that_it_is_not(
        self, taught: Store, hinder: Hinder, number: int
    ) -> None:
        for path in (taught.root / "index").iterdir():
            path.unlink()
        store = Store.open(taught.root)
        hinder(number, "v2/manifest.json")
        assert listing.applied_in(store, "edit_3", "v3") == "v3"
        for one in ("edit_1", "edit_2"):
            with pytest.raises(OSError, match=os.strerror(number)):
                listing.applied_in(store, one, "v3")


def no_index(*_: object) -> None:
    raise NoIndex("it cannot be used")


def test_a_key_is_not_unknown_while_it_cannot_be_read(edited: Store, hinder: Hinder) -> None:
    _, token = edited.keys.create("me", [Scope.READ])
    hinder(errno.EMFILE, "/keys/")
    with pytest.raises(OSError, match="Too many open files"):
        edited.keys.find(token)


def test_a_backup_leaves_nothing_out_that_it_cannot_read(
    edited: Store, tmp_path: Path, hinder: Hinder
) -> None:
    hinder(errno.EMFILE, "backup/new/tensors/")
    with pytest.raises(OSError, match="Too many open files"):
        back_up(edited, tmp_path / "backup")
    assert not (tmp_path / "backup" / "backup.json").exists()


def test_verify_says_so_and_advises_to_remove_nothing(edited: Store, hinder: Hinder) -> None:
    base, ref = edited.base, tensor_of(edited)
    record = base.networks_folder / "abc" / "mend.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"sha256": "0" * 64}))
    record.with_suffix(".safetensors").write_bytes(b"network")
    base.prefixes_file.write_text('["One"]')
    (base.folder / "one.safetensors").write_bytes(b"moments")
    store = Store.open(edited.root)
    parts = ("head.json", "reflog.jsonl", "names.json", "v1/manifest.json", "mend.json")
    hinder(errno.EIO, *parts, ref.sha256, base.prefixes_file.name, "one.safetensors")
    found = {one.path: one for one in verify(store).findings}
    assert {one.what for one in found.values()} == {"cannot be read now: Input/output error"}
    assert {one.advice for one in found.values()} == {LATER}
    folder = base.folder.relative_to(store.root).as_posix()
    wanted = ["head.json", "reflog.jsonl", "names.json", "versions/v1/manifest.json"]
    wanted += [base.prefixes_file.relative_to(store.root).as_posix(), f"{folder}/one.safetensors"]
    assert {*wanted, record.relative_to(store.root).as_posix()} <= found.keys()


def test_verify_ends_with_a_sentence_where_a_folder_cannot_be_listed(
    edited: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(_: Path) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "iterdir", stale)
    shown = CliRunner().invoke(app, ["store", "verify", "--store", str(edited.root)])
    assert shown.exit_code == 1
    assert shown.stderr.startswith("not verified, the store cannot be read now: [Errno 116]")


def test_what_refers_to_a_version_that_cannot_be_read_is_right(
    edited: Store, hinder: Hinder
) -> None:
    add_version(edited, "v1")
    edited.names.give("good", "v1")
    hinder(errno.ESTALE, "v1/manifest.json")
    found = verify(Store.open(edited.root)).findings
    assert [one.path for one in found] == ["versions/v1/manifest.json"]


def test_what_is_damaged_is_still_said_to_be(edited: Store) -> None:
    (edited.root / "head.json").write_bytes(b"{")
    (edited.root / "reflog.jsonl").write_bytes(b"{\n")
    with pytest.raises(CorruptFile, match="is damaged"):
        edited.head.read()
