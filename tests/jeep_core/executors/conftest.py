"""A tiny model in a folder, worker processes that several tests use, and units of two facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from support.executors.kinds_of_work import KINDS
from support.library import shared_work

from jeep_core.executors.here import HERE
from jeep_core.executors.processes import Processes
from jeep_core.models.loading import LoadedModel
from jeep_core.moments.cache import Moments
from jeep_core.monitor import NOTHING
from jeep_core.values import units


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return shared_work.model_in(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def moments(model: LoadedModel) -> Moments:
    return shared_work.moments_of(model)


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "unit_facts", lambda device: 2)


@pytest.fixture(scope="session")
def crews() -> Iterator[dict[int, Processes]]:
    """Executors by their number of workers, which start theirs at first use."""
    found = {count: Processes(count, niceness=0) for count in (1, 2, 4)}
    yield found
    for one in found.values():
        one.close()


@pytest.fixture(scope="session")
def here(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The result of a kind of work in this process, computed once; who asks cuts small parts."""
    return cache(lambda kind: KINDS[kind][0](model, HERE, NOTHING, tmp_path_factory.mktemp("here")))
