"""Every entry of the registry of job kinds can be used by both processes."""

from __future__ import annotations

import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import service
from service.api.app import ROUTES
from service.api.jobs.resource import JobResource
from service.contracts.codes import status_of
from service.contracts.jobs import JobKind, Lane
from service.contracts.kinds import JOBS, load, payload_model, result_model
from service.contracts.schemas.access import Scope
from service.worker.failures import Refused
from service.worker.lanes.edit_lane import writer_of
from service.worker.lanes.read_lane import runner_of


def resources() -> list[JobResource[Any, Any]]:
    """The resources that are jobs, in modules that the api takes its routes from."""
    found = [one for module in ROUTES for one in vars(module).values()]
    return list({id(one): one for one in found if isinstance(one, JobResource)}.values())


EVERY = pytest.mark.parametrize("kind", list(JobKind), ids=str)


@EVERY
def test_its_models_and_its_runner_are_there(kind: JobKind) -> None:
    for model in (payload_model(kind), result_model(kind)):
        assert issubclass(model, BaseModel)
    runner = load(kind.spec.runner)
    assert list(signature(runner).parameters) == ["task"]
    assert runner.__module__.startswith("service.worker.kinds.")
    assert Scope(kind.spec.scope)


@EVERY
def test_only_its_lane_runs_it(kind: JobKind) -> None:
    finders = {Lane.WRITE: writer_of, Lane.READ: runner_of}
    assert finders.pop(kind.lane)(kind) is load(kind.spec.runner)
    [other] = finders.values()
    with pytest.raises(Refused, match=repr(kind.value)):
        other(kind)


@EVERY
def test_its_resource_has_the_models_of_the_registry(kind: JobKind) -> None:
    [resource] = [one for one in resources() if one.kind is kind]
    models = get_args(resource.__orig_class__)  # type: ignore[attr-defined]
    assert models == (payload_model(kind), result_model(kind))


@EVERY
def test_an_unknown_name_at_its_path_is_a_404(kind: JobKind) -> None:
    own_path = kind.spec.path != JOBS
    assert status_of(f"unknown_{kind.value}") == (404 if own_path else 500)


def test_every_module_of_the_room_is_a_kind() -> None:
    folder = Path(service.__file__).parent / "worker" / "kinds"
    modules = {f"service.worker.kinds.{path.stem}" for path in folder.glob("[!_]*.py")}
    assert modules == {kind.spec.runner.partition(":")[0] for kind in JobKind}


def test_names_and_ids_are_told_apart() -> None:
    paths = [kind.spec.path for kind in JobKind if kind.spec.path != JOBS]
    prefixes = [kind.spec.prefix for kind in JobKind if kind.spec.path != JOBS]
    assert len(set(paths)) == len(paths)
    assert len({*prefixes, "job_"}) == len(prefixes) + 1


def test_the_registry_imports_neither_models_nor_runners() -> None:
    code = (
        "import sys, service.contracts.jobs; "
        "print([n for n in sys.modules if n.startswith(('torch', 'service.contracts.schemas'))])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
