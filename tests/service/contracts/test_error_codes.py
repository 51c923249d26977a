"""Every exception of ours has a code that the one table knows, and survives pickling."""

from __future__ import annotations

import ast
import importlib
import pickle
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import jeep_core
import service
from jeep_core.editors.plugins import BrokenEditor
from jeep_core.errors import (
    Coded,
    FieldProblem,
    InvalidFacts,
    InvalidFields,
    InvalidHParams,
    MissingProgram,
    RankTooHigh,
)
from jeep_core.evaluation.harness.installed import NoHarness
from jeep_core.probe.defaults.rule import NoProposal
from jeep_core.spec.chats import UnusableMessages
from jeep_core.spec.positions import TokenizationError
from jeep_core.suites.cases import InvalidSuite, RecordProblem
from jeep_core.suites.fields import Malformed, Unusable
from service.api.http.problems import ApiProblem, ClientGone, from_worker, install, problem_for
from service.client import ApiError
from service.contracts.codes import JOB_ONLY, STATUS, status_of
from service.contracts.jobs import JobError
from service.contracts.schemas import Problem
from service.queue import QueueFailure
from service.serve import ServeError
from service.store import HeadMoved, KeyReused, NameTaken, StoreFull
from service.store.suites import SuiteTaken, UnknownSuite
from service.worker.failures import GuardFailed, Refused, failure
from service.worker.targets.connection import TargetFailed

PROBLEMS = [FieldProblem("/facts/3/prompt", "empty", "it is empty")]
ROW = RecordProblem(3, 1, "answers", "empty", "it is empty")
GUARD: dict[str, str | float] = {"pointer": "/guards/x", "message": "too low", "limit": 0.5}
MADE: dict[type[BaseException], BaseException] = {
    InvalidFields: InvalidFields(PROBLEMS),
    InvalidFacts: InvalidFacts(PROBLEMS),
    InvalidHParams: InvalidHParams(PROBLEMS),
    BrokenEditor: BrokenEditor("it cannot be used"),
    InvalidSuite: InvalidSuite([ROW], 7),
    Malformed: Malformed("answers", "empty", "it is empty"),
    Unusable: Unusable("prompt", "no_subject", "it lacks the subject"),
    TokenizationError: TokenizationError("prompt", "empty", "it is empty"),
    UnusableMessages: UnusableMessages("not_messages", "messages must be a list"),
    ApiProblem: ApiProblem("name_taken", "it is taken", [{"pointer": "/name"}], {"X-A": "b"}),
    ApiError: ApiError(
        Problem(title="Gone", status=404, detail="no", code="unknown_job", request_id="r")
    ),
    Refused: Refused("no_cases", "there is none"),
    GuardFailed: GuardFailed([GUARD]),
    ServeError: ServeError("the port is taken", 75),
    HeadMoved: HeadMoved("v1", "v2"),
    NameTaken: NameTaken("lyon", "v3"),
    KeyReused: KeyReused("job_1"),
    MissingProgram: MissingProgram("llama-quantize is missing", "llama-quantize"),
    NoHarness: NoHarness(),
    RankTooHigh: RankTooHigh("it needs rank 9", 9),
    TargetFailed: TargetFailed("wrong_answer", "its answers are not ours", lasting=True),
}
"""Examples of classes whose constructor wants more than a message, or another number of things."""

OF_A_FIELD = {Malformed, Unusable, TokenizationError, UnusableMessages}
"""Theirs is the code of a problem in ``errors``, never that of an answer."""


def modules() -> Iterator[str]:
    for package in (jeep_core, service):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield found.name


def ours() -> list[type[Exception]]:
    """Every exception class that is defined in our modules."""
    found = set()
    for name in modules():
        for value in vars(importlib.import_module(name)).values():
            mine = isinstance(value, type) and issubclass(value, Exception)
            if mine and value.__module__.partition(".")[0] in ("jeep_core", "service"):
                found.add(value)
    return sorted(found, key=lambda cls: (cls.__module__, cls.__name__))


def example(cls: type[BaseException]) -> Any:
    return MADE.get(cls) or cls("what was wrong")


@pytest.mark.parametrize("cls", ours(), ids=lambda cls: cls.__name__)
def test_the_code_of_every_exception_is_in_the_table(cls: type[Exception]) -> None:
    assert issubclass(cls, Coded)
    code = example(cls).code
    assert code in STATUS or code in JOB_ONLY or cls in OF_A_FIELD


