"""The model and the version that a worker is given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from jeep_core.executors import workshop as workshop_module
from jeep_core.executors.processes import Processes
from jeep_core.executors.ray import cluster as cluster_module
from jeep_core.executors.ray.cluster import RayCluster
from jeep_core.executors.version import version_of
from jeep_core.executors.workshop import Workshop
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView

TASK = "jeep_core.text.counting:counted"


def on(*devices: str) -> LoadedModel:
    """A model on these devices."""
    named = [torch.device(name) for name in devices]
    return cast(
        LoadedModel,
        SimpleNamespace(
            folder=Path("/models/one"),
            name="one",
            dtype=torch.float32,
            device=named[0],
            devices=named,
            layout="0-3@cuda:0,4-7@cuda:1",
            model_hash="hash",
        ),
    )


@pytest.mark.parametrize(
    ("devices", "in_processes", "in_actors"),
    [
        (["cpu"], "cpu", "cpu"),
        (["cuda:1"], "cuda:1", "cuda"),
        (["cuda:0", "cuda:1"], "0-3@cuda:0,4-7@cuda:1", "0-3@cuda:0,4-7@cuda:1"),
    ],
)
def test_processes_use_the_device_of_their_caller_and_actors_the_first_of_their_own(
    monkeypatch: pytest.MonkeyPatch, devices: list[str], in_processes: str, in_actors: str
) -> None:
    monkeypatch.setattr(cluster_module, "find_spec", lambda name: object())
    base = on(*devices)
    assert Processes()._source_of(base).device == in_processes
    assert RayCluster()._source_of(base).device == in_actors


def test_a_version_that_is_sent_again_is_not_made_again(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = model.family.weight_name(1)
    version = version_of(ModelView(model, {name: model.model.get_parameter(name) * 1.5}))
    real, made = workshop_module.view_of, []

    def counted(*given: Any) -> Any:
        made.append(given)
        return real(*given)

    monkeypatch.setattr(workshop_module, "view_of", counted)
    shop = Workshop(model)
    for sent in (version, version, version.key):
        assert shop.begin(TASK, None, sent) == []
    assert len(made) == 1
