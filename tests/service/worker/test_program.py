"""``python -m service.worker``, run in this process."""

from __future__ import annotations

import gc
import runpy
import sys

import pytest

import service.worker.process
from service.settings import EXIT_CONFIG


def test_a_worker_collects_garbage_once_it_runs(
    frozen: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []
    monkeypatch.setattr(
        service.worker.process, "main", lambda settings: found.append(gc.isenabled())
    )
    assert ended() is None
    assert found == [True]
    assert frozen == [False]


def test_a_worker_whose_settings_are_wrong_ends_as_ever(
    frozen: list[bool], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JEEP_DTYPE", "int3")
    assert ended() == EXIT_CONFIG
    assert capsys.readouterr().err.startswith("JEEP_DTYPE: ")
    assert gc.isenabled()


def test_a_worker_whose_modules_cannot_be_imported_collects_garbage(
    frozen: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "service.worker.process", None)
    with pytest.raises(ImportError):
        ended()
    assert gc.isenabled()


def ended() -> object:
    """The exit code of the worker's program, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["service.worker"])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_module("service.worker", run_name="__main__")
    return exit_.value.code
