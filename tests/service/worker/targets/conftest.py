"""A store with versions of a tiny model, and played servers that answer from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import TINY_GPTJ
from support.service.outward.played_targets import PlayedSglang, PlayedVllm, playing
from support.service.outward.pushes import edit
from support.service.thin_versions import add_chain

import jeep_core
from jeep_core.models.loading import LoadedModel
from service.contracts.schemas.targets import NewTarget, TargetKind, TargetRecord
from service.ops.addresses import Allowed
from service.settings import Settings
from service.store import Store
from service.store.maintenance.room import Room
from service.worker.targets.connection import Connection
from service.worker.targets.kinds import SERVERS
from service.worker.targets.sync import Sync
from service.worker.targets.workshop import Workshop
from service.worker.versions.views import VersionViews

MakeSync = Callable[..., Sync]


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    return jeep_core.load(str(TINY_GPTJ), device="cpu")


@pytest.fixture
def store(tmp_path: Path, tiny: LoadedModel) -> Store:
    """v0, and v1 as head."""
    made = Store.open(tmp_path / "store")
    add_chain(tiny, made, 0)
    edit(tiny, made)
    return made


@pytest.fixture
def shop(store: Store, tiny: LoadedModel) -> Workshop:
    views = VersionViews(tiny, store)
    return Workshop(tiny, store, views, Room(store.root, None, 0), lambda: lambda: None)


@pytest.fixture
def vllm(tiny: LoadedModel) -> Iterator[PlayedVllm]:
    with playing(PlayedVllm(tiny)) as made:
        assert isinstance(made, PlayedVllm)
        yield made


@pytest.fixture
def sglang(tiny: LoadedModel) -> Iterator[PlayedSglang]:
    with playing(PlayedSglang(tiny)) as made:
        assert isinstance(made, PlayedSglang)
        yield made


@pytest.fixture
def sync_of(store: Store, shop: Workshop) -> MakeSync:
    """Makes the sync of a registered target."""

    def make(record: TargetRecord, secrets: Path | None = None) -> Sync:
        connection = Connection(record, Allowed("127.0.0.0/8"), secrets, 20.0)
        return Sync(shop, store, record, SERVERS[record.kind](record, connection))

    return make


@pytest.fixture
def settings(store: Store) -> Settings:
    return Settings(store=store.root, targets_timeout_s=20.0)


@pytest.fixture
def target(store: Store, vllm: PlayedVllm) -> TargetRecord:
    wanted = NewTarget(name="smol", kind=TargetKind.VLLM, address=vllm.url)
    return store.targets.add(wanted, 16)
