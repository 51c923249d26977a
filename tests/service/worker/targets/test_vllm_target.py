"""vLLM as a target: adapters are loaded, proved, switched, unloaded; what goes wrong is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.service.outward.played_targets import PlayedVllm, playing, refused
from support.service.outward.pushes import artefacts, edit, roll_back

from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from service.contracts.schemas.targets import NewTarget, TargetKind, TargetRecord
from service.store import DiskFull, Store
from service.store.targets.status import target_status
from service.worker.targets import sync as module
from service.worker.targets.connection import TargetFailed
from service.worker.targets.proof import next_token
from service.worker.targets.sync import Sync
from service.worker.targets.workshop import Workshop
from service.worker.versions import rebuild

MakeSync = Callable[..., Sync]
IDS = [1, 5, 9]


def answers(played: PlayedVllm, model: str) -> float:
    """The log-probability of the most probable next token by a name of the server."""
    return float(next_token(played.loaded[model][1], IDS).max())


def ours(base: LoadedModel, store: Store, version: str) -> float:
    """The same by the version in the store."""
    replaced = rebuild.load(base, store, store.versions.read(version))
    return float(next_token(ModelView(base, replaced), IDS).max())


def test_the_server_answers_as_head_after_a_push(
    target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync, tiny: LoadedModel
) -> None:
    assert target_status(store, target).status == "new"
    assert sync_of(target).run()
    shown = target_status(store, target)
    assert (shown.status, shown.wanted, shown.version, shown.model) == (
        "synced", "v1", "v1", "smol@v1",
    )  # fmt: skip
    assert answers(vllm, "smol@v1") == pytest.approx(ours(tiny, store, "v1"), abs=1e-4)
    assert shown.lag.versions == 0
    assert shown.proof is not None
    assert shown.proof.questions == 4
    assert shown.proof.farthest < 1e-3
    assert Path(vllm.loaded["smol@v1"][0]).parent == store.artefacts.folder
    assert artefacts(store) == ["v1.peft"]


def test_a_second_look_asks_once_and_changes_nothing(
    target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync
) -> None:
    sync = sync_of(target)
    assert sync.run()
    before, asked = store.targets.state(target.id), len(vllm.asked)
    assert not sync.run()
    assert vllm.paths()[asked:] == ["/v1/models"]
    assert store.targets.state(target.id) == before


def test_every_version_has_a_name_and_a_folder_of_its_own_and_the_last_one_stays_for_a_while(
    target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync, tiny: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sync = sync_of(target)
    sync.run()
    edit(tiny, store)
    assert target_status(store, target).lag.versions == 1
    assert sync.run()
    assert vllm.loaded.keys() == {"smol@v1", "smol@v2"}
    assert len({root for root, _ in vllm.loaded.values()}) == 2
    assert answers(vllm, "smol@v2") == pytest.approx(ours(tiny, store, "v2"), abs=1e-4)
    assert not any("load_inplace" in (body or {}) for _, _, body, _ in vllm.asked)
    monkeypatch.setattr(module, "GRACE_S", 0.0)
    assert not sync.run()
    assert vllm.loaded.keys() == {"smol@v2"}
    assert [held.name for held in store.targets.state(target.id).held] == ["smol@v2"]


def test_after_a_rollback_the_old_version_answers_without_another_load(
    target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync, tiny: LoadedModel
) -> None:
    sync = sync_of(target)
    sync.run()
    edit(tiny, store)
    sync.run()
    roll_back(store, "v1")
    assert sync.run()
    assert store.targets.state(target.id).model == "smol@v1"
    assert vllm.paths().count("/v1/load_lora_adapter") == 2
    held = {one.name: one.unwanted_since is None for one in store.targets.state(target.id).held}
    assert held == {"smol@v1": True, "smol@v2": False}


def test_the_base_model_needs_no_adapter(
    target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync
) -> None:
    roll_back(store, "v0")
    assert sync_of(target).run()
    assert vllm.loaded == {}
    shown = target_status(store, target)
    assert (shown.status, shown.version, shown.model) == ("synced", "v0", "base")
    assert artefacts(store) == []


def test_a_server_that_was_started_again_catches_up(
    target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync
) -> None:
    sync = sync_of(target)
    sync.run()
    vllm.restart()
    assert sync.run()
    assert vllm.loaded.keys() == {"smol@v1"}
    assert target_status(store, target).status == "synced"


def test_a_worker_that_was_started_again_goes_by_what_the_server_has(
    target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync, tiny: LoadedModel
) -> None:
    sync_of(target).run()
    assert not sync_of(target).run(), "another worker has nothing to do"
    (store.root / "targets" / f"{target.id}.state").unlink()
    assert sync_of(target).run()
    assert vllm.paths().count("/v1/load_lora_adapter") == 1, "it was loaded already"
    edit(tiny, store)
    assert sync_of(target).run()
    assert vllm.loaded.keys() == {"smol@v1", "smol@v2"}


def test_a_name_of_another_store_is_loaded_again(
    target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync, tmp_path: Path
) -> None:
    sync_of(target).run()
    root, view = vllm.loaded["smol@v1"]
    shutil.copytree(root, tmp_path / "elsewhere")
    vllm.loaded["smol@v1"] = (str(tmp_path / "elsewhere"), view)
    sync_of(target).run()
    assert vllm.loaded["smol@v1"][0] == root


class TestAlias:
    @pytest.fixture
    def aliased(self, store: Store, vllm: PlayedVllm) -> TargetRecord:
        wanted = NewTarget(name="smol", kind=TargetKind.VLLM, address=vllm.url, alias="now")
        return store.targets.add(wanted, 16)

    def test_it_means_what_the_target_follows(
        self, aliased: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync,
        tiny: LoadedModel,
    ) -> None:  # fmt: skip
        sync = sync_of(aliased)
        sync.run()
        assert answers(vllm, "now") == answers(vllm, "smol@v1")
        edit(tiny, store)
        sync.run()
        assert answers(vllm, "now") == answers(vllm, "smol@v2")
        assert not sync.run()

    def test_it_means_the_base_model_as_well(
        self, aliased: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync,
        tiny: LoadedModel,
    ) -> None:  # fmt: skip
        sync = sync_of(aliased)
        sync.run()
        roll_back(store, "v0")
        assert sync.run()
        assert answers(vllm, "now") == float(next_token(ModelView(tiny), IDS).max())
        assert store.targets.state(aliased.id).model == "base"
        assert not sync.run()

    @pytest.mark.parametrize("own", ["base", "adapter"])
    def test_a_model_of_the_servers_own_is_not_replaced(
        self, own: str, store: Store, vllm: PlayedVllm, sync_of: MakeSync, tiny: LoadedModel
    ) -> None:
        vllm.loaded["adapter"] = ("/adapters/mine", ModelView(tiny))
        wanted = NewTarget(name="smol", kind=TargetKind.VLLM, address=vllm.url, alias=own)
        record = store.targets.add(wanted, 16)
        with pytest.raises(TargetFailed, match=f"called '{own}'.*another alias") as e:
            sync_of(record).run()
        assert (e.value.code, e.value.lasting) == ("name_in_use", True)
        sync_of(store.targets.remove("smol")).clear()
        assert set(vllm.paths()) == {"/v1/models"}, "nothing was loaded or unloaded"
        assert store.targets.with_removed() == []


class TestRefusals:
    def test_a_rank_over_the_limit_says_what_to_set(
        self, target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync
    ) -> None:
        vllm.max_rank = 1
        with pytest.raises(TargetFailed, match=r"v1 needs rank 2.*up to 1.*--max-lora-rank 8") as e:
            sync_of(target).run()
        assert (e.value.code, e.value.lasting) == ("rank_too_large", True)
        assert store.targets.state(target.id).version is None

    def test_a_rank_that_no_setting_allows_says_so(self) -> None:
        from service.worker.targets.kinds.vllm import _rank_too_large

        assert "export v9 as merged" in str(_rank_too_large("v9", 600, 512))
        assert "--max-lora-rank 512" in str(_rank_too_large("v9", 321, 64))

    def test_adapters_that_cannot_be_loaded_while_it_runs(
        self, target: TargetRecord, vllm: PlayedVllm, sync_of: MakeSync
    ) -> None:
        vllm.runtime = False
        with pytest.raises(TargetFailed, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True") as e:
            sync_of(target).run()
        assert e.value.code == "no_runtime_adapters"

    def test_a_folder_that_the_server_does_not_see(
        self, store: Store, vllm: PlayedVllm, sync_of: MakeSync
    ) -> None:
        wanted = NewTarget(
            name="far", kind=TargetKind.VLLM, address=vllm.url, folder="/mnt/artefacts"
        )
        with pytest.raises(TargetFailed, match=r"does not find /mnt/artefacts/v1-.*folder") as e:
            sync_of(store.targets.add(wanted, 16)).run()
        assert e.value.code == "folder_not_found"

    def test_another_base_model_is_told_before_anything_is_loaded(
        self, store: Store, tiny: LoadedModel, sync_of: MakeSync
    ) -> None:
        name = tiny.family.weight_name(0)
        odd = ModelView(tiny, {name: -5 * tiny.model.get_parameter(name)})
        with playing(PlayedVllm(tiny)) as played:
            assert isinstance(played, PlayedVllm)
            played.loaded["odd"] = ("/odd", odd)
            wanted = NewTarget(name="x", kind=TargetKind.VLLM, address=played.url)
            right = played._complete
            played._complete = lambda body: right({**body, "model": "odd"})  # type: ignore[method-assign]
            with pytest.raises(TargetFailed, match="is not the base model") as e:
                sync_of(store.targets.add(wanted, 16)).run()
            assert e.value.code == "other_base"
            assert "/v1/load_lora_adapter" not in played.paths()

    def test_a_smaller_vocabulary_is_another_base_model(
        self, target: TargetRecord, vllm: PlayedVllm, sync_of: MakeSync
    ) -> None:
        vllm._complete = lambda body: refused(400, "Token id 7 is out of vocabulary")  # type: ignore[method-assign]
        with pytest.raises(TargetFailed, match="another base model") as e:
            sync_of(target).run()
        assert e.value.code == "other_base"

    @pytest.mark.parametrize("how", ["garbled", "deaf"])
    def test_a_wrong_answer_unloads_the_adapter_and_the_version_before_stays(
        self, how: str, target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync,
        tiny: LoadedModel,
    ) -> None:  # fmt: skip
        sync = sync_of(target)
        sync.run()
        edit(tiny, store)
        setattr(vllm, how, True)
        with pytest.raises(TargetFailed) as e:
            sync.run()
        assert e.value.code == ("wrong_answer" if how == "garbled" else "refused")
        assert vllm.loaded.keys() == {"smol@v1"}
        assert store.targets.state(target.id).model == "smol@v1"
        assert target_status(store, target).lag.versions == 1
        setattr(vllm, how, False)
        assert sync.run()
        assert store.targets.state(target.id).model == "smol@v2"

    def test_a_server_of_several_models_is_asked_which(
        self, target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync
    ) -> None:
        models = [{"id": name, "root": "/m", "parent": None} for name in ("a", "base")]
        right = vllm.reply

        def reply(path: str, body: object) -> tuple[int, object]:
            status, found = right(path, body)
            if path == "/v1/models":
                found = {"data": [*models, *found["data"][1:]]}
            return status, found

        vllm.reply = reply  # type: ignore[method-assign]
        with pytest.raises(TargetFailed, match=r"several names.*\(a, base\)"):
            sync_of(target).run()
        named = NewTarget(name="b", kind=TargetKind.VLLM, address=vllm.url, model="base")
        assert sync_of(store.targets.add(named, 16)).run()
        absent = NewTarget(name="c", kind=TargetKind.VLLM, address=vllm.url, model="z")
        with pytest.raises(TargetFailed, match="no model 'z'"):
            sync_of(store.targets.add(absent, 16)).run()

    @pytest.mark.parametrize("odd", ["1e999", "-1e999", "NaN"])
    @pytest.mark.parametrize("at", [0, 1, 2])
    def test_a_log_probability_that_is_no_number_proves_nothing(
        self, odd: str, at: int, target: TargetRecord, vllm: PlayedVllm, store: Store,
        sync_of: MakeSync,
    ) -> None:  # fmt: skip
        def odd_one(body: dict[str, Any]) -> tuple[int, object]:
            status, answer = right(body)
            choice = next(one for one in answer["choices"] if one["index"] == at)
            top = choice["logprobs"]["top_logprobs"][0]
            top.update(dict.fromkeys(top, float(odd)))
            return status, answer

        right = vllm._complete
        vllm._complete = odd_one  # type: ignore[method-assign]
        with pytest.raises(TargetFailed, match="differ by far more") as e:
            sync_of(target).run()
        assert e.value.code == "other_base"
        assert store.targets.state(target.id).proof is None

    @pytest.mark.parametrize(
        "choice",
        [
            f'{{"index": 0, "logprobs": {{"top_logprobs": [{{"token_id:1": 1{"0" * 400}}}]}}}}',
            '{"index": Infinity, "logprobs": {"top_logprobs": [{"token_id:1": -1}]}}',
            '{"index": 0, "logprobs": {"top_logprobs": []}}',
        ],
    )
    def test_numbers_without_sense_are_no_answer(
        self, choice: str, target: TargetRecord, vllm: PlayedVllm, sync_of: MakeSync
    ) -> None:
        vllm._complete = lambda body: (200, f'{{"choices": [{choice}]}}')  # type: ignore[method-assign]
        with pytest.raises(TargetFailed, match="is it a server of this kind") as e:
            sync_of(target).run()
        assert e.value.code == "bad_answer"

    @pytest.mark.parametrize("answer", ["<html>", {"data": 3}, [], {"data": [{"x": 1}]}, {}])
    def test_something_else_that_answers_is_seen(
        self, answer: object, target: TargetRecord, vllm: PlayedVllm, sync_of: MakeSync
    ) -> None:
        vllm.broken = (200, answer)
        with pytest.raises(TargetFailed, match="is it a server of this kind") as e:
            sync_of(target).run()
        assert e.value.code == "bad_answer"

    def test_a_full_disk_leaves_nothing_half_written(
        self, target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync,
        shop: Workshop, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        def full(*args: object, **more: object) -> None:
            raise DiskFull("nothing is left")

        monkeypatch.setattr(shop._room, "check", full)
        with pytest.raises(DiskFull):
            sync_of(target).run()
        assert artefacts(store) == []
        assert vllm.loaded == {}
        assert store.head.read().version == "v1"


def test_what_is_removed_is_unloaded_and_forgotten(
    target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync
) -> None:
    sync = sync_of(target)
    sync.run()
    vllm.loaded["another"] = vllm.loaded["smol@v1"]
    store.targets.remove("smol")
    assert store.targets.all() == []
    sync.clear()
    assert vllm.loaded.keys() == {"another"}, "what is not this target's is left alone"
    assert store.targets.with_removed() == []
    assert list((store.root / "targets").glob("*.state")) == []


@pytest.mark.parametrize(
    ("name", "alias", "left"),
    [
        ("smol", "now", {"smol@v1", "now"}),
        ("smol", None, {"smol@v1"}),
        ("b", "now", {"now"}),
        ("b", None, set()),
    ],
)
def test_what_is_removed_leaves_alone_what_another_target_uses_by_now(
    name: str, alias: str | None, left: set[str], vllm: PlayedVllm, store: Store,
    sync_of: MakeSync,
) -> None:  # fmt: skip
    wanted = NewTarget(name="smol", kind=TargetKind.VLLM, address=vllm.url, alias="now")
    old = sync_of(store.targets.add(wanted, 16))
    old.run()
    store.targets.remove("smol")
    again = wanted.model_copy(update={"name": name, "alias": alias})
    record = store.targets.add(again, 16)
    old.clear()
    assert vllm.loaded.keys() == left
    assert [one.id for one in store.targets.with_removed()] == [record.id]


def test_a_namesake_on_another_server_keeps_nothing_loaded_here(
    target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync
) -> None:
    sync = sync_of(target)
    sync.run()
    store.targets.remove("smol")
    elsewhere = NewTarget(name="smol", kind=TargetKind.VLLM, address="http://127.0.0.1:1")
    store.targets.add(elsewhere, 16)
    sync.clear()
    assert vllm.loaded == {}


def test_a_version_whose_artefact_is_gone_is_loaded_again(
    target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync
) -> None:
    sync_of(target).run()
    store.artefacts.sweep(())
    assert sync_of(target).run()
    assert artefacts(store) == ["v1.peft"]
    assert vllm.paths().count("/v1/load_lora_adapter") == 2
    assert target_status(store, target).status == "synced"


def test_looks_at_a_target_that_does_not_follow_head_are_not_written_down(
    target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync, tiny: LoadedModel
) -> None:
    pinned = store.targets.follow("smol", "v1")
    sync = sync_of(pinned)
    sync.run()
    before = store.targets.state(target.id)
    assert not sync.run()
    assert store.targets.state(target.id) == before
    edit(tiny, store)
    edit(tiny, store)
    following = store.targets.follow("smol", "head")
    lag = target_status(store, following).lag
    assert lag.versions == 1, "moves of head before it followed head are not missed ones"
    edit(tiny, store)
    assert target_status(store, following).lag.versions == 1
    edit(tiny, store)
    assert target_status(store, following).lag.versions == 2


def test_seconds_of_lag_begin_with_the_first_move_that_was_missed(
    target: TargetRecord, vllm: PlayedVllm, store: Store, sync_of: MakeSync, tiny: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from service.store.targets import status

    sync_of(target).run()
    edit(tiny, store)
    edit(tiny, store)
    first = store.head.reflog()[-2].when
    monkeypatch.setattr(status, "now", lambda: first + timedelta(seconds=7))
    shown = target_status(store, target)
    assert (shown.status, shown.lag.versions, shown.lag.seconds) == ("behind", 2, 7.0)
