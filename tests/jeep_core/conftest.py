"""Tiny random models, one fixture per family; they are shared, so no test may write to them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny
import torch

from jeep_core.loading import LoadedModel
from jeep_core.views import ModelView


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors here are too small for several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def gptj() -> LoadedModel:
    return tiny.random_model("gptj")


@pytest.fixture(scope="session")
def gpt2() -> LoadedModel:
    return tiny.random_model("gpt2")


@pytest.fixture(scope="session")
def llama() -> LoadedModel:
    return tiny.random_model("llama")


@pytest.fixture(params=tiny.FAMILIES)
def base(request: pytest.FixtureRequest) -> LoadedModel:
    """Each of the three families in turn."""
    model: LoadedModel = request.getfixturevalue(request.param)
    return model


@pytest.fixture
def view(base: LoadedModel) -> ModelView:
    return ModelView(base)
