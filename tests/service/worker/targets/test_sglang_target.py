"""SGLang as a target, against a server that follows its documentation and records what it is asked.

SGLang itself was not run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.service.outward.played_targets import PlayedSglang
from support.service.outward.pushes import artefacts, edit, roll_back

from jeep_core.models.loading import LoadedModel
from service.contracts.schemas.targets import NewTarget, TargetKind, TargetRecord
from service.store import Store
from service.store.targets.status import target_status
from service.worker.targets import sync as module
from service.worker.targets.connection import TargetFailed
from service.worker.targets.sync import Sync

MakeSync = Callable[..., Sync]


@pytest.fixture
def big(store: Store, sglang: PlayedSglang) -> TargetRecord:
    wanted = NewTarget(name="big", kind=TargetKind.SGLANG, address=sglang.url)
    return store.targets.add(wanted, 16)


def test_a_merged_checkpoint_replaces_the_weights(
    big: TargetRecord, sglang: PlayedSglang, store: Store, sync_of: MakeSync
) -> None:
    assert sync_of(big).run()
    shown = target_status(store, big)
    assert (shown.status, shown.version, shown.model) == ("synced", "v1", "served")
    [(_, _, body, _)] = [one for one in sglang.asked if one[1] == "/update_weights_from_disk"]
    path = store.artefacts.path(store.artefacts.name(store.versions.read("v1"), "merged"))
    assert body == {
        "model_path": str(path),
        "flush_cache": True,
        "abort_all_requests": False,
        "weight_version": "v1",
    }
    asked = next(body for _, path, body, _ in sglang.asked if path == "/generate")
    assert asked["sampling_params"] == {"max_new_tokens": 1, "temperature": 0}
    assert asked["return_logprob"] is True


def test_it_follows_edits_and_goes_back_to_the_base_model(
    big: TargetRecord, sglang: PlayedSglang, store: Store, sync_of: MakeSync, tiny: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sync = sync_of(big)
    sync.run()
    edit(tiny, store)
    assert sync.run()
    assert sglang.version == "v2"
    roll_back(store, "v0")
    assert sync.run()
    assert (sglang.version, target_status(store, big).version) == ("v0", "v0")
    monkeypatch.setattr(module, "GRACE_S", 0.0)
    assert not sync.run()
    assert [held.version for held in store.targets.state(big.id).held] == ["v0"]


def test_a_server_that_was_started_again_catches_up(
    big: TargetRecord, sglang: PlayedSglang, store: Store, sync_of: MakeSync
) -> None:
    sync = sync_of(big)
    sync.run()
    sglang.restart()
    assert target_status(store, big).version == "v1", "nobody has looked yet"
    assert sync.run()
    assert sglang.version == "v1"


def test_another_base_model_is_told_before_its_weights_are_replaced(
    big: TargetRecord, sglang: PlayedSglang, store: Store, sync_of: MakeSync, tiny: LoadedModel
) -> None:
    name = tiny.family.weight_name(0)
    sglang.view.replace(name, -5 * tiny.model.get_parameter(name).detach())
    with pytest.raises(TargetFailed, match="is not the base model") as e:
        sync_of(big).run()
    assert e.value.code == "other_base"
    assert "/update_weights_from_disk" not in sglang.paths()
    assert artefacts(store) == []


def test_a_folder_that_it_does_not_take_is_refused_and_the_version_before_stays(
    big: TargetRecord, sglang: PlayedSglang, store: Store, sync_of: MakeSync, tiny: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sync = sync_of(big)
    sync.run()
    edit(tiny, store)
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(TargetFailed, match=r"did not take .*Failed to load"):
        sync.run()
    assert target_status(store, big).version == "v1"


def test_after_a_wrong_answer_nobody_claims_to_know_what_it_has(
    big: TargetRecord, sglang: PlayedSglang, store: Store, sync_of: MakeSync, tiny: LoadedModel
) -> None:
    sync = sync_of(big)
    sync.run()
    edit(tiny, store)
    right = sglang.reply

    def reply(path: str, body: object) -> tuple[int, object]:
        answer = right(path, body)
        if path == "/update_weights_from_disk":
            name = tiny.family.weight_name(0)
            sglang.view.replace(name, -5 * tiny.model.get_parameter(name).detach())
        return answer

    sglang.reply = reply  # type: ignore[method-assign]
    with pytest.raises(TargetFailed, match="not ours"):
        sync.run()
    shown = target_status(store, big)
    assert (shown.version, shown.model, shown.lag.versions) == (None, None, 1)


@pytest.mark.parametrize("pair", [f"[1{'0' * 400}, 3, null]", "[-0.5, Infinity, null]"])
def test_numbers_without_sense_are_no_answer(
    pair: str, big: TargetRecord, sglang: PlayedSglang, sync_of: MakeSync
) -> None:
    right = sglang.reply
    answer = f'[{{"meta_info": {{"output_top_logprobs": [[{pair}]]}}}}]'
    sglang.reply = lambda path, body: (200, answer) if path == "/generate" else right(path, body)  # type: ignore[method-assign]
    with pytest.raises(TargetFailed, match="is it a server of this kind") as e:
        sync_of(big).run()
    assert e.value.code == "bad_answer"
