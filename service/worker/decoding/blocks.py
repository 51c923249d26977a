"""How many of the model's blocks each thread has passed: what tells a long step from a hang."""

from __future__ import annotations

from threading import get_ident
from typing import Any

from jeep_core.models.loading import LoadedModel

_passed: dict[int, int] = {}


def count_blocks(base: LoadedModel) -> None:
    """Count from now on the blocks that threads pass, in this model and in its later views."""
    for block in base.family.layers_of(base.model):
        block.register_forward_hook(_count)


def blocks_of(thread: int | None) -> int:
    """The blocks that a thread, by its number, has passed; 0 before it has a number."""
    return 0 if thread is None else _passed.get(thread, 0)


def _count(*_: Any) -> None:
    thread = get_ident()  # others never write its entry
    _passed[thread] = _passed.get(thread, 0) + 1
