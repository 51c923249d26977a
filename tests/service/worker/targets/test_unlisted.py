"""A server that loads and answers, but does not show what it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.service.outward.played_targets import PlayedVllm

from service.contracts.schemas.targets import NewTarget, TargetKind
from service.store import Store
from service.worker.targets.connection import TargetFailed
from service.worker.targets.sync import Sync

MakeSync = Callable[..., Sync]


@pytest.mark.parametrize("alias", [None, "current"])
def test_a_list_without_what_was_loaded_is_told_and_not_pushed_for_ever(
    vllm: PlayedVllm, store: Store, sync_of: MakeSync, alias: str | None
) -> None:
    """As of a proxy that shows its own list of models."""
    right, hidden = vllm.reply, alias or "smol@v1"

    def reply(path: str, body: object) -> tuple[int, Any]:
        status, found = right(path, body)
        if path == "/v1/models":
            found["data"] = [one for one in found["data"] if one["id"] != hidden]
        return status, found

    vllm.reply = reply  # type: ignore[method-assign]
    wanted = NewTarget(name="smol", kind=TargetKind.VLLM, address=vllm.url, alias=alias)
    sync = sync_of(store.targets.add(wanted, 16))
    for _ in range(2):  # told in the same words again, not that it is loaded already
        with pytest.raises(TargetFailed, match=f"loaded {hidden}, but does not list it") as told:
            sync.run()
        assert (told.value.code, told.value.lasting) == ("not_listed", True)
        assert hidden not in vllm.loaded
    vllm.reply = right  # type: ignore[method-assign]
    assert sync.run()
    assert hidden in vllm.loaded
    assert not sync.run()
