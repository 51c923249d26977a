"""Running sums of lines: the bytes of a sum over all updates, whatever is kept, lost or damaged."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from support.library.tiny import random_model
from support.service.thin_versions import LAYERS, add_chain, add_edit

from jeep_core.models.delta import materialise
from jeep_core.models.loading import LoadedModel, tensor_bytes
from jeep_core.models.views import ModelView
from service.contracts.schemas import Manifest, TensorRef
from service.store import CorruptTensor, Store
from service.store.index.line import Line
from service.store.index.sums import KEPT, Running, Summed, Sums
from service.store.tensors import Tensors
from service.worker.versions import rebuild
from service.worker.versions.retention import Keeper
from service.worker.versions.sums import LineSums, matrix_of, sums_of
from service.worker.versions.views import VersionViews

BLOCK = 4


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return random_model("gptj")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "jeep_core.models.delta.BLOCK",
        "service.worker.versions.sums.BLOCK",
        "service.worker.versions.sums.EVERY",
        "service.worker.versions.sums.AT_ONCE",
    ):
        monkeypatch.setattr(name, BLOCK)


def names(base: LoadedModel) -> list[str]:
    return [base.family.weight_name(layer) for layer in LAYERS]


def matrices(base: LoadedModel, sums: LineSums) -> dict[str, bytes]:
    found = {}
    for name in sums.names:
        one = sums.of(name)
        assert one is not None
        matrix, transposed = matrix_of(base, name)
        found[name] = tensor_bytes(materialise(matrix, one.updates, transposed, one.start))
    return found


def index_of(store: Store) -> dict[Path, bytes]:
    found = (store.root / "index").rglob("*")
    return {path: path.read_bytes() for path in found if path.is_file()}


def plainly(base: LoadedModel, store: Store, version: str) -> dict[str, bytes]:
    """From all updates of all versions, and equal to what the version has."""
    sums = sums_of(base, Store.open(store.root), version)
    found = {}
    for name in sums.names:
        matrix, transposed = matrix_of(base, name)
        whole = materialise(matrix, list(sums.every_update(name)), transposed)
        found[name] = tensor_bytes(whole)
    loaded = rebuild.load(base, store, store.versions.read(version))
    assert found == {name: tensor_bytes(tensor) for name, tensor in loaded.items()}
    return found


def agrees(base: LoadedModel, store: Store) -> None:
    for number in store.versions.numbers():
        version = f"v{number}"
        assert matrices(base, sums_of(base, store, version)) == plainly(base, store, version)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The versions whose manifests were read by a line."""
    found: list[str] = []
    back = Line.__reversed__

    def counted(line: Line) -> Iterator[Manifest]:
        for manifest in back(line):
            found.append(manifest.id)
            yield manifest

    monkeypatch.setattr(Line, "__reversed__", counted)
    return found


def files(store: Store) -> list[Path]:
    return sorted(p for p in (store.root / "index" / "sums").rglob("*") if p.is_file())


@pytest.mark.parametrize("seed", range(2))
def test_sums_of_a_tree_are_those_of_all_updates(
    base: LoadedModel, store: Store, seed: int
) -> None:
    """Branches, rollbacks, and a worker that is killed between them."""
    add_chain(base, store, 1)
    rng = random.Random(seed)
    for _ in range(16):
        add_edit(base, store)
        head = store.head.read().version
        sums_of(base, store, head)
        if rng.random() < 0.3:
            to = f"v{rng.choice(sorted(store.versions.numbers()))}"
            store.head.move(to, expected=head, job_id=None, fence=1, who="t", why="rollback")
        if rng.random() < 0.2:
            store = Store.open(store.root)
    agrees(base, store)
    agrees(base, Store.open(store.root))


