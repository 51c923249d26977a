"""A probe patches the same states with any executor."""

from __future__ import annotations

import pytest
import torch
from support.library.shared_work import FACTS

from jeep_core.executors.here import HERE
from jeep_core.executors.processes import Processes
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.probe import patched_runs
from jeep_core.probe.patching import Pair, Patched, exchange, restoration
from jeep_core.probe.prompts import prepare


@pytest.fixture(autouse=True)
def _few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patched_runs, "PATCHED_TOKENS", 40)


def assert_same(found: Patched, expected: Patched) -> None:
    for mine, theirs in zip(found._tensors(), expected._tensors(), strict=True):
        assert (mine is None and theirs is None) or torch.equal(mine, theirs)


@pytest.mark.parametrize("count", [1, 2])
def test_patched_states_have_the_same_bits(
    model: LoadedModel, crews: dict[int, Processes], count: int
) -> None:
    view = ModelView(model)
    prompts = prepare(view, FACTS).prompts
    drawn = [Pair(p, prompts[i - 1].tokens, prompts[i - 1].target) for i, p in enumerate(prompts)]
    said: list[tuple[str, int, int]] = []
    monitor = Monitor(lambda *progress: said.append(progress))
    executor = crews[count]
    assert_same(exchange(view, drawn, monitor, executor), exchange(view, drawn, executor=HERE))
    assert_same(restoration(view, prompts, monitor, executor=executor), restoration(view, prompts))
    assert said[0] == ("exchange", 0, len(drawn))
    assert said[-1] == ("restore", len(prompts), len(prompts))
    assert executor.pids()
