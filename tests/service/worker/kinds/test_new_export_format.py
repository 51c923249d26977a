"""A new export format: a model of its options, a module and one registry entry are all it needs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from support.library.exported import edited, loaded
from support.service.outward.export_bench import ExportBench
from typer.testing import CliRunner

from jeep_core.evaluation.units import Told
from jeep_core.exports.folders import verify
from service.api.resources.exports import _options
from service.cli import app
from service.contracts.exports import FORMATS, ExportFormat
from service.contracts.schemas.exports import ExportOptions
from service.worker.exports.asking import check
from service.worker.exports.writing import Evidence, Version, Writer, Written


class NormsExport(ExportOptions):
    """The norms of the changed matrices."""

    format: Literal["norms"]
    digits: int = 3


def write(version: Version, options: NormsExport, folder: Path) -> Written:
    norms = {n: round(float(t.norm()), options.digits) for n, t in version.view.replaced.items()}
    (folder / "norms.json").write_text(json.dumps(norms))
    return Written(use="cat FOLDER/norms.json", library="any", said="Its norms.")


def prove(version: Version, options: NormsExport, folder: Path) -> Evidence:
    """Another program has answered, which has lost the second fact."""
    held = [Told("x", holds=True), Told("y", holds=False)]
    return Evidence(told=held, checks=[check("digits", "digits", options.digits, 4)])


@pytest.fixture
def norms(monkeypatch: pytest.MonkeyPatch) -> ExportFormat:
    module: Any = ModuleType("norms_of_a_test")
    module.WRITER = Writer(lambda version, options: 100, write, prove)
    module.Options = NormsExport
    monkeypatch.setitem(sys.modules, module.__name__, module)
    made = ExportFormat("norms", "norms_of_a_test:Options", "norms_of_a_test:WRITER", "its norms")
    monkeypatch.setitem(FORMATS, "norms", made)
    return made


def test_it_is_written_described_and_proven(tmp_path: Path, norms: ExportFormat) -> None:
    base = loaded(tmp_path / "model", "llama")
    bench = ExportBench(tmp_path / "store", base, edited(base))
    job = bench.job("norms", digits=2)
    result = bench.run(job)
    verify(bench.folder(job))
    assert {one.path for one in result.files} == {"norms.json", "README.md", "export.json"}
    assert (result.proof.facts, result.proof.hold) == (2, 1)
    assert [(one.name, one.ok) for one in result.proof.checks] == [("digits", True)]


def test_its_options_are_those_of_its_model(norms: ExportFormat) -> None:
    spec, options = _options({"format": "norms", "digits": 1})
    assert (spec, options) == (norms, NormsExport(format="norms", digits=1))


def test_the_command_passes_its_options_on() -> None:
    refused = CliRunner().invoke(app, ["export", "head", "--format", "norms", "--option", "digits"])
    assert refused.exit_code == 2
