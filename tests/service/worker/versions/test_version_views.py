"""Versions in memory: loaded once, side by side, verified."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from service.contracts.jobs import now
from service.contracts.schemas import Manifest
from service.store import CorruptTensor, Store, UnknownVersion
from service.store import tensors as stored
from service.worker.members.publishing import load_head, load_mended_head
from service.worker.versions import retention, tensors
from service.worker.versions.views import VersionViews


@pytest.fixture
def filled(tmp_path: Path, base: LoadedModel) -> Store:
    """A store with v0 and six versions that differ in one matrix each."""
    store = Store.open(tmp_path / "store")
    store.create_base(base.weights_sha256)
    for i in range(6):
        name = base.family.weight_name(i)
        view = ModelView(base, {name: base.model.get_parameter(name) * 2})
        refs = [tensors.put(store, name, view.parameter(name))]
        version = store.versions.new_id()
        store.versions.write(
            Manifest(
                id=version,
                parent="v0",
                tensors=refs,
                weights_sha256=view.weights_sha256(),
                created_at=now(),
            )
        )
    return store


def test_a_version_comes_back_bit_by_bit(filled: Store, base: LoadedModel) -> None:
    views = VersionViews(base, filled)
    for i in range(6):
        view = views.get(f"v{i + 1}")
        assert view.weights_sha256() == filled.versions.read(f"v{i + 1}").weights_sha256
        [(name, tensor)] = view.replaced.items()
        assert torch.equal(tensor, base.model.get_parameter(name) * 2)
        assert tensor.data_ptr() % 64 == 0


def test_a_slow_load_delays_no_other_version(
    filled: Store, base: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, began, go_on = VersionViews(base, filled), threading.Event(), threading.Event()
    load = VersionViews._load

    def slow(self: VersionViews, version: str) -> ModelView:
        if version == "v1":
            began.set()
            assert go_on.wait(30)
        return load(self, version)

    monkeypatch.setattr(VersionViews, "_load", slow)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(views.get, "v1")
        assert began.wait(30)
        try:
            assert views.get("v2").replaced
            assert views.loaded() == ["v2"]
            assert views.ready("v1") is None
        finally:
            go_on.set()
        assert loading.result(30) is views.ready("v1")


def test_a_version_is_loaded_once_for_all_who_want_it(
    filled: Store, base: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, loads, go_on = VersionViews(base, filled), list[str](), threading.Event()
    load = VersionViews._load

    def slow(self: VersionViews, version: str) -> ModelView:
        loads.append(version)
        assert go_on.wait(30)
        return load(self, version)

    monkeypatch.setattr(VersionViews, "_load", slow)
    with ThreadPoolExecutor(4) as pool:
        wanted = [pool.submit(views.get, "v1") for _ in range(4)]
        go_on.set()
        found = {id(one.result(30)) for one in wanted}
    assert len(found) == 1
    assert loads == ["v1"]


def test_the_least_recently_used_version_is_given_up(filled: Store, base: LoadedModel) -> None:
    views = VersionViews(base, filled, capacity=2)
    for version in ("v1", "v2", "v1", "v3"):
        views.get(version)
    assert views.loaded() == ["v1", "v3"]


def test_a_damaged_tensor_is_found_and_nothing_is_kept(filled: Store, base: LoadedModel) -> None:
    path = filled.tensors.path(filled.versions.read("v1").tensors[0].sha256)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    views = VersionViews(base, filled)
    with pytest.raises(CorruptTensor, match="damaged"):
        views.get("v1")
    path.write_bytes(whole[:-8])
    with pytest.raises(CorruptTensor):
        views.get("v1")
    assert views.damaged() == ["v1"]
    path.write_bytes(whole)
    assert views.get("v1").replaced
    assert views.damaged() == []


def test_an_unknown_version_is_an_error_every_time(filled: Store, base: LoadedModel) -> None:
    views = VersionViews(base, filled)
    for _ in range(2):
        with pytest.raises(UnknownVersion):
            views.get("v99")


def test_files_of_earlier_releases_are_read(filled: Store, base: LoadedModel) -> None:
    """Their data is aligned to eight bytes only; such a tensor is copied."""
    ref = filled.versions.read("v1").tensors[0]
    path = filled.tensors.path(ref.sha256)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    header = whole[8:start].rstrip()
    header += b" " * (8 - (8 + len(header)) % 64 % 8)
    header += b" " * (8 if (8 + len(header)) % 64 == 0 else 0)
    path.write_bytes(len(header).to_bytes(8, "little") + header + whole[start:])
    loaded = tensors.get(filled, ref)
    assert torch.equal(loaded, VersionViews(base, filled).get("v1").replaced[ref.name])
    assert loaded.data_ptr() % 64 == 0


def test_versions_of_many_edits_hold_no_file_open(filled: Store) -> None:
    cache = tensors.TensorCache(filled)
    refs = [tensors.put(filled, f"keys.{n}", torch.full((2, 3), float(n))) for n in range(40)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    read = [cache.get(ref) for ref in refs]
    assert [float(tensor[0, 0]) for tensor in read] == list(range(40))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_repaired_head_is_ready_without_a_restart(
    filled: Store, base: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.head.move("v1", expected="v0", job_id=None, fence=0, who="w", why="test")
    [ref] = filled.versions.read("v1").tensors
    path, views = filled.tensors.path(ref.sha256), VersionViews(base, filled)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    load_head(filled, views)
    assert views.damaged() == ["v1"]
    monkeypatch.setattr(retention, "EVERY_S", 0.0)
    monkeypatch.setattr(retention, "LOOK_S", 0.01)
    looks: list[int] = []

    def look() -> None:
        load_mended_head(filled, views)
        looks.append(len(views.damaged()))
        if len(looks) == 2:
            path.write_bytes(whole)
        if looks[-1] == 0:
            keeper.stop.set()

    keeper = retention.Keeper(base, filled, newest=9, look=look)
    thread = threading.Thread(target=keeper.run)
    thread.start()
    thread.join(30)
    assert looks == [1, 1, 0]
    assert views.ready("v1") is not None


def test_tensors_are_stored_together_as_one_by_one(store: Store) -> None:
    named = {f"u.{n}": torch.full((n, 3), float(n)) for n in (3, 1, 12, 2)}
    refs = tensors.put_all(store, named)
    assert [ref.name for ref in refs] == sorted(named)
    assert refs == [tensors.put(store, name, named[name]) for name in sorted(named)]
    assert all(torch.equal(tensors.get(store, ref), named[ref.name]) for ref in refs)


def test_a_file_that_cannot_be_stored_is_an_error_of_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, chunks: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(stored, "write_new", full)
    with pytest.raises(OSError, match="no space"):
        tensors.put_all(store, {"a": torch.ones(2), "b": torch.zeros(2)})


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64, torch.float32, torch.float16, torch.bfloat16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    ],
)  # fmt: skip
def test_an_editor_s_state_may_be_of_any_usual_type(store: Store, dtype: torch.dtype) -> None:
    for tensor in (
        torch.ones(2, 3).to(dtype),
        torch.ones(()).to(dtype),
        torch.ones(0, 3).to(dtype),
    ):
        found = tensors.get(store, tensors.put(store, "state.a", tensor))
        assert (found.dtype, found.shape) == (dtype, tensor.shape)
        assert torch.equal(found, tensor)


def test_a_type_that_no_version_keeps_is_named(store: Store) -> None:
    with pytest.raises(ValueError, match=r"^state\.a: .* torch\.complex64; give a float32 one"):
        tensors.put(store, "state.a", torch.ones(2, dtype=torch.complex64))


def test_the_same_bytes_may_be_two_tensors(store: Store) -> None:
    zeros = (torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32))
    refs = [tensors.put(store, "state.a", tensor) for tensor in zeros]
    assert len({ref.sha256 for ref in refs}) == 1
    other = tensors.put(store, "state.b", torch.ones(4))
    cache = tensors.TensorCache(store, limit=64)
    kept = cache.get(other)
    for _ in range(10):
        for ref, tensor in zip(refs, zeros, strict=True):
            found = cache.get(ref)
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    # four tensors of 16 bytes fit: none was evicted
    assert cache.get(other) is kept
