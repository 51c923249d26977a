"""Targets in the store: records, states, artefacts, backups and verification."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.service.builders import add_version

from service.contracts.schemas.targets import Held, NewTarget, TargetKind, TargetState
from service.store import Store
from service.store.maintenance.backup import back_up, restore
from service.store.maintenance.usage import usage
from service.store.maintenance.verify import verify
from service.store.targets.records import (
    ServerTaken,
    TargetNameTaken,
    TooManyTargets,
    UnknownTarget,
)

WANTED = NewTarget(name="smol", kind=TargetKind.VLLM, address="http://127.0.0.1:8001")
HELD = Held(name="smol@v1", version="v1", artefact="v1-0123456789ab.peft")


@pytest.fixture
def made(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "store")
    store.bind_model("hash")
    store.create_base("f" * 64)
    return store


def test_a_name_belongs_to_one_target_until_it_is_removed(made: Store) -> None:
    first = made.targets.add(WANTED, 2)
    with pytest.raises(TargetNameTaken):
        made.targets.add(WANTED, 2)
    with pytest.raises(UnknownTarget, match=r"'smoll'; did you mean 'smol'\?"):
        made.targets.get("smoll")
    made.targets.remove("smol")
    with pytest.raises(UnknownTarget, match=r"'smoll'$"):
        made.targets.get("smoll")
    with pytest.raises(UnknownTarget):
        made.targets.get(first.id)
    second = made.targets.add(WANTED, 1)
    assert [one.id for one in made.targets.with_removed()] == [first.id, second.id]
    with pytest.raises(TooManyTargets, match="JEEP_MAX_TARGETS"):
        made.targets.add(WANTED.model_copy(update={"name": "b"}), 1)


SAME = "http://127.0.0.1:80"


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        (("sglang", SAME, None), ("sglang", "http://LOCALHOST/", None), True),
        (("sglang", SAME, None), ("sglang", "https://[::1]:80", None), True),
        (("sglang", SAME, None), ("sglang", "http://127.0.0.1:81", None), False),
        (("sglang", SAME, None), ("sglang", "http://127.0.0.1/a", None), False),
        (("sglang", SAME, None), ("vllm", SAME, None), False),
        (("llama.cpp", SAME, None), ("llama.cpp", "http://localhost", None), True),
        (("llama.cpp", SAME, None), ("llama.cpp", "http://127.0.0.1:81", None), False),
        (("vllm", SAME, "now"), ("vllm", "http://localhost", "now"), True),
        (("vllm", SAME, "now"), ("vllm", "http://127.0.0.2", "now"), False),
        (("vllm", SAME, "now"), ("vllm", SAME, "then"), False),
        (("vllm", SAME, None), ("vllm", SAME, None), False),
    ],
)
def test_two_targets_on_one_server(
    first: tuple[str, str, str | None],
    second: tuple[str, str, str | None],
    taken: bool,
    made: Store,
) -> None:
    def wanted(name: str, given: tuple[str, str, str | None]) -> NewTarget:
        kind, address, alias = given
        return NewTarget(name=name, kind=TargetKind(kind), address=address, alias=alias)

    made.targets.add(wanted("first", first), 4)
    if not taken:
        made.targets.add(wanted("second", second), 4)
        return
    with pytest.raises(ServerTaken, match="'first'"):
        made.targets.add(wanted("second", second), 4)
    made.targets.remove("first")
    made.targets.add(wanted("second", second), 4)


def test_a_damaged_state_is_nothing_and_a_damaged_record_is_left_out(made: Store) -> None:
    record = made.targets.add(WANTED, 2)
    made.targets.set_state(record.id, TargetState(version="v1", held=[HELD]))
    assert not made.targets.damaged()
    (made.root / "targets" / f"{record.id}.state").write_text('{"version"')
    found = made.targets.state(record.id)
    assert found == TargetState(held_unknown=True)
    assert made.targets.damaged()
    [finding] = verify(made).findings
    assert (finding.path, "asks the server" in finding.advice) == (
        f"targets/{record.id}.state", True,
    )  # fmt: skip
    # written again, though what it holds is still unknown
    made.targets.set_state(record.id, found)
    assert (made.targets.damaged(), verify(made).findings) == (True, [])
    (made.root / "targets" / f"{record.id}.state").write_text('{"version"')
    (made.root / "targets" / f"{record.id}.json").write_text("{}")
    assert made.targets.all() == []
    assert len(verify(made).findings) == 2


def test_an_artefact_is_whole_or_absent_and_its_name_has_the_hash_of_the_weights(
    made: Store,
) -> None:
    manifest = made.versions.read(add_version(made, weights_sha256="ab" * 32))
    name = made.artefacts.name(manifest, "peft")
    assert name == "v1-abababababab.peft"

    def broken(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        made.artefacts.put(name, broken)
    assert list(made.artefacts.folder.iterdir()) == []
    path = made.artefacts.put(name, lambda folder: (folder / "a").write_text("whole"))
    assert made.artefacts.put(name, broken) == path, "it is there already"
    assert (path / "a").read_text() == "whole"
    assert made.artefacts.sweep({name}) == []
    assert made.artefacts.sweep(()) == [name]
    assert list(made.artefacts.folder.iterdir()) == []


def test_a_copy_of_a_store_pushes_to_nobody(made: Store, tmp_path: Path) -> None:
    record = made.targets.add(WANTED, 2)
    made.targets.set_state(record.id, TargetState(version="v0", held=[HELD]))
    made.artefacts.put(HELD.artefact, lambda folder: (folder / "a").write_text("x"))
    assert usage(made)["targets and what they read"].files == 3
    back_up(made, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "copy")
    assert Store.open(tmp_path / "copy").targets.with_removed() == []
