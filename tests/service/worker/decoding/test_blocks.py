"""A long step passes blocks of the model, a hang does not."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
from support import TINY_GPTJ

from jeep_core.decoding.generation import Sampling, generate
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from service.queue import RequestQueue
from service.settings import Settings
from service.worker.decoding.blocks import blocks_of
from service.worker.decoding.decode_loop import DecodeLoop
from service.worker.gate import Gate
from service.worker.lanes.generation_lane import PROGRESS, GenerationLane
from service.worker.members.common import load_base


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load_base(Settings(model=str(TINY_GPTJ), device="cpu", threads=1))


def passed_in_a_thread(view: ModelView, tokens: int) -> int:
    """Blocks that a new thread has passed after so many tokens, nobody else any meanwhile."""
    found: list[int] = []

    def work() -> None:
        mine, before = threading.get_ident(), blocks_of(threading.get_ident())
        generate(view, ["Lyon lies in"], Sampling(tokens))
        found.append(blocks_of(mine) - before)

    others = blocks_of(threading.get_ident())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert blocks_of(threading.get_ident()) == others
    return found[0]


def test_every_block_of_a_step_counts_for_its_thread(base: LoadedModel) -> None:
    assert passed_in_a_thread(ModelView(base), 1) == base.n_layers
    assert passed_in_a_thread(ModelView(base).fork(), 3) == 3 * base.n_layers


def test_a_decoding_loop_knows_the_blocks_of_its_own_thread(base: LoadedModel) -> None:
    requests: Any = None
    loop = DecodeLoop(requests, Gate(1.0))
    assert loop.blocks == 0
    loop.stop.set()
    loop.run()
    before = loop.blocks
    generate(ModelView(base), ["Lyon lies in"], Sampling(1))
    assert loop.blocks - before == base.n_layers


def test_a_model_of_others_is_not_counted() -> None:
    assert passed_in_a_thread(ModelView(load(str(TINY_GPTJ), "cpu")), 1) == 0
    assert blocks_of(None) == 0


class Lane:
    """A lane whose decoding is played, at a time that is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: Any = create_autospec(RequestQueue, instance=True)
        self.requests.gone.return_value = set()
        self.moment = 100.0
        monkeypatch.setattr("service.worker.lanes.generation_lane.time.monotonic", self.now)
        nothing: Any = None
        self.lane = GenerationLane(self.requests, nothing, nothing)
        self.loop: Any = SimpleNamespace(rounds=1, blocks=1, works=True)
        self.lane._loop = self.loop
        self.after(0.0)

    def now(self) -> float:
        return self.moment

    def after(self, seconds: float, blocks: int = 0) -> tuple[float, float, float]:
        """How long the step goes on, no block has ended, and requests have not gone on."""
        self.moment += seconds
        self.loop.blocks += blocks
        self.lane.drop_leavers()
        return self.lane.step_s(), self.lane.still_s(), self.lane.silent_s()


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Lane:
    return Lane(monkeypatch)


def test_a_long_step_is_no_hang(played: Lane) -> None:
    assert played.after(20.0, blocks=1) == (20.0, 0.0, 0.0)
    assert played.after(20.0, blocks=1) == (40.0, 0.0, 0.0)
    assert played.after(20.0) == (60.0, 20.0, 20.0)
    played.loop.rounds += 1
    assert played.after(1.0) == (0.0, 0.0, 0.0)
    played.loop.works = False
    assert played.after(20.0) == (0.0, 0.0, 0.0)


def test_a_lane_that_takes_nothing_any_more_does_not_go_on(played: Lane) -> None:
    played.moment += 6.0
    played.loop.rounds += 1
    assert played.lane.silent_s() == 6.0
    assert played.after(0.0)[2] == 0.0


def test_generations_have_no_signs_of_life_of_their_own(played: Lane) -> None:
    played.lane._live["ask_1"] = Any  # type: ignore[assignment]
    played.lane.tell_progress(())
    played.requests.reply_all.assert_not_called()
    played.lane.tell_progress(("ask_2",))
    played.lane.tell_progress(("ask_2",))
    played.requests.reply_all.assert_called_once_with([("ask_2", PROGRESS)])