@pytest.mark.parametrize("family", ["gptj", "gpt2"])
def test_views_thin_versions_and_edits_have_the_same_bytes(store: Store, family: str) -> None:
    base = random_model(family)
    add_chain(base, store, 11)
    before = {number: plainly(base, store, f"v{number}") for number in store.versions.numbers()}
    done = Keeper(base, store, newest=1).collect()
    assert len(done.dropped) == 10
    fresh = Store.open(store.root)
    views = VersionViews(base, fresh)
    for number, wanted in before.items():
        version = f"v{number}"
        view = views.editing(Line(fresh, version))
        assert {n: tensor_bytes(t) for n, t in view.replaced.items()} == wanted
        # once more what the last update of the version was: the same sum, written by the view
        for name in names(base):
            if number and view.history[name]:
                [*earlier, last] = view.history[name]
                made = ModelView(base, None, {name: earlier}, view.starts)
                made.fork().update(name, last)
                made.update(name, last)
                assert tensor_bytes(made.replaced[name]) == wanted[name]


def test_only_what_is_new_is_read(base: LoadedModel, store: Store, reads: list[str]) -> None:
    add_chain(base, store, 9)
    sums_of(base, store, "v9")
    assert reads == [f"v{number}" for number in range(9, -1, -1)]
    reads.clear()
    add_edit(base, store)
    sums_of(base, store, "v10")
    assert reads == ["v10", "v9"]
    reads.clear()
    fresh = Store.open(store.root)
    sums = sums_of(base, fresh, "v10")
    assert reads == ["v10", "v9"], "v9 has a file"
    for name in names(base):
        one = sums.of(name)
        assert one is not None
        assert len(one.updates) == 2
        assert one.start is not None


def test_a_matrix_that_is_edited_no_more_needs_no_old_version(
    base: LoadedModel, store: Store, reads: list[str]
) -> None:
    add_chain(base, store, 2)
    parent = store.versions.read("v2")
    for number in range(3, 12):  # versions that change nothing
        one = {"id": f"v{number}", "parent": f"v{number - 1}", "artifacts": []}
        store.versions.write(parent.model_copy(update=one))
        sums_of(base, store, f"v{number}")
    reads.clear()
    sums = sums_of(base, Store.open(store.root), "v11")
    assert set(reads) <= {"v11", "v10", "v9"}
    assert matrices(base, sums) == plainly(base, store, "v2")


def test_drafts_on_top_of_a_version(base: LoadedModel, store: Store) -> None:
    add_chain(base, store, 8)
    draft = store.versions.read("v8").model_copy(update={"id": "v20", "parent": "v4"})
    line = Line(store, "v4", [draft])
    assert [one.id for one in line] == ["v0", "v1", "v2", "v3", "v4", "v20"]
    found = matrices(base, LineSums(base, store, line))
    fresh = Store.open(store.root)
    whole = LineSums(base, fresh, list(line))
    for name in names(base):
        matrix, transposed = matrix_of(base, name)
        wanted = materialise(matrix, list(whole.every_update(name)), transposed)
        assert found[name] == tensor_bytes(wanted)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [cut, flip, gone])
