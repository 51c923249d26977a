"""llama.cpp as a target: a model of the router per version, proved, switched, unloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gguf import GGUFReader
from support.library import gguf_files, played_llama
from support.service.outward.played_router import PlayedModel, PlayedRouter
from support.service.outward.played_targets import playing
from support.service.outward.pushes import artefacts, edit, roll_back
from support.service.thin_versions import add_chain

from jeep_core.errors import MissingProgram
from jeep_core.exports.folders import verify
from jeep_core.models.library import Library
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from service.contracts.schemas.targets import NewTarget, TargetKind, TargetRecord
from service.ops.addresses import Allowed
from service.store import DiskFull, Store
from service.store.maintenance.room import Room
from service.store.targets.status import target_status
from service.worker.targets import sync as module
from service.worker.targets import workshop
from service.worker.targets.connection import Connection, TargetFailed
from service.worker.targets.kinds import llama_cpp
from service.worker.targets.kinds.llama_cpp import LlamaCpp
from service.worker.targets.proof import next_token
from service.worker.targets.server import ARTEFACT
from service.worker.targets.sync import Sync
from service.worker.versions import rebuild
from service.worker.versions.views import VersionViews

IDS = [1, 5, 9]
MakeSync = Callable[..., Sync]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A tiny model that came as a GGUF file."""
    folder = tmp_path_factory.mktemp("gguf")
    model = gguf_files.random_model("llama")
    gguf_files.write(folder / "own.gguf", "llama", model, gguf_files.Kind.F32)
    made = Library(folder / "models").converted(folder / "own.gguf", lambda *_: None)
    return load(str(made), device="cpu")


@pytest.fixture
def store(tmp_path: Path, base: LoadedModel) -> Store:
    """v0, and v1 as head."""
    made = Store.open(tmp_path / "store")
    add_chain(base, made, 0)
    edit(base, made)
    return made


@pytest.fixture
def router(
    base: LoadedModel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PlayedRouter]:
    monkeypatch.setattr(llama_cpp, "POLL_S", 0.01)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with playing(PlayedRouter(base, store.artefacts.folder)) as made:
        assert isinstance(made, PlayedRouter)
        yield made


@pytest.fixture
def target(store: Store, router: PlayedRouter) -> TargetRecord:
    wanted = NewTarget(name="smol", kind=TargetKind.LLAMA_CPP, address=router.url)
    return store.targets.add(wanted, 16)


@pytest.fixture
def sync_of(store: Store, base: LoadedModel, tmp_path: Path) -> MakeSync:
    """Makes the sync of a target; programs of llama.cpp are in ``tmp_path/llama``."""

    def make(record: TargetRecord, timeout_s: float = 20.0) -> Sync:
        views, room = VersionViews(base, store), Room(store.root, None, 0)
        shop = workshop.Workshop(base, store, views, room, lambda: lambda: None, tmp_path / "llama")
        connection = Connection(record, Allowed("127.0.0.0/8"), None, timeout_s)
        return Sync(shop, store, record, LlamaCpp(record, connection))

    return make


def name_of(store: Store, version: str, format: str = "gguf") -> str:
    """The name by which the router is asked for a version."""
    return store.artefacts.name(store.versions.read(version), format)


def farthest(
    base: LoadedModel, store: Store, router: PlayedRouter, version: str, model: str | None = None
) -> float:
    """How far the router's answer by the name of ``model`` is from that of a version in the store,
    in nats.
    """
    view = ModelView(base, rebuild.load(base, store, store.versions.read(version)))
    there = router.models[name_of(store, model or version)].view
    assert there is not None
    return float((next_token(there, IDS) - next_token(view, IDS)).abs().max())


def test_the_router_answers_as_head_after_a_push(
    target: TargetRecord, router: PlayedRouter, store: Store, sync_of: MakeSync, base: LoadedModel
) -> None:
    assert sync_of(target).run()
    name, shown = name_of(store, "v1"), target_status(store, target)
    assert (shown.status, shown.version, shown.model) == ("synced", "v1", name)
    assert router.running == {name}
    assert farthest(base, store, router, "v1") < 1e-4
    assert shown.proof is not None
    assert (shown.proof.questions, shown.proof.farthest < 1e-3) == (4, True)
    folder = store.artefacts.path(name)
    assert sorted(path.name for path in folder.iterdir()) == ["export.json", "model.gguf"]
    verify(folder)


