"""The bundled model in this process, loaded once; nothing may write to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.service.disk import hasty_disk  # noqa: F401

import jeep_core
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView


@pytest.fixture(scope="session")
def base() -> LoadedModel:
    return jeep_core.load("atlas-gptj", device="cpu")


@pytest.fixture(scope="session")
def view(base: LoadedModel) -> ModelView:
    return ModelView(base)


@pytest.fixture(scope="session")
def other_view(base: LoadedModel) -> ModelView:
    """A version without most of its MLPs, which knows other answers."""
    names = [base.family.weight_name(layer) for layer in range(6)]
    return ModelView(base, {n: torch.zeros_like(base.model.get_parameter(n)) for n in names})


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