@pytest.mark.parametrize("kind", [".json", ".safetensors"])
def test_a_damaged_file_is_made_again(
    base: LoadedModel, store: Store, damage: Callable[[Path], None], kind: str
) -> None:
    add_chain(base, store, 9)
    sums_of(base, store, "v9")
    damaged = [path for path in files(store) if path.suffix == kind]
    assert damaged
    for path in damaged:
        damage(path)
    fresh = Store.open(store.root)
    assert matrices(base, sums_of(base, fresh, "v9")) == plainly(base, store, "v9")
    again = Store.open(store.root)
    assert again.sums.find(again.versions.read("v9")) is not None


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.EIO])
def test_a_sum_that_cannot_be_mapped_now_is_kept(
    base: LoadedModel, store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What a disk cannot read any more is made again."""
    add_chain(base, store, 9)
    sums_of(base, store, "v9")
    before, fresh, full = set(files(store)), Store.open(store.root), Tensors.map
    left = [OSError(number, os.strerror(number))]

    def hindered(tensors: Tensors, ref: TensorRef) -> memoryview:
        if "sums" in tensors.path(ref.sha256).parts and left:
            raise left.pop()
        return full(tensors, ref)

    monkeypatch.setattr(Tensors, "map", hindered)
    if number == errno.EIO:
        assert matrices(base, sums_of(base, fresh, "v9")) == plainly(base, store, "v9")
        assert left == []
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            matrices(base, sums_of(base, fresh, "v9"))
    assert set(files(store)) >= before


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every look at a kept sum; far too many end the test."""
    found, total = list[str](), Sums.total

    def counted(sums: Sums, ref: TensorRef) -> memoryview:
        found.append(ref.name)
        if len(found) > 99:
            pytest.fail("it is made again for ever")
        return total(sums, ref)

    monkeypatch.setattr(Sums, "total", counted)
    return found


def test_a_damaged_file_that_cannot_be_removed_is_passed_over(
    base: LoadedModel, store: Store, monkeypatch: pytest.MonkeyPatch, looks: list[str]
) -> None:
    """As on a disk that has become read-only, which is what a damaged one does."""
    add_chain(base, store, 9)
    sums_of(base, store, "v9")

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for path in files(store):
        if path.suffix == ".safetensors":
            flip(path)
    with monkeypatch.context() as disk:
        disk.setattr(Path, "unlink", read_only)
        disk.setattr(Sums, "put", read_only)
        disk.setattr(Sums, "save", read_only)
        found = matrices(base, sums_of(base, Store.open(store.root), "v9"))
    assert found == plainly(base, store, "v9")


def test_a_disk_that_damages_every_sum_is_not_written_to_for_ever(
    base: LoadedModel, store: Store, monkeypatch: pytest.MonkeyPatch, looks: list[str]
) -> None:
    add_chain(base, store, 9)
    put = Tensors.put

    def damaging(tensors: Tensors, *given: Any) -> TensorRef:
        ref = put(tensors, *given)
        flip(tensors.path(ref.sha256))
        return ref

    monkeypatch.setattr(Tensors, "put", damaging)
    with pytest.raises(CorruptTensor, match="damaged"):
        matrices(base, sums_of(base, Store.open(store.root), "v9"))
    assert len(looks) < 99


def test_few_files_are_kept_and_others_swept(base: LoadedModel, store: Store) -> None:
    add_chain(base, store, 1)
    for _ in range(12):
        sums_of(base, store, add_edit(base, store))
    states = [path for path in files(store) if path.suffix == ".json"]
    assert len(states) == KEPT
    stray = store.root / "index" / "sums" / "staging" / "half"
    stray.write_bytes(b"half of a sum")
    before = files(store)
    assert Store.open(store.root).sums.tidy() == 1
    assert files(store) == [path for path in before if path != stray]


def test_a_sum_is_kept_until_its_state_is_saved_whoever_saves_others(
    base: LoadedModel, store: Store
) -> None:
    """An edit and a round of retention write states at the same time."""
    add_chain(base, store, 1)
    sums, other = store.sums, Running(version="v7", weights_sha256="other")
    with sums.adding(other):
        total = sums.put("matrix", [2], bytes(16))
        with ThreadPoolExecutor(1) as threads:
            threads.submit(sums.save, other).result()
        state = Running(version="v8", weights_sha256="", matrices={"matrix": Summed(total=total)})
        sums.save(state)
    version = store.versions.read("v1").model_copy(update={"id": "v8", "weights_sha256": ""})
    assert Sums(store.root).find(version) == state
    abandoned = sums.put("matrix", [2], bytes(range(16)))
    assert sums.tidy() == 1
    assert not store.sums._tensors.has(abandoned)


def test_a_sum_whose_file_is_removed_takes_no_room_any_more(store: Store) -> None:
    sums = store.sums
    sums.total(sums.put("matrix", [2], bytes(16)))
    assert len(sums._mapped) == 1
    sums.tidy()
    assert not sums._mapped


def test_rebuilding_many_versions_does_not_push_out_what_is_edited_on(
    base: LoadedModel, store: Store, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.index.sums.REMEMBERED", 3)
    add_chain(base, store, 16)
    sums_of(base, store, "v16")
    Keeper(base, store, newest=1).collect()
    for again in (store, Store.open(store.root)):
        reads.clear()
        sums_of(base, again, "v16")
        assert reads == ["v16"]


def test_without_room_nothing_is_kept_and_the_sums_are_right(
    base: LoadedModel,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("service.store.index.sums.SPARE_BYTES", 2**62)
    add_chain(base, store, 8)
    assert matrices(base, sums_of(base, store, "v8")) == plainly(base, store, "v8")
    assert "are not kept" in caplog.text
    assert not [path for path in files(store) if path.suffix == ".safetensors"]


def test_a_draft_whose_number_was_given_again_is_not_taken_for_it(
    base: LoadedModel, store: Store
) -> None:
    add_chain(base, store, 3)
    found = store.versions.read("v3")
    other = found.model_copy(update={"weights_sha256": "0" * 64})
    sums_of(base, store, "v3")
    assert store.sums.find(found) is not None
    assert store.sums.find(other) is None


class TestLinesOfEarlierReleases:
    """They summed all updates at once: the last bits of longer lines may be others."""

    @pytest.fixture(params=[torch.float64, torch.float32])
    def old(
        self, request: pytest.FixtureRequest, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[LoadedModel, Store]:
        base = random_model("gptj", request.param)
        with monkeypatch.context() as patch:
            patch.setattr("jeep_core.models.delta.BLOCK", 10**9)
            add_chain(base, store, 9)
        return base, store

    def test_they_are_rebuilt(self, old: tuple[LoadedModel, Store]) -> None:
        base, store = old
        newest = store.versions.read("v9")
        loaded = rebuild.load(base, store, newest)
        before = {name: tensor_bytes(tensor) for name, tensor in loaded.items()}
        if base.dtype is torch.float64:  # it keeps every bit
            assert matrices(base, sums_of(base, store, "v9")) != before
        rebuild.matched(base, store, newest)
        for ref in newest.tensors:
            store.tensors.path(ref.sha256).unlink()
        again = rebuild.load(base, Store.open(store.root), newest)
        assert {name: tensor_bytes(tensor) for name, tensor in again.items()} == before

    # in float64 all elements are near ties, and nothing is dropped
    @pytest.mark.parametrize("old", [torch.float32], indirect=True)
    def test_they_are_dropped_and_edited_on(self, old: tuple[LoadedModel, Store]) -> None:
        base, store = old
        version = add_edit(base, store)
        plainly(base, store, version)
        add_edit(base, store)
        dropped = Keeper(base, store, newest=1).collect().dropped
        assert list(dropped) == [f"v{number}" for number in range(1, 11)]
        views = VersionViews(base, Store.open(store.root))
        for one in dropped:
            assert views.get(one).weights_sha256() == store.versions.read(one).weights_sha256

    def test_another_hash_is_still_damage(self, base: LoadedModel, store: Store) -> None:
        add_chain(base, store, 9)
        manifest = store.versions.read("v9")
        [first, *others] = manifest.tensors
        wrong = manifest.model_copy(
            update={"tensors": [first.model_copy(update={"sha256": "0" * 64}), *others]}
        )
        with pytest.raises(CorruptTensor, match="has another hash"):
            rebuild.matched(base, store, wrong)


def test_a_follower_writes_no_sums_and_passes_over_damaged_ones(
    base: LoadedModel, store: Store
) -> None:
    add_chain(base, store, 9)
    wanted = plainly(base, store, "v9")
    fresh = Store.open(store.root, following=True)
    for path in (store.root / "index").rglob("*.json"):
        path.unlink()
    without = index_of(store)
    assert matrices(base, sums_of(base, fresh, "v9")) == wanted
    assert index_of(store) == without, "there were none, and there are none"
    sums_of(base, Store.open(store.root), "v9")
    for path in (store.root / "index").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
    damaged = index_of(store)
    assert matrices(base, sums_of(base, Store.open(store.root, following=True), "v9")) == wanted
    assert index_of(store) == damaged