def test_a_second_look_asks_for_what_there_is_and_changes_nothing(
    target: TargetRecord, router: PlayedRouter, store: Store, sync_of: MakeSync
) -> None:
    sync = sync_of(target)
    assert sync.run()
    before, asked = store.targets.state(target.id), len(router.asked)
    assert not sync.run()
    assert router.paths()[asked:] == ["/props", "/models"]
    assert store.targets.state(target.id) == before


def test_versions_are_models_beside_one_another_and_the_last_one_stays_for_a_while(
    target: TargetRecord, router: PlayedRouter, store: Store, sync_of: MakeSync, base: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sync = sync_of(target)
    sync.run()
    edit(base, store)
    assert sync.run()
    assert router.running == {name_of(store, "v1"), name_of(store, "v2")}
    assert farthest(base, store, router, "v1") < 1e-4
    assert farthest(base, store, router, "v2") < 1e-4
    assert farthest(base, store, router, "v2", "v1") > 1e-2
    monkeypatch.setattr(module, "GRACE_S", 0.0)
    assert not sync.run()
    assert router.running == {name_of(store, "v2")}
    assert [held.version for held in store.targets.state(target.id).held] == ["v2"]


def test_a_rollback_to_the_base_model_loads_that_and_one_to_a_version_that_is_there_nothing(
    target: TargetRecord, router: PlayedRouter, store: Store, sync_of: MakeSync, base: LoadedModel
) -> None:
    sync = sync_of(target)
    sync.run()
    roll_back(store, "v0")
    assert sync.run()
    shown = target_status(store, target)
    assert (shown.version, shown.model) == ("v0", name_of(store, "v0"))
    assert farthest(base, store, router, "v0") < 1e-4
    roll_back(store, "v1")
    assert sync.run()
    assert router.paths().count("/models/load") == 2
    assert target_status(store, target).model == name_of(store, "v1")


def test_a_router_that_was_started_again_catches_up(
    target: TargetRecord, router: PlayedRouter, store: Store, sync_of: MakeSync
) -> None:
    sync = sync_of(target)
    sync.run()
    router.restart()
    assert router.running == set()
    assert sync.run()
    assert router.running == {name_of(store, "v1")}
    assert target_status(store, target).status == "synced"


def test_a_quantised_type_is_made_by_llama_cpp_and_compared_within_the_tolerance(
    router: PlayedRouter, store: Store, sync_of: MakeSync, tmp_path: Path
) -> None:
    played_llama.quantizer(tmp_path / "llama")
    wanted = NewTarget(
        name="small", kind=TargetKind.LLAMA_CPP, address=router.url, type="Q8_0", tolerance=0.5
    )
    target = store.targets.add(wanted, 16)
    assert sync_of(target).run()
    shown, name = target_status(store, target), name_of(store, "v1", "q8_0.gguf")
    assert (shown.status, shown.model, shown.type) == ("synced", name, "Q8_0")
    assert ARTEFACT.fullmatch(name)
    assert shown.proof is not None
    assert 1e-4 < shown.proof.farthest < 0.5, "rounded, and not by much"
    command = (tmp_path / "llama" / "build" / "bin" / "quantizer.json").read_text()
    assert '"Q8_0"' in command
    kinds = {
        t.tensor_type.name for t in GGUFReader(store.artefacts.path(name) / "model.gguf").tensors
    }
    assert kinds == {"F32", "Q8_0"}


def test_a_quantised_file_that_is_too_far_from_the_version_does_not_become_the_target_s(
    router: PlayedRouter, store: Store, sync_of: MakeSync, tmp_path: Path
) -> None:
    played_llama.quantizer(tmp_path / "llama")
    wanted = NewTarget(
        name="small", kind=TargetKind.LLAMA_CPP, address=router.url, type="Q8_0", tolerance=1e-6
    )
    target = store.targets.add(wanted, 16)
    with pytest.raises(TargetFailed, match="not ours") as e:
        sync_of(target).run()
    assert e.value.code == "wrong_answer"
    assert router.running == set()


def test_a_missing_program_is_named(router: PlayedRouter, store: Store, sync_of: MakeSync) -> None:
    wanted = NewTarget(name="x", kind=TargetKind.LLAMA_CPP, address=router.url, type="Q4_K_M")
    with pytest.raises(MissingProgram, match=r"llama-quantize .* JEEP_LLAMA_CPP"):
        sync_of(store.targets.add(wanted, 16)).run()
    assert artefacts(store) == []


def test_after_a_wrong_answer_the_version_before_stays(
    target: TargetRecord, router: PlayedRouter, store: Store, sync_of: MakeSync, base: LoadedModel
) -> None:
    sync = sync_of(target)
    sync.run()
    edit(base, store)
    router.garbled = True
    with pytest.raises(TargetFailed, match="not ours") as e:
        sync.run()
    assert e.value.code == "wrong_answer"
    shown = target_status(store, target)
    assert (shown.version, shown.model) == ("v1", name_of(store, "v1"))
    assert router.running == {name_of(store, "v1")}


class TestRefusals:
    def test_a_server_with_a_model_of_its_own_says_how_to_start_it(
        self, target: TargetRecord, router: PlayedRouter, store: Store, sync_of: MakeSync
    ) -> None:
        router.role = None
        with pytest.raises(TargetFailed, match="without one, and with --models-dir") as e:
            sync_of(target).run()
        assert (e.value.code, e.value.lasting) == ("no_router", True)
        assert artefacts(store) == []

    def test_a_router_for_one_model_would_drop_the_version_before_the_next_is_proved(
        self, target: TargetRecord, router: PlayedRouter, sync_of: MakeSync
    ) -> None:
        router.most = 1
        with pytest.raises(TargetFailed, match="--models-max 2") as e:
            sync_of(target).run()
        assert (e.value.code, e.value.lasting) == ("too_few_models", True)

    def test_a_router_that_is_full_is_tried_again(
        self, target: TargetRecord, router: PlayedRouter, store: Store, sync_of: MakeSync,
        base: LoadedModel,
    ) -> None:  # fmt: skip
        router.most = 2
        sync = sync_of(target)
        for _ in range(2):
            sync.run()
            edit(base, store)
        with pytest.raises(TargetFailed, match="larger --models-max") as e:
            sync.run()
        assert (e.value.code, e.value.lasting) == ("busy", False)

    @pytest.mark.parametrize("elsewhere", [False, True])
    def test_a_router_of_another_folder_says_which_one_to_name(
        self, elsewhere: bool, target: TargetRecord, router: PlayedRouter, store: Store,
        sync_of: MakeSync, tmp_path: Path,
    ) -> None:  # fmt: skip
        if elsewhere:
            router.seen = Path("artefacts")  # relative, as it was started
        else:
            router.folder = tmp_path
        folder = store.artefacts.folder
        with pytest.raises(TargetFailed, match=f"--models-dir {folder}") as e:
            sync_of(target).run()
        assert (e.value.code, e.value.lasting) == ("folder_not_found", True)
        assert router.running == set()

    def test_a_folder_that_is_elsewhere_for_the_router_can_be_named(
        self, router: PlayedRouter, store: Store, sync_of: MakeSync
    ) -> None:
        router.seen = Path("/models/x")
        wanted = NewTarget(
            name="x", kind=TargetKind.LLAMA_CPP, address=router.url, folder="/models//./x/"
        )
        target = store.targets.add(wanted, 16)
        sync = sync_of(target)
        assert sync.run()
        assert not sync.run()
        assert len(store.targets.state(target.id).held) == 1

    def test_a_file_that_it_cannot_load_is_one_error_and_the_next_try_loads_it(
        self, target: TargetRecord, router: PlayedRouter, store: Store, sync_of: MakeSync,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        sync = sync_of(target)
        with monkeypatch.context() as broken:
            broken.setattr(router, "_read", lambda file: 1 / 0)
            with pytest.raises(TargetFailed, match=r"has ended \(1\)") as e:
                sync.run()
        assert (e.value.code, e.value.lasting) == ("refused", False)
        assert sync.run()
        assert router.running == {name_of(store, "v1")}

    def test_a_router_that_never_ends_loading_is_slow(
        self, target: TargetRecord, router: PlayedRouter, sync_of: MakeSync
    ) -> None:
        router.hangs = True
        with pytest.raises(TargetFailed, match="within 1 s") as e:
            sync_of(target, timeout_s=1.0).run()
        assert e.value.code == "slow"

    @pytest.mark.parametrize(
        ("path", "answer"),
        [
            ("/props", "[]"),
            ("/models", '{"data": [{"id": "x"}]}'),
            ("/models", '{"data": [{"id": "x", "status": {}}]}'),
            ("/models", '{"data": null}'),
            ("/v1/completions", '{"choices": [{"index": 0, "logprobs": null}]}'),
            ("/v1/completions", f'{{"choices": [{{"index": 1{"0" * 400}}}]}}'),
        ],
    )
    def test_an_answer_without_sense_is_none(
        self, path: str, answer: str, target: TargetRecord, router: PlayedRouter,
        sync_of: MakeSync,
    ) -> None:  # fmt: skip
        right = router.reply
        router.reply = lambda asked, body: (200, answer) if asked == path else right(asked, body)  # type: ignore[method-assign]
        with pytest.raises(TargetFailed, match="is it a server of this kind") as e:
            sync_of(target).run()
        assert e.value.code == "bad_answer"

    def test_another_program_is_told_by_its_missing_route(
        self, target: TargetRecord, router: PlayedRouter, sync_of: MakeSync
    ) -> None:
        router.broken = (404, {"detail": "Not Found"})
        with pytest.raises(TargetFailed, match="is it a server of this kind"):
            sync_of(target).run()

    def test_without_room_nothing_is_written(
        self, target: TargetRecord, store: Store, sync_of: MakeSync,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(workshop, "bytes_needed", lambda *_: 2**60)
        with pytest.raises(DiskFull, match="MB are to be written"):
            sync_of(target).run()
        assert artefacts(store) == []


def test_what_is_removed_is_unloaded_and_forgotten(
    target: TargetRecord, router: PlayedRouter, store: Store, sync_of: MakeSync
) -> None:
    sync_of(target).run()
    removed = store.targets.remove("smol")
    sync_of(removed).clear()
    assert router.running == set()
    assert store.targets.with_removed() == []


def test_a_target_that_was_added_again_keeps_the_version_of_the_old_one(
    target: TargetRecord, router: PlayedRouter, store: Store, sync_of: MakeSync
) -> None:
    sync_of(target).run()
    running = set(router.running)
    removed = store.targets.remove("smol")
    again = store.targets.add(
        NewTarget(name="smol", kind=TargetKind.LLAMA_CPP, address=router.url, tolerance=0.5), 16
    )
    sync_of(removed).clear()
    assert router.running == running
    sync_of(again).run()
    assert running <= router.running


def test_models_of_others_on_the_router_are_left_alone(
    target: TargetRecord, router: PlayedRouter, store: Store, sync_of: MakeSync, base: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "GRACE_S", 0.0)
    sync = sync_of(target)
    sync.run()
    router.others = {"gemma"}
    router.models["gemma"] = PlayedModel(Path("/elsewhere/gemma.gguf"), "loaded")
    edit(base, store)
    sync.run()
    sync.run()
    assert "gemma" in router.running
    assert "gemma" not in [one.name for one in store.targets.state(target.id).held]


def test_the_folder_is_there_before_anything_is_pushed(tmp_path: Path) -> None:
    """A router is started with it, and refuses to start without."""
    assert Store.open(tmp_path / "new").artefacts.folder.is_dir()
