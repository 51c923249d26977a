"""The model of these tests: the bundled GPT-J, or the folder that ``INTEROP_MODEL`` names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jeep_core.atlas import MODELS


@pytest.fixture(scope="session")
def model() -> Path:
    return Path(os.environ.get("INTEROP_MODEL", MODELS["atlas-gptj"])).resolve()
