"""Memory that a job has freed goes back to the system."""

from __future__ import annotations

import psutil
import pytest
import torch

from service.worker import memory

SMALL = 25_000
"""Elements of a tensor that the C library takes from its heap and not from a mapping of its own."""


def test_freed_blocks_below_one_in_use_are_given_back() -> None:
    process = psutil.Process()
    held = [torch.ones(SMALL) for _ in range(2000)]
    last = torch.ones(SMALL)
    full = process.memory_info().rss
    held.clear()
    memory.give_back_freed()
    freed = full - process.memory_info().rss
    assert freed > 100e6 or memory._malloc_trim() is None
    assert last.sum() == SMALL


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_malloc_trim", lambda: None)
    memory.give_back_freed()
