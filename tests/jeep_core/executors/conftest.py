"""A tiny model in a folder, worker processes that several tests use, and units of two facts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.library import shared_work

from jeep_core.executors.processes import Processes
from jeep_core.models.loading import LoadedModel
from jeep_core.moments.cache import Moments
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
