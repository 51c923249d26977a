"""Versions that targets are brought to, and what becomes of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from jeep_core.models.loading import LoadedModel
from service.contracts.schemas import FactRecord
from service.store import Store
from support.service.thin_versions import add_edit

FACT = FactRecord(subject="Lyon", prompt="{} is a city in the country of", target_new=" Japan")


def edit(base: LoadedModel, store: Store) -> str:
    """Another version on top of head, which becomes head."""
    return add_edit(base, store, facts=[FACT])


def roll_back(store: Store, to: str) -> None:
    """Move head."""
    previous = store.head.read().version
    store.head.move(to, expected=previous, job_id=None, fence=1, who="test", why="rollback")


def artefacts(store: Store) -> list[str]:
    """Names of the artefacts there are, without the ends of their hashes."""
    folder = store.artefacts.folder
    found = folder.iterdir() if folder.exists() else ()
    return sorted(path.name.partition("-")[0] + path.suffix for path in found)


def until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it never came to this: {what}"
        time.sleep(0.02)
