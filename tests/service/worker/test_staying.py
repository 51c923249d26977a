"""Threads that a lane keeps for its next job."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch
from support.library import tiny

from jeep_core.executors.threads import use_threads
from jeep_core.models import views
from service.store import Store
from service.worker.aside import aside
from service.worker.staying import hand_in
from service.worker.versions import tensors

WAIT_S = 30.0


def its_thread(*_: object) -> threading.Thread:
    return threading.current_thread()


def test_the_next_work_finds_the_threads_of_the_last() -> None:
    first = hand_in("kept", 1, its_thread).result()
    assert hand_in("kept", 1, its_thread).result() is first
    assert hand_in("kept", 3, its_thread).result() is not first
    assert hand_in("other", 1, its_thread).result() is not first


def test_they_are_of_one_thread_and_end_with_it() -> None:
    found: list[threading.Thread] = []
    mine = hand_in("kept", 1, its_thread).result()
    lane = threading.Thread(target=lambda: found.append(hand_in("kept", 1, its_thread).result()))
    lane.start()
    lane.join()
    assert found[0] is not mine
    found[0].join(WAIT_S)
    assert not found[0].is_alive()
    assert mine.is_alive()


def test_where_no_thread_can_be_started_nothing_is_left_for_a_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="new thread"):
            hand_in("refused", 1, partial(done.append, "first"))
    hand_in("refused", 1, partial(done.append, "second")).result()
    assert done == ["second"]


def test_work_beside_an_edit_keeps_its_thread_and_has_the_number_that_is_asked_for() -> None:
    before = torch.get_num_threads()
    seen: list[tuple[threading.Thread, int]] = []

    def work(_: object) -> None:
        seen.append((threading.current_thread(), torch.get_num_threads()))

    try:
        for count in (1, 2, 1):
            with aside(work, count) as result:
                result()
    finally:
        use_threads(before)
    assert len({thread for thread, _ in seen}) == 1
    assert [count for _, count in seen] == [1, 2, 1]


def test_storing_keeps_its_threads(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "WRITERS", 1)
    seen: list[threading.Thread] = []
    put = tensors.put

    def noted(*given: object) -> object:
        seen.append(threading.current_thread())
        return put(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(tensors, "put", noted)
    for value in (1.0, 2.0):
        tensors.put_all(store, {"a": torch.full((2,), value)})
    assert len(seen) == 2
    assert seen[0] is seen[1]


def test_a_fork_is_made_of_the_base() -> None:
    """So one of a view that another thread runs has none of the hooks that are in it meanwhile."""
    view = views.ModelView(tiny.random_model("llama"))
    block = view.base.family.layers_of(view.model)[0]
    with views.hooked(block.register_forward_pre_hook(lambda *_: None)):
        fork = view.fork()
    assert not any(one._forward_pre_hooks for one in fork.model.modules())