@pytest.mark.parametrize("cls", ours(), ids=lambda cls: cls.__name__)
def test_every_exception_has_a_code_of_its_own(cls: type[Exception]) -> None:
    """A forgotten one would be the code of what nobody has foreseen."""
    assert example(cls).code != Coded.code or cls is QueueFailure


@pytest.mark.parametrize("cls", ours(), ids=lambda cls: cls.__name__)
def test_every_exception_survives_pickling(cls: type[Exception]) -> None:
    error = example(cls)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is cls
    assert (str(back), back.args, back.code) == (str(error), error.args, error.code)
    assert vars(back) == vars(error)


def test_the_exceptions_of_all_packages_are_found() -> None:
    assert len(ours()) > 40


def test_no_code_belongs_to_both_tables() -> None:
    assert not JOB_ONLY & STATUS.keys()


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (UnknownSuite("mine"), "unknown_suite", 404),
        (SuiteTaken("mine"), "name_taken", 409),
        (HeadMoved("v1", "v2"), "version_conflict", 409),
        (StoreFull("full"), "store_full", 507),
        (ApiProblem("no_worker", "none"), "no_worker", 503),
        (OSError(28, "no space"), "disk_full", 507),
        (OSError(24, "Too many open files"), "temporarily_unavailable", 503),
        (MemoryError(), "out_of_memory", 503),
        (PermissionError(13, "Permission denied", "/store/x"), "permission_denied", 500),
        (OSError(30, "Read-only file system", "/store/x"), "permission_denied", 500),
        (PermissionError(1, "Operation not permitted"), "internal_error", 500),
        (KeyError("x"), "internal_error", 500),
        (InvalidFacts(PROBLEMS), "invalid_facts", 422),
        (InvalidHParams(PROBLEMS), "invalid_hparams", 422),
        (BrokenEditor("it cannot be used"), "invalid_hparams", 422),
        (InvalidSuite([ROW], 7), "invalid_suite", 422),
        (NoProposal("the evidence is thin"), "no_proposal", 500),
    ],
    ids=lambda value: str(value)[:30],
)
def test_routes_and_jobs_say_the_same(error: Exception, code: str, status: int) -> None:
    problem = problem_for(error)
    assert (problem.code, problem.status) == (code, status)
    assert ("Retry-After" in problem.headers) is (status in (503, 507))
    if not isinstance(error, ApiProblem):
        assert failure(error).code == code


def test_pointers_reach_the_job() -> None:
    found = failure(InvalidFacts(PROBLEMS))
    assert found == JobError(
        code="invalid_facts",
        message="/facts/3/prompt: it is empty",
        errors=[{"pointer": "/facts/3/prompt", "code": "empty", "message": "it is empty"}],
    )
    assert failure(GuardFailed([GUARD])).errors == [GUARD]


def codes_in(path: Path) -> Iterator[tuple[str, str]]:
    """The codes that a module raises literally, with the call that has them."""
    place = {"ApiProblem": 0, "Refused": 0, "unavailable": 0, "busy": 0, "invalid": 1}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            for option in node.keywords if node.func.id == "JobError" else []:
                if option.arg == "code" and isinstance(option.value, ast.Constant):
                    yield node.func.id, str(option.value.value)
            at = place.get(node.func.id)
            if at is not None and len(node.args) > at and isinstance(node.args[at], ast.Constant):
                yield node.func.id, str(node.args[at].value)  # type: ignore[attr-defined]


def test_every_code_in_the_source_is_in_the_table() -> None:
    found = [
        (path.name, call, code)
        for path in Path(service.__file__).parent.rglob("*.py")
        for call, code in codes_in(path)
    ]
    assert len(found) > 30
    wrong = [
        (name, call, code)
        for name, call, code in found
        if code not in (STATUS.keys() | JOB_ONLY if call == "Refused" else STATUS.keys())
    ]
    assert wrong == []


def test_an_unknown_code_is_a_500() -> None:
    assert status_of("of_a_later_worker") == 500


@pytest.mark.parametrize("code", ["empty", "too_long"])
def test_a_prompt_that_no_model_takes_is_the_client_s_fault(code: str) -> None:
    """The worker says so if its model is another one than the request was checked for."""
    problem = from_worker(JobError(code=code, message="the prompt cannot be asked"))
    assert (problem.status, problem.code) == (422, code)


def test_the_answer_to_a_client_that_has_gone_has_its_status_from_the_table() -> None:
    app = FastAPI()
    install(app)

    @app.get("/")
    def route() -> None:
        raise ClientGone

    answer = TestClient(app).get("/")
    assert (answer.status_code, answer.content) == (STATUS["client_gone"], b"") == (499, b"")
