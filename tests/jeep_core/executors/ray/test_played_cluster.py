"""Every kind of work on a Ray cluster whose actors are threads: the same bits as here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.executors import kinds_of_work
from support.executors.kinds_of_work import KINDS
from support.played_ray import RAY_IN_THREADS

from jeep_core.executors.ray.cluster import RayCluster
from jeep_core.models.loading import LoadedModel
from jeep_core.monitor import NOTHING


@pytest.fixture(scope="module")
def clusters() -> Iterator[dict[int, RayCluster]]:
    """Executors by their number of actors, which start theirs at first use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(RAY_IN_THREADS)
        found = {count: RayCluster(count, "10.0.0.1:6379") for count in (1, 2, 4)}
        yield found
        for one in found.values():
            one.close()


@pytest.fixture(autouse=True)
def _small_units() -> None:
    """Actors that edit by themselves cut facts as they always do, and so does this process."""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds_of_work.cut_into_small_parts(monkeypatch)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_actors_gives_the_same_bits(
    model: LoadedModel,
    clusters: dict[int, RayCluster],
    here: Callable[[str], Any],
    tmp_path: Path,
    kind: str,
    count: int,
) -> None:
    assert KINDS[kind][0](model, clusters[count], NOTHING, tmp_path) == here(kind)
