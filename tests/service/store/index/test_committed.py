"""The record of versions that were head, kept up with the reflog."""

from __future__ import annotations

import shutil

import pytest
from support.service.builders import add_version, move

from service.store import Store
from service.store.index.committed import is_committed
from service.store.index.places import Span


def test_an_index_that_is_made_again_meanwhile_knows_all_moves(
    based: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The depths read from the old one are not taken to be in the new one."""
    kept, left = add_version(based, "v0"), add_version(based, "v0")
    for head, to in (("v0", left), (left, kept)):
        move(based, to, expected=head)
        based.committed.covered(to)
    newest = add_version(based, kept)
    move(based, newest, expected=kept)
    spans = based.catalogue.spans

    def made_again(version: str) -> list[Span]:
        monkeypatch.undo()
        shutil.rmtree(based.root / "index")
        return spans(version)

    monkeypatch.setattr(based.catalogue, "spans", made_again)
    found = based.committed.covered(newest)
    assert Store.open(based.root).committed.covered(newest) == found
    place = based.catalogue.spans(left)[0]
    assert found[place.line] >= place.high


def test_a_damaged_version_hides_only_what_it_was_built_on(based: Store) -> None:
    """As when every manifest is read; as soon as it can be read all is known again."""
    first = add_version(based, "v0")
    damaged = add_version(based, first)
    newest = add_version(based, damaged)
    beside = add_version(based, "v0")
    for head, to in (("v0", beside), (beside, newest), (newest, "v0")):
        move(based, to, expected=head)
    path = based.root / "versions" / damaged / "manifest.json"
    whole = path.read_bytes()
    path.write_text("{}")
    store = Store.open(based.root)
    assert (is_known(store, first), is_known(store, beside)) == (False, True)
    assert store.head.committed() & {first, beside} == {beside}
    path.write_bytes(whole)
    assert is_known(store, first)


def is_known(store: Store, version: str) -> bool:
    covered = store.committed.covered("v0")
    place = store.catalogue.spans(version)[0]
    return is_committed(covered, place.line, place.high)
