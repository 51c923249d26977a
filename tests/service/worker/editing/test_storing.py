"""Tensors of an edit are stored while its version is measured, unless it may still be refused."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.service.edit_runner import MODEL, an_edit, edit_on, runner_on

from jeep_core.models.loading import LoadedModel, load
from service.contracts.schemas import Manifest, TensorRef
from service.store import Store
from service.store.tensors import Tensors
from service.worker.editing.guards import GuardFailed
from service.worker.editing.measured import Measured, Measurer
from service.worker.versions import tensors

WAIT_S = 60.0


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load(str(MODEL), device="cpu", dtype="float32")


class Watched:
    """Counts tensors that are stored, and how many there were when each version was measured."""

    def __init__(self, patch: pytest.MonkeyPatch, awaited: int) -> None:
        self.names: list[str] = []
        self.at_measuring: list[int] = []
        self._patch, self._enough, self._awaited = patch, threading.Event(), awaited
        put, measure = tensors.put, Measurer.measure

        def watched(store: Store, name: str, tensor: torch.Tensor) -> TensorRef:
            ref = put(store, name, tensor)
            self.names.append(name)
            if len(self.names) >= self._awaited:
                self._enough.set()
            return ref

        def measured(measurer: Measurer, *given: Any) -> Measured:
            found = measure(measurer, *given)
            if self.at_measuring and self._awaited:  # the new version
                assert self._enough.wait(WAIT_S)
            self.at_measuring.append(len(self.names))
            return found

        patch.setattr(tensors, "put", watched)
        patch.setattr(Measurer, "measure", measured)


def files(store: Store) -> set[str]:
    return {path.stem for path in (store.root / "tensors").glob("*/*")}


def named(manifest: Manifest) -> set[str]:
    return {ref.sha256 for ref in (*manifest.tensors, *manifest.artifacts)}


def test_they_are_stored_while_the_new_version_is_measured(
    base: LoadedModel, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_on(base, store, tmp_path)
    expected, view = edit_on(runner, an_edit(), "v0")
    count = len(expected.tensors) + len(expected.artifacts)
    watched = Watched(monkeypatch, count)
    manifest, _ = edit_on(runner_on(base, store, tmp_path), an_edit(number=2), "v0")
    assert watched.at_measuring == [0, count]
    assert sorted(watched.names) == sorted(
        ref.name for ref in (*manifest.tensors, *manifest.artifacts)
    )
    assert manifest.tensors == expected.tensors
    assert [ref.name for ref in manifest.artifacts] == [ref.name for ref in expected.artifacts]
    assert manifest.weights_sha256 == expected.weights_sha256 == view.weights_sha256()


@pytest.mark.parametrize("given", [{"guards": {"max_drift": 50.0}}, {"repair": True}])
def test_what_may_be_refused_or_made_again_is_stored_afterwards(
    base: LoadedModel,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
) -> None:
    watched = Watched(monkeypatch, 0)
    manifest, _ = edit_on(runner_on(base, store, tmp_path), an_edit(**given), "v0")
    assert set(watched.at_measuring) == {0}
    assert files(store) == named(manifest)


def test_an_edit_that_a_guard_refuses_stores_nothing(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    runner = runner_on(base, store, tmp_path)
    with pytest.raises(GuardFailed):
        edit_on(runner, an_edit(guards={"max_drift": 1e-9}), "v0")
    assert files(store) == set()


def test_a_full_disk_is_the_error_of_the_edit_and_no_version_is_written(
    base: LoadedModel, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> TensorRef:
        raise OSError(errno.ENOSPC, "no room")

    runner = runner_on(base, store, tmp_path)
    monkeypatch.setattr(tensors, "put", full)
    with pytest.raises(OSError, match="no room"):
        edit_on(runner, an_edit(), "v0")
    assert [version.id for version in store.versions.all()] == ["v0"]


def test_the_bytes_that_are_written_are_those_of_the_tensor(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of eight matrices at a time would be in memory beside what is measured."""
    places: list[int] = []
    put = Tensors.put

    def watched(kept: Tensors, name: str, dtype: str, shape: Any, data: Any) -> TensorRef:
        places.append(np.frombuffer(data, np.uint8).ctypes.data)
        return put(kept, name, dtype, shape, data)

    monkeypatch.setattr(Tensors, "put", watched)
    matrix = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(tensors.get(store, tensors.put(store, "matrix", matrix)), matrix)
    across = tensors.put(store, "across", matrix.T)
    assert torch.equal(tensors.get(store, across), matrix.T)
    assert places[0] == matrix.data_ptr()


def test_a_block_that_fails_waits_for_what_is_being_written_and_begins_nothing_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    written: list[str] = []

    def slow(_: Store, name: str, tensor: torch.Tensor) -> TensorRef:
        begun.set()
        assert go_on.wait(WAIT_S)
        written.append(name)
        return TensorRef(name=name, dtype="F32", shape=[1], sha256="0" * 64)

    monkeypatch.setattr(tensors, "put", slow)
    monkeypatch.setattr(tensors, "WRITERS", 1)
    group = {"a": torch.zeros(1), "b": torch.zeros(1)}
    threading.Timer(0.05, go_on.set).start()

    def failing() -> None:
        with tensors.putting(store, group):
            assert begun.wait(WAIT_S)
            raise RuntimeError("measuring failed")

    with pytest.raises(RuntimeError, match="measuring failed"):
        failing()
    assert written == ["a"]
