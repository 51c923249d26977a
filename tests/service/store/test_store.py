"""The store opens, keeps to one model, and gives back the bytes it was given."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors
from safetensors.numpy import load_file
from support.service.builders import add_version

from service.contracts.jobs import now
from service.contracts.schemas import TensorRef, WorkerInfo
from service.store import (
    CorruptTensor,
    MissingTensor,
    NotAStore,
    Store,
    StoreBusy,
    WrongFormat,
    WrongModel,
    safetensors_header,
)
from service.store import tensors as tensor_files
from service.store.files import encode, replace
from service.store.maintenance.sweep import sweep
from service.store.store import StoreIdentity, is_another


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


class TestOpening:
    def test_a_missing_directory_becomes_a_store(self, tmp_path: Path) -> None:
        Store.open(tmp_path / "a" / "b")
        assert json.loads((tmp_path / "a" / "b" / "format.json").read_text())["format"] == 1

    def test_a_directory_with_other_files_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(NotAStore, match=r"thesis\.tex"):
            Store.open(tmp_path)

    def test_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(NotAStore):
            Store.open(tmp_path / "file")

    def test_another_format_version_is_refused(self, store: Store) -> None:
        (store.root / "format.json").write_text('{"format": 2}')
        with pytest.raises(WrongFormat, match="2"):
            Store.open(store.root)

    def test_a_store_keeps_its_id_and_shares_it_with_no_other(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(lambda _: Store.open(tmp_path / "a").id, range(8)))
        (tmp_path / "a").rename(tmp_path / "b")
        assert {*ids} == {Store.open(tmp_path / "b").id}
        assert Store.open(tmp_path / "a").id not in ids

    def test_a_half_created_store_is_completed(self, store: Store) -> None:
        (store.root / "format.json").unlink()
        (store.root / "staging").rmdir()
        assert (Store.open(store.root).root / "staging").is_dir()

    def test_it_is_not_another_while_its_folder_cannot_be_looked_at(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert store.id
        replace(store.root / "id.json", encode(StoreIdentity(id="another")))
        assert "holds another store now" in str(is_another(store))

        def failing(path: Path, **_: Any) -> os.stat_result:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

        monkeypatch.setattr(Path, "stat", failing)
        assert is_another(store) is None

    def test_a_second_worker_is_refused_while_the_first_one_holds_the_store(
        self, store: Store
    ) -> None:
        other = Store.open(store.root)
        with store.worker_lock():
            with pytest.raises(StoreBusy, match=str(os.getpid())), other.worker_lock():
                pass
            with other.serve_lock():  # a lock of its own
                pass
        with other.worker_lock():
            pass


class TestModel:
    def test_the_store_keeps_to_its_first_model(self, store: Store) -> None:
        store.bind_model("aaaa")
        store.bind_model("aaaa")
        with pytest.raises(WrongModel, match="bbbb"):
            Store.open(store.root).bind_model("bbbb")

    def test_what_the_worker_publishes_another_process_reads(self, store: Store) -> None:
        info = WorkerInfo(
            model="m", model_hash="h", family="gptj", dtype="float32", device="cpu",
            n_layers=2, hidden_size=8, mlp_size=32, max_positions=64, started_at=now(),
        )  # fmt: skip
        assert store.base.info() is None
        store.base.publish(info, {"tokenizer.json": b"{}"})
        reader = Store.open(store.root)
        published = reader.base.info()
        assert published is not None
        assert published.model_copy(update={"files": {}}) == info
        assert published.files == {"tokenizer.json": hashlib.sha256(b"{}").hexdigest()}
        assert reader.base.published("tokenizer.json").read_bytes() == b"{}"

    @pytest.mark.parametrize("name", ["../head.json", "/etc/passwd"])
    def test_file_names_do_not_lead_out_of_their_folder(self, store: Store, name: str) -> None:
        with pytest.raises(ValueError, match="leads out"):
            store.base.published(name)
        with pytest.raises(ValueError, match="leads out"):
            store.drafts.work_folder(name)
        with pytest.raises(ValueError, match="leads out"):
            store.reports.folder(name)


class TestTensors:
    def test_bytes_come_back_as_they_were(self, store: Store) -> None:
        ref = store.tensors.put("w", "BF16", [2, 3], bytes(range(12)))
        assert store.tensors.read(ref) == bytes(range(12))

    def test_a_stored_file_is_a_safetensors_file(self, store: Store) -> None:
        ref = store.tensors.put("w", "BF16", [2, 3], bytes(range(12)))
        data = store.tensors.path(ref.sha256).read_bytes()
        (found,) = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
        assert (found[0], found[1]["dtype"], found[1]["shape"]) == ("data", "BF16", [2, 3])
        assert bytes(found[1]["data"]) == bytes(range(12))

    def test_an_empty_tensor_and_a_scalar_are_tensors(self, store: Store) -> None:
        assert store.tensors.read(store.tensors.put("none", "F32", [0, 4], b"")) == b""
        assert store.tensors.read(store.tensors.put("one", "F64", [], b"8 bytes!")) == b"8 bytes!"

    def test_a_folder_s_name_is_made_durable_once(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[Path] = []
        monkeypatch.setattr(tensor_files, "fsync_folder", synced.append)
        ref = store.tensors.put("w", "U8", [1], b"a")
        store.tensors.path(ref.sha256).unlink()
        store.tensors.put("w", "U8", [1], b"a")
        folder = store.tensors.path(ref.sha256).parent
        assert synced == [folder, folder.parent, folder]

    def test_the_same_bytes_are_stored_once(self, store: Store) -> None:
        one = store.tensors.put("a", "F32", [2], b"01234567")
        inode = store.tensors.path(one.sha256).stat().st_ino
        two = store.tensors.put("b", "F16", [4], b"01234567")
        assert one.sha256 == two.sha256
        assert store.tensors.path(two.sha256).stat().st_ino == inode

    @pytest.mark.parametrize(("dtype", "shape"), [("F32", [3]), ("F7", [8])])
    def test_bytes_that_do_not_fit_shape_and_dtype_are_refused(
        self, store: Store, dtype: str, shape: list[int]
    ) -> None:
        with pytest.raises(ValueError, match="w:"):
            store.tensors.put("w", dtype, shape, b"01234567")

    def test_a_damaged_tensor_is_detected_and_named(self, store: Store) -> None:
        ref = store.tensors.put("h.3.mlp", "F32", [2], b"01234567")
        damage(store.tensors.path(ref.sha256))
        with pytest.raises(CorruptTensor, match=r"h\.3\.mlp"):
            store.tensors.read(ref)

    def test_a_cut_off_tensor_is_detected_and_replaced_when_put_again(self, store: Store) -> None:
        ref = store.tensors.put("w", "F32", [2], b"01234567")
        path = store.tensors.path(ref.sha256)
        path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(CorruptTensor):
            store.tensors.read(ref)
        store.tensors.put("w", "F32", [2], b"01234567")
        assert store.tensors.read(ref) == b"01234567"

    def test_a_damaged_tensor_of_the_right_size_is_replaced_when_put_again(
        self, store: Store
    ) -> None:
        ref = store.tensors.put("w", "F32", [2], b"01234567")
        damage(store.tensors.path(ref.sha256))
        store.tensors.put("w", "F32", [2], b"01234567")
        assert store.tensors.read(ref) == b"01234567"

    def test_a_header_that_is_no_header_is_a_corrupt_tensor(self, store: Store) -> None:
        ref = store.tensors.put("w", "F32", [2], b"01234567")
        store.tensors.path(ref.sha256).write_bytes(b"\xff" * 40)
        with pytest.raises(CorruptTensor):
            store.tensors.read(ref)

    def test_a_missing_tensor_is_named(self, store: Store) -> None:
        ref = TensorRef(name="h.3.mlp", dtype="F32", shape=[1], sha256="ab" * 32)
        with pytest.raises(MissingTensor, match=r"h\.3\.mlp"):
            store.tensors.read(ref)

    def test_several_tensors_stream_into_one_safetensors_file(
        self, store: Store, tmp_path: Path
    ) -> None:
        refs = [
            store.tensors.put("a", "F32", [2], b"01234567"),
            store.tensors.put("b", "F16", [2, 1], b"abcd"),
        ]
        chunks = [safetensors_header(refs, {"version": "v1"})]
        chunks += [chunk for ref in refs for chunk in store.tensors.chunks(ref)]
        path = tmp_path / "export.safetensors"
        path.write_bytes(b"".join(chunks))
        tensors = load_file(path)
        assert tensors["a"].tobytes() == b"01234567"
        assert (tensors["b"].tobytes(), tensors["b"].shape) == (b"abcd", (2, 1))
        with safetensors.safe_open(path, framework="numpy") as file:
            assert file.metadata() == {"version": "v1"}


class TestSweep:
    def test_staging_is_emptied(self, based: Store) -> None:
        (based.root / "staging" / "v1").mkdir()
        (based.root / "staging" / "v1" / "manifest.json").write_text("{")
        (based.root / "staging" / "ab.safetensors").write_text("half")
        assert sweep(based) == 2
        assert list((based.root / "staging").iterdir()) == []

    def test_what_a_kill_left_of_a_file_of_moments_goes_after_an_hour(self, based: Store) -> None:
        old = based.base.moments_folder / ".mlp.1.safetensors.77.partial"
        new = based.base.moments_folder / ".mlp.1.safetensors.78.partial"
        old.parent.mkdir(parents=True, exist_ok=True)
        for path in (old, new):
            path.write_bytes(b"half")
        os.utime(old, (0, 0))
        assert sweep(based) == 1
        assert (old.exists(), new.exists()) == (False, True), "another process may be at work"

    def test_only_tensors_that_a_version_names_are_kept(self, based: Store) -> None:
        kept = based.tensors.put("w", "F32", [1], b"kept")
        keys = based.tensors.put("keys.low.1", "F32", [1], b"keys")
        lost = based.tensors.put("w", "F32", [1], b"lost")
        version = add_version(based, tensors=[kept], artifacts=[keys])
        sweep(based)
        assert based.tensors.read(kept) == b"kept"
        assert based.tensors.read(keys) == b"keys"
        with pytest.raises(MissingTensor):
            based.tensors.read(lost)
        assert based.versions.read(version).tensors == [kept]

    @pytest.mark.parametrize(
        "folder", ["jobs", "versions/v0", "base/probes", "suites", "model", "keys"]
    )
    def test_what_another_process_is_just_writing_is_left_alone(
        self, based: Store, folder: str
    ) -> None:
        place = based.root / folder
        place.mkdir(exist_ok=True)
        young, old = (place / name for name in (".a.json.1.tmp", ".b.json.2.tmp"))
        young.touch()
        old.touch()
        os.utime(old, (0, 0))
        sweep(based)
        assert young.exists()
        assert not old.exists()

    def test_expired_keys_are_removed(self, store: Store) -> None:
        store.journal.claim_key("k", "body", "job_1")
        sweep(store)
        assert len(list((store.root / "idempotency").iterdir())) == 1
        time.sleep(0.02)
        sweep(Store.open(store.root, idempotency_hours=0.01 / 3600))
        assert list((store.root / "idempotency").iterdir()) == []
