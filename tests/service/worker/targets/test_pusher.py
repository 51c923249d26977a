"""The pusher: every target follows by itself; errors are tried again, and nothing else suffers."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.service.outward.played_targets import PlayedVllm, refused
from support.service.outward.pushes import artefacts, edit, roll_back, until

from jeep_core.models.loading import LoadedModel
from service.contracts.schemas.targets import NewTarget, TargetKind, TargetRecord
from service.settings import Settings
from service.store import Store
from service.store.targets.status import target_status
from service.worker.targets import pusher as module
from service.worker.targets import sync, workshop
from service.worker.targets.connection import TargetFailed
from service.worker.targets.pusher import Care, Pusher
from service.worker.targets.workshop import Workshop


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    monkeypatch.setattr(module, "EVERY_S", 0.1)
    monkeypatch.setattr(module, "LONGEST_S", 0.2)
    monkeypatch.setattr(sync, "GRACE_S", 0.3)


@pytest.fixture
def pusher(store: Store, settings: Settings, shop: Workshop) -> Iterator[Pusher]:
    made = Pusher(store, settings, shop)
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.stop.set()
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def is_at(store: Store, target: TargetRecord) -> Callable[[str], bool]:
    def at(version: str) -> bool:
        shown = target_status(store, target)
        return (shown.status, shown.version) == ("synced", version)

    return at


def codes(store: Store) -> list[str | None]:
    return [entry.code for _, entry in store.audit.entries()]


def test_it_follows_edits_and_rollbacks(
    pusher: Pusher, vllm: PlayedVllm, store: Store, tiny: LoadedModel, is_at: Callable[[str], bool]
) -> None:
    until(lambda: is_at("v1"), "v1 is there")
    edit(tiny, store)
    until(lambda: is_at("v2"), "v2 is there")
    until(lambda: vllm.loaded.keys() == {"smol@v2"}, "v1 is unloaded")
    until(lambda: artefacts(store) == ["v2.peft"], "its artefact is removed")
    roll_back(store, "v0")
    until(lambda: is_at("v0"), "the base model is there")
    until(lambda: vllm.loaded == {} and artefacts(store) == [], "nothing is left")
    entries = [(e.who, e.action, e.target, e.version) for _, e in store.audit.entries()]
    pushed = [("worker", "push_target", "smol", version) for version in ("v0", "v2", "v1")]
    assert entries == pushed


def test_a_server_that_is_away_is_tried_again_and_told_of_once(
    pusher: Pusher, vllm: PlayedVllm, store: Store, target: TargetRecord, tiny: LoadedModel,
    is_at: Callable[[str], bool],
) -> None:  # fmt: skip
    until(lambda: is_at("v1"), "v1 is there")
    vllm.stop()
    edit(tiny, store)
    until(lambda: (e := target_status(store, target).error) is not None and e.tries >= 3, "tries")
    shown = target_status(store, target)
    assert (shown.status, shown.version, shown.lag.versions) == ("failed", "v1", 1)
    assert shown.error is not None
    assert shown.error.code == "away"
    vllm.forget()
    vllm.start()
    until(lambda: is_at("v2"), "it has caught up")
    assert target_status(store, target).error is None
    # the log is written after what the target is at
    until(lambda: codes(store) == [None, "away", None], "both pushes and one error are told of")


def test_a_server_that_lost_its_adapters_is_seen_without_any_move_of_head(
    pusher: Pusher, vllm: PlayedVllm, is_at: Callable[[str], bool]
) -> None:
    until(lambda: is_at("v1"), "v1 is there")
    vllm.forget()
    until(lambda: vllm.loaded.keys() == {"smol@v1"}, "it is loaded again")


def test_a_slow_server_delays_no_other_target(
    pusher: Pusher, vllm: PlayedVllm, store: Store, tiny: LoadedModel
) -> None:
    slow = PlayedVllm(tiny)
    slow.delay_s = 3.0
    slow.start()
    try:
        wanted = NewTarget(name="slow", kind=TargetKind.VLLM, address=slow.url)
        store.targets.add(wanted, 16)
        until(lambda: len(slow.asked) > 0, "the slow one is asked")
        fast = NewTarget(name="fast", kind=TargetKind.VLLM, address=vllm.url)
        added = store.targets.add(fast, 16)
        until(lambda: target_status(store, added).status == "synced", "the other is synced", 2.9)
    finally:
        pusher.stop.set()
        slow.stop()


def test_targets_that_hang_are_waited_for_together_at_the_end(
    store: Store, settings: Settings, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: sum(waits)))
    pusher = Pusher(store, settings, shop)
    hanging: Any = SimpleNamespace(join=waits.append)
    for name in "abc":
        pusher._cares[name] = Care(basis=cast(Any, None), sync=cast(Any, None), thread=hanging)
    pusher.stop.set()
    pusher.run()
    assert waits == [module.JOIN_S, 0.0, 0.0]


def test_what_is_not_wanted_any_more_is_removed_after_a_failure_too(
    pusher: Pusher, vllm: PlayedVllm, store: Store, tiny: LoadedModel, is_at: Callable[[str], bool]
) -> None:
    """A server that takes nothing keeps no artefact of what head was before."""
    until(lambda: is_at("v1"), "v1 is there")
    vllm.max_rank = 1
    edit(tiny, store)
    until(lambda: "v2.peft" in artefacts(store), "v2 is written")
    edit(tiny, store)
    until(lambda: "v3.peft" in artefacts(store), "v3 is written")
    until(lambda: "v2.peft" not in artefacts(store), "v2 is removed")
    assert "v1.peft" in artefacts(store), "which the server has"


def test_an_error_that_lasts_waits_longer_unless_somebody_asks(
    pusher: Pusher, vllm: PlayedVllm, store: Store, target: TargetRecord,
    is_at: Callable[[str], bool],
) -> None:  # fmt: skip
    vllm.max_rank = 1
    until(lambda: target_status(store, target).error is not None, "it is refused")
    error = target_status(store, target).error
    assert error is not None
    assert (error.next_at - error.since).total_seconds() == pytest.approx(30)
    vllm.max_rank = 64
    asked = len(vllm.asked)
    time.sleep(0.5)
    assert len(vllm.asked) == asked
    store.targets.ask("smol")
    until(lambda: is_at("v1"), "it was tried again")


def test_a_look_that_was_asked_for_is_recorded_though_nothing_has_changed(
    pusher: Pusher, store: Store, target: TargetRecord, is_at: Callable[[str], bool]
) -> None:
    until(lambda: is_at("v1"), "v1 is there")
    time.sleep(0.3)
    before = target_status(store, target).looked_at
    store.targets.ask("smol")
    until(lambda: target_status(store, target).looked_at != before, "the look is recorded")


def test_new_settings_are_tried_at_once(
    pusher: Pusher, store: Store, target: TargetRecord, is_at: Callable[[str], bool]
) -> None:
    until(lambda: is_at("v1"), "v1 is there")
    store.targets.follow("smol", "base")
    until(lambda: target_status(store, target).version == "v0", "it follows something else")


def test_what_is_removed_is_unloaded_there(
    pusher: Pusher, vllm: PlayedVllm, store: Store, is_at: Callable[[str], bool]
) -> None:
    until(lambda: is_at("v1"), "v1 is there")
    store.targets.remove("smol")
    until(lambda: store.targets.with_removed() == [], "it is forgotten")
    assert vllm.loaded == {}
    until(lambda: artefacts(store) == [], "its artefacts are removed")


def test_what_was_removed_is_forgotten_though_its_server_is_gone(
    pusher: Pusher, vllm: PlayedVllm, store: Store, is_at: Callable[[str], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    until(lambda: is_at("v1"), "v1 is there")
    monkeypatch.setattr(module, "PATIENCE_S", 0.3)
    vllm.stop()
    store.targets.remove("smol")
    until(lambda: store.targets.with_removed() == [], "it is forgotten")


def test_artefacts_of_a_killed_worker_are_removed_but_not_what_a_server_may_read(
    store: Store, settings: Settings, shop: Workshop, target: TargetRecord, vllm: PlayedVllm
) -> None:
    first = Pusher(store, settings, shop)
    first.look()
    until(lambda: target_status(store, target).status == "synced", "v1 is there")
    for name in (".v9-0123456789ab.peft.ff.tmp", "v8-0123456789ab.peft"):
        (store.artefacts.folder / name).mkdir()
    vllm.stop()
    Pusher(store, settings, shop).look()
    assert artefacts(store) == ["v1.peft"]


def test_no_artefact_is_removed_while_a_record_cannot_be_read(
    store: Store, settings: Settings, shop: Workshop, target: TargetRecord, vllm: PlayedVllm
) -> None:
    first = Pusher(store, settings, shop)
    first.look()
    until(lambda: target_status(store, target).status == "synced", "v1 is there")
    vllm.stop()
    (store.root / "targets" / f"{target.id}.state").write_text("{")
    Pusher(store, settings, shop).look()
    until(lambda: target_status(store, target).error is not None, "the server is away")
    # that has been recorded, so the record can be read now, but what the server has is unknown yet
    Pusher(store, settings, shop).look()
    assert artefacts(store) == ["v1.peft"]


def test_a_disk_that_is_full_in_the_middle_leaves_nothing_half_written(
    store: Store, settings: Settings, shop: Workshop, target: TargetRecord, vllm: PlayedVllm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def full(folder: Path, *args: object, **more: object) -> None:
        (folder / "adapter_model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workshop, "write_adapter", full)
    Pusher(store, settings, shop).look()
    until(lambda: target_status(store, target).error is not None, "it is recorded")
    error = target_status(store, target).error
    assert error is not None
    assert error.code == "disk_full"
    assert artefacts(store) == []
    assert vllm.paths().count("/v1/load_lora_adapter") == 0
    assert store.head.read().version == "v1"


def test_a_damaged_artefact_is_written_again_before_it_is_loaded(
    store: Store, settings: Settings, shop: Workshop, target: TargetRecord, vllm: PlayedVllm
) -> None:
    made = Pusher(store, settings, shop)
    made.look()
    until(lambda: target_status(store, target).status == "synced", "v1 is there")
    [path] = store.artefacts.folder.glob("*/adapter_model.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + b"\xff\xff\xff\x7f")
    vllm.forget()
    store.targets.ask("smol")

    def loaded() -> bool:
        made.look()
        return vllm.loaded != {}

    until(loaded, "it is loaded again")
    assert path.read_bytes() == whole


def test_a_worker_that_was_replaced_pushes_nothing(
    store: Store, settings: Settings, shop: Workshop, target: TargetRecord, vllm: PlayedVllm
) -> None:
    made = Pusher(store, settings, shop, lost=lambda: True)
    made.look()
    time.sleep(0.2)
    assert vllm.asked == []


def test_an_unforeseen_error_is_one_of_the_target(
    pusher: Pusher, vllm: PlayedVllm, store: Store, target: TargetRecord,
    is_at: Callable[[str], bool], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    until(lambda: is_at("v1"), "v1 is there")
    monkeypatch.setattr(sync.Sync, "run", lambda self, asked: 1 / 0)
    until(lambda: target_status(store, target).error is not None, "it is recorded")
    error = target_status(store, target).error
    assert error is not None
    assert (error.code, error.message) == (
        "internal_error", "ZeroDivisionError: division by zero",
    )  # fmt: skip


def test_a_busy_server_is_tried_again(
    vllm: PlayedVllm, pusher: Pusher, store: Store, target: TargetRecord,
    is_at: Callable[[str], bool],
) -> None:  # fmt: skip
    vllm.broken = refused(503, "loading")
    until(lambda: target_status(store, target).error is not None, "it is busy")
    error = target_status(store, target).error
    assert error is not None
    assert error.code == "busy"
    vllm.broken = None
    until(lambda: is_at("v1"), "v1 is there")


@pytest.mark.parametrize("broken", ["message", "record"])
def test_no_error_ends_the_care_of_a_target(
    broken: str, pusher: Pusher, vllm: PlayedVllm, store: Store, target: TargetRecord,
    is_at: Callable[[str], bool], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    until(lambda: is_at("v1"), "v1 is there")
    right = sync.Sync.run

    def run(self: sync.Sync, asked: bool) -> bool:
        # what cannot be recorded is logged, with its text
        raise TargetFailed("refused", "lost" if broken == "record" else "half \ud800 of a pair")

    monkeypatch.setattr(sync.Sync, "run", run)
    if broken == "record":
        monkeypatch.setattr(module, "readable", lambda text: 1 / 0)
        time.sleep(0.5)
    else:
        until(lambda: target_status(store, target).error is not None, "it is recorded")
        error = target_status(store, target).error
        assert error is not None
        assert (error.code, error.message) == ("refused", "half \ufffd of a pair")
    monkeypatch.setattr(sync.Sync, "run", right)
    vllm.forget()
    until(lambda: is_at("v1") and vllm.loaded != {}, "it is looked after again")


def test_what_ends_every_look_is_not_tried_and_told_all_the_time(
    store: Store, settings: Settings, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the store's folder is away; the next look that succeeds is followed by others."""
    made, pauses, away = Pusher(store, settings, shop), list[float](), [True] * 4

    def looks() -> None:
        if away and away.pop():
            raise FileNotFoundError("the folder is away")

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return len(pauses) > 6

    monkeypatch.setattr(made, "look", looks)
    made.stop = Stop()
    made.run()
    assert pauses == [0.02, 0.04, 0.08, 0.1, 0.1, 0.02, 0.02]
