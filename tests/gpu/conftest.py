"""Tests for a CUDA machine: ``make test-gpu``.  ``--device cpu`` runs the same code anywhere."""

from __future__ import annotations

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    name = str(request.config.getoption("--device"))
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.fail("these tests need a CUDA device", pytrace=False)
    return name
