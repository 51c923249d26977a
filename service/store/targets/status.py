"""The status of a target: what it should have, what it has, how far it is behind."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from service.contracts.jobs import now
from service.contracts.schemas.targets import Lag, PushTarget, TargetRecord, TargetState
from service.store.errors import CorruptFile, StoreError
from service.store.store import Store

Status = Literal["new", "synced", "behind", "failed"]


def wanted_version(store: Store, record: TargetRecord) -> str | None:
    """The id of the version that a target should have; None where it cannot be known."""
    try:
        return store.names.resolve(record.follow)
    except StoreError:
        return None


def target_status(store: Store, record: TargetRecord) -> PushTarget:
    """A target as ``GET /targets/{id}`` shows it."""
    state, wanted = store.targets.state(record.id), wanted_version(store, record)
    return PushTarget(
        **record.model_dump(exclude={"removed", "followed_since", "model"}),
        status=_status(state, wanted),
        wanted=wanted,
        version=state.version,
        model=state.model,
        lag=_lag(store, record, state, wanted),
        pushed_at=state.pushed_at,
        seconds=state.seconds,
        looked_at=state.looked_at,
        proof=state.proof,
        error=state.error,
    )


def _status(state: TargetState, wanted: str | None) -> Status:
    if state.error is not None:
        return "failed"
    if state.looked_at is None:
        return "new"
    return "synced" if state.version == wanted else "behind"


def _lag(store: Store, record: TargetRecord, state: TargetState, wanted: str | None) -> Lag:
    """Moves of what it follows that it has not followed; seconds since the first of them."""
    if wanted is None or state.version == wanted:
        return Lag(versions=0, seconds=0.0)
    missed = _missed(store, record, state)
    since = max([record.followed_since, *(at for at in (state.lost_at, *missed[:1]) if at)])
    seconds = max(0.0, (now() - since).total_seconds())
    return Lag(versions=max(1, len(missed)), seconds=round(seconds, 3))


def _missed(store: Store, record: TargetRecord, state: TargetState) -> list[datetime]:
    """When head moved since the move that the target has followed last."""
    if record.follow != "head" or state.moved_at is None:
        return []
    try:
        since = max(state.moved_at, record.followed_since)
        return [move.when for move in store.head.reflog() if move.when > since]
    except CorruptFile:
        return []
