"""API keys in the store: created, found by their token, revoked; secrets are not kept."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.contracts.jobs import now
from service.contracts.schemas.access import AuditEntry, Scope
from service.store import KeyNameTaken, Store, UnknownKey
from service.store.maintenance.backup import back_up, restore


def test_a_token_finds_its_key_and_no_other(store: Store) -> None:
    one, token = store.keys.create("one", [Scope.READ, Scope.EDIT])
    _, other = store.keys.create("two", [Scope.ADMIN])
    assert store.keys.find(token) == one
    assert one.scopes == [Scope.EDIT, Scope.READ]
    swapped = token[: -len(other.rpartition("_")[2])]
    for wrong in ("", token[:-1], token + "A", token.lower(), token.upper(), swapped, "jeep_",
                  token.replace("jeep_", "key_"), f"{token[:32]}{other[32:]}"):  # fmt: skip
        assert store.keys.find(wrong) is None


def test_what_is_stored_holds_no_secret(store: Store) -> None:
    key, token = store.keys.create("one", [Scope.READ])
    [path] = (store.root / "keys").iterdir()
    text = path.read_text()
    assert path.stem == key.id
    assert token[32:] not in text
    assert json.loads(text)["salt"]
    twin, _ = store.keys.create("two", [Scope.READ])
    assert (twin.salt, twin.digest) != (key.salt, key.digest)


def test_only_the_services_user_reads_keys_and_the_audit_log(store: Store, tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        store.keys.create("one", [Scope.READ])
        store.keys.create("two", [Scope.READ])
        store.keys.revoke("two")
        store.audit.append(AuditEntry(when=now(), who="k", action="a", target="t", status=200))
        assert modes(store.root) == {0o600}
        assert stat.S_IMODE((store.root / "keys").stat().st_mode) == 0o700
        for path in confidential(store.root):  # as older releases wrote them
            path.chmod(0o644)
        Store.open(store.root)
        assert modes(store.root) == {0o600}
        store.create_base("weights-0")
        back_up(store, tmp_path / "copy")
        assert modes(tmp_path / "copy" / "files") == {0o600}
        restore(tmp_path / "copy", tmp_path / "again")
        assert modes(tmp_path / "again") == {0o600}
    finally:
        os.umask(umask)


def confidential(root: Path) -> list[Path]:
    found = [root / "audit.jsonl", *(root / "keys").iterdir()]
    assert len(found) == 3
    return found


def modes(root: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in confidential(root)}


def test_a_revoked_key_opens_nothing_at_once_and_in_every_process(store: Store) -> None:
    key, token = store.keys.create("one", [Scope.READ])
    elsewhere = Store.open(store.root)
    assert elsewhere.keys.find(token) is not None
    revoked = store.keys.revoke("one")
    assert elsewhere.keys.find(token) is None
    assert store.keys.revoke(key.id).revoked_at == revoked.revoked_at
    assert [one.revoked_at is None for one in store.keys.all()] == [False]


def test_names_are_taken_while_their_key_is_in_use(store: Store) -> None:
    store.keys.create("one", [Scope.READ])
    with pytest.raises(KeyNameTaken):
        store.keys.create("one", [Scope.READ])
    store.keys.revoke("one")
    store.keys.create("one", [Scope.READ])
    with pytest.raises(UnknownKey):
        store.keys.revoke("two")


@pytest.mark.parametrize("name", ["", "-x", "a b", "../x", "é", "x" * 65, "x\n"])
def test_a_bad_name_makes_no_key(store: Store, name: str) -> None:
    with pytest.raises(ValidationError):
        store.keys.create(name, [Scope.READ])
    assert store.keys.all() == []


def test_a_key_without_scopes_is_refused(store: Store) -> None:
    with pytest.raises(ValidationError):
        store.keys.create("one", [])


def test_a_damaged_file_opens_nothing_and_hides_no_other_key(store: Store) -> None:
    key, token = store.keys.create("one", [Scope.READ])
    _, second = store.keys.create("two", [Scope.READ])
    (store.root / "keys" / f"{key.id}.json").write_text("{")
    assert store.keys.find(token) is None
    assert store.keys.find(second) is not None
    assert [one.name for one in store.keys.all()] == ["two"]


def test_a_key_is_found_by_its_id_until_it_is_revoked(store: Store) -> None:
    key, _ = store.keys.create("ana", [Scope.READ])
    assert store.keys.in_use(key.id) == key
    assert store.keys.in_use("key_none") is None
    store.keys.revoke("ana")
    assert store.keys.in_use(key.id) is None
