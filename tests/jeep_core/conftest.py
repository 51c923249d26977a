"""Tiny random models, one fixture per family; they are shared, so no test may write to them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.library import folders, tiny

from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView


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


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole folder of each family; tests copy them."""
    made = {}
    for family in ("llama", "gpt2", "gemma3_text", "gptj"):
        made[family] = tmp_path_factory.mktemp(family) / "model"
        folders.write_folder(made[family], family)
    return made


@pytest.fixture
def make_folder(whole: dict[str, Path], tmp_path: Path) -> folders.MakeFolder:
    """Makes separate folders with a damage."""

    def make(family: str, damage: folders.Damage = lambda folder: None) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(whole[family], folder)
        damage(folder)
        return folder

    return make
