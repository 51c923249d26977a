"""A push is broken at every step, on either side: the target catches up, nothing else is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faults.checks import base
from support.faults.halts import PUSHING
from support.faults.harness import Service
from support.faults.processes import until
from support.faults.strikes import SIGNALS, strike
from support.service.outward.played_targets import PlayedVllm, playing

from jeep_core.models.views import ModelView
from service.contracts.jobs import JobStatus
from service.worker.targets.proof import next_token
from service.worker.versions import rebuild

IDS = [1, 5, 9]
IN_CI = {("kill", "targets load"), ("term", "targets proof")}
thorough = pytest.mark.thorough


@pytest.fixture
def vllm(service: Service) -> Iterator[PlayedVllm]:
    with playing(PlayedVllm(base())) as played:
        assert isinstance(played, PlayedVllm)
        service.client.add_target("smol", "vllm", played.url)
        yield played
        service.client.remove_target("smol")
        until(lambda: not service.store.targets.with_removed(), "the target is forgotten")
        until(lambda: not left(service), "its artefacts are removed")


def left(service: Service) -> list[Path]:
    return list(service.store.artefacts.folder.glob("*"))


def has_head(service: Service, played: PlayedVllm) -> bool:
    """Whether the target is synced and its server's answers are those of head."""
    shown, store = service.client.target("smol"), service.store
    head = store.versions.read(store.head.read().version)
    if shown.status != "synced" or shown.version != head.id:
        return False
    view = ModelView(base(), rebuild.load(base(), store, head))
    there = played.loaded[str(shown.model)][1]
    far = (next_token(there, IDS) - next_token(view, IDS)).abs().max()
    return float(far) < 1e-3


@pytest.mark.parametrize(
    ("how", "step"),
    [
        pytest.param(how, step, marks=[] if (how, step) in IN_CI else [thorough])
        for step in PUSHING[:-1]
        for how in SIGNALS
    ],
)
def test_a_worker_that_dies_in_a_push_goes_on_with_it(
    service: Service, vllm: PlayedVllm, how: str, step: str
) -> None:
    halts = service.halt("worker", step)
    job = service.edit()
    until(halts.reached, f"the worker reaches {step!r}")
    assert service.wait(job.id).status is JobStatus.SUCCEEDED, "a push delays no edit"
    strike(service, "worker", SIGNALS[how])
    until(lambda: has_head(service, vllm), "the server has head")


@pytest.mark.thorough
@pytest.mark.parametrize("how", list(SIGNALS))
def test_a_worker_that_dies_while_it_clears_up_clears_up_later(service: Service, how: str) -> None:
    with playing(PlayedVllm(base())) as played:
        assert isinstance(played, PlayedVllm)
        service.client.add_target("gone", "vllm", played.url)
        service.edited()
        until(lambda: service.client.target("gone").status == "synced", "the server has head")
        halts = service.halt("worker", PUSHING[-1])
        service.client.remove_target("gone")
        until(halts.reached, "the worker reaches the unloading")
        strike(service, "worker", SIGNALS[how])
        until(lambda: not played.loaded, "everything is unloaded")
        until(lambda: not left(service), "its artefacts are removed")


def test_a_server_that_dies_in_a_push_gets_it_again(service: Service, vllm: PlayedVllm) -> None:
    until(lambda: has_head(service, vllm), "the server has head")
    halts = service.halt("worker", "targets proof")
    service.edited()
    until(halts.reached, "the worker is about to ask questions")
    vllm.restart()
    halts.let_go()
    until(lambda: has_head(service, vllm), "the server has head")


def test_edits_and_rollbacks_go_on_while_a_server_hangs(service: Service, vllm: PlayedVllm) -> None:
    until(lambda: has_head(service, vllm), "the server has head")
    vllm.delay_s = 8.0
    before = service.store.head.read().version
    assert service.edited().status is JobStatus.SUCCEEDED
    assert service.rollback(before)
    vllm.delay_s = 0.0
    until(lambda: has_head(service, vllm), "the server has head again")
