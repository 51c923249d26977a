"""``jeep targets`` against a running api, with the worker's part played."""

from __future__ import annotations

import json
import threading
import time
from datetime import timedelta

from support.service.command import jeep

from service.contracts.jobs import now
from service.contracts.schemas.targets import Proof, TargetError, TargetState
from service.store import Store

ADDRESS = "http://127.0.0.1:8001"


def synced() -> TargetState:
    moment = now()
    return TargetState(
        version="v0",
        model="smol@v0",
        moved_at=moment,
        pushed_at=moment,
        seconds=1.25,
        looked_at=moment,
        proof=Proof(questions=4, telling=2, farthest=0.0012),
    )


def taken(store: Store) -> bool:
    return store.targets.take_asked(store.targets.all()[0].id)


def later(store: Store, state: TargetState, asked: bool = False) -> threading.Thread:
    """Record the outcome of a push a moment after the target is there, or a look was asked for."""

    def record() -> None:
        while not store.targets.all() or (asked and not taken(store)):
            time.sleep(0.02)
        time.sleep(0.1)
        fresh = state.model_copy(update={"looked_at": now()})
        store.targets.set_state(store.targets.all()[0].id, fresh)

    thread = threading.Thread(target=record)
    thread.start()
    return thread


def test_a_target_is_added_waited_for_listed_and_removed(url: str, model: Store) -> None:
    outcome = later(model, synced())
    added = jeep(url, "targets", "add", "smol", "vllm", ADDRESS, "--alias", "now")
    outcome.join()
    assert added.returncode == 0, added.stderr
    assert "pushed in 1.2 s; 4 questions, 2 of them telling" in added.stdout
    [record] = model.targets.all()
    assert (record.alias, record.follow) == ("now", "head")
    listed = jeep(url, "targets").stdout
    for word in ("smol", "vllm", "head", "synced", "v0", "smol@v0", ADDRESS):
        assert word in listed
    shown = json.loads(jeep(url, "targets", "show", "smol", "--json").stdout)
    assert shown["status"] == "synced"
    assert "is removed" in jeep(url, "targets", "remove", "smol").stdout
    assert json.loads(jeep(url, "targets", "list", "--json").stdout) == []


def test_a_push_that_fails_is_told_with_what_to_do(url: str, model: Store) -> None:
    moment = now()
    error = TargetError(
        code="rank_too_large",
        message="start vLLM with --max-lora-rank 64",
        since=moment,
        tries=3,
        next_at=moment + timedelta(seconds=60),
    )
    outcome = later(model, TargetState(error=error))
    added = jeep(url, "targets", "add", "smol", "vllm", ADDRESS)
    outcome.join()
    assert added.returncode == 1
    assert "rank_too_large: start vLLM with --max-lora-rank 64 (tried 3 times" in added.stdout


def test_a_look_is_asked_for_and_its_outcome_awaited(url: str, model: Store) -> None:
    assert jeep(url, "targets", "add", "smol", "vllm", ADDRESS, "--no-wait").returncode == 0
    outcome = later(model, synced(), asked=True)
    assert jeep(url, "targets", "sync", "smol").returncode == 0
    outcome.join()
    assert jeep(url, "targets", "follow", "smol", "base", "--no-wait").returncode == 0
    assert model.targets.get("smol").follow == "base"


def test_refusals_end_the_command(url: str, model: Store) -> None:
    ended = jeep(url, "targets", "add", "smol", "vllm", "http://10.0.0.1")
    assert ended.returncode == 1
    assert "JEEP_TARGETS_ALLOW" in ended.stderr
    assert jeep(url, "targets", "show", "none").returncode == 1
    assert jeep(url, "targets", "add", "smol", "ollama", ADDRESS).returncode == 2
