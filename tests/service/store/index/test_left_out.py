"""Tensors of versions that the index lacks, as they are built on a damaged one, are kept."""

from __future__ import annotations

import pytest
from support.service.builders import add_version, move

from service.store import Store
from service.store.maintenance.retention import drop_tensors
from service.store.versions import Thin


def test_tensors_are_kept_that_a_version_built_on_a_damaged_one_names(based: Store) -> None:
    """An index that was made after the damage does not know it."""
    shared = based.tensors.put("matrix", "U8", [3], b"abc")
    old = add_version(based, "v0", tensors=[shared])
    damaged = add_version(based, old, tensors=[shared])
    newest = add_version(based, damaged, tensors=[shared])
    move(based, newest, expected=based.head.read().version)
    (based.root / "versions" / damaged / "manifest.json").write_text("{}")
    remove(based)
    fresh = Store.open(based.root)
    assert [number for number, _ in fresh.catalogue.naming(shared.sha256)] == [int(old[1:])]
    assert [one.id for one in fresh.catalogue.beside()] == [newest]
    assert drop_tensors(fresh, fresh.versions.read(old), Thin(), newest=1) == 0
    assert fresh.tensors.has(shared)


def test_tensors_are_kept_where_the_index_is_made_again_meanwhile(
    based: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions built on one that was damaged since are in it no more."""
    shared = based.tensors.put("matrix", "U8", [3], b"abc")
    old = add_version(based, "v0", tensors=[shared])
    damaged = add_version(based, old)
    newest = add_version(based, damaged, tensors=[shared])
    move(based, newest, expected=based.head.read().version)
    fresh = Store.open(based.root)
    naming = fresh.catalogue.naming

    def made_again(sha256: str) -> object:
        monkeypatch.undo()
        (based.root / "versions" / damaged / "manifest.json").write_text("{}")
        remove(based)
        return naming(sha256)

    monkeypatch.setattr(fresh.catalogue, "naming", made_again)
    assert drop_tensors(fresh, fresh.versions.read(old), Thin(), newest=1) == 0
    assert fresh.tensors.has(shared)


def remove(store: Store) -> None:
    """Remove the index's file."""
    for path in (store.root / "index").glob("catalogue*"):
        path.unlink()
