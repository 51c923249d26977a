"""Evaluations: starting one, its figures, two targets compared case by case, single cases."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from jeep_core.evaluation.harness.installed import NoHarness
from jeep_core.suites import FORMATS
from service.api.console.calls import Calls, at
from service.api.console.forms import Form, read_form
from service.api.console.pages.measuring.cases import listed
from service.api.console.pages.models import editor_names, model_or_reason
from service.api.console.pages.starting import Started, number, started, started_at, versions_of
from service.api.console.rendering import CHANGED, alike, fragment, page
from service.api.http.access import needs
from service.api.http.paging import Page
from service.api.http.problems import not_found
from service.api.http.sessions import CONSOLE
from service.api.resources.evaluations import EVALUATIONS, EvaluationSummary
from service.api.resources.suites import SuiteList
from service.api.state import ApiState, State
from service.contracts.jobs import TERMINAL
from service.contracts.schemas import Evaluation, EvaluationComparison, SuiteInfo
from service.contracts.schemas.access import Scope
from service.contracts.schemas.evaluation import cases_file

router = APIRouter()

NEWEST = 10
SHOWN = 25
"""Cases that are shown at once."""
MAIN = ("score", "efficacy", "generalization", "locality", "portability")
"""Metrics that are drawn, all in percent; the table has every one."""
Kind = Literal["better", "broken"]


@router.get(f"{CONSOLE}/evaluations")
@needs(Scope.READ)
async def evaluations_page(
    request: Request, state: State, suite: str = "", version: str = ""
) -> Response:
    """The page on which evaluations are started."""
    return page(
        request,
        "measuring/evaluations.html",
        suite=suite,
        version=version,
        editors=editor_names(),
        formats=list(FORMATS),
        **await run_in_threadpool(_model, state),
    )


@router.get(f"{CONSOLE}/evaluations/suites")
@needs(Scope.READ)
async def evaluations_suites(request: Request, suite: str = "", tasks: bool = True) -> Response:
    """The suites to choose from, by themselves as the bundled ones are read once in a process."""
    found = await Calls(request).get("/suites", SuiteList)
    return fragment(request, "measuring/suites.html", suites=found, suite=suite, tasks=tasks)


@router.get(f"{CONSOLE}/evaluations/newest")
@needs(Scope.READ)
async def evaluations_newest(request: Request, after: str | None = None) -> Response:
    """The newest evaluations, or those after one of them."""
    calls = Calls(request)
    found = await calls.get("/evaluations", Page[EvaluationSummary], limit=NEWEST, after=after)
    return fragment(
        request,
        "measuring/evaluations_newest.html",
        found=found.data,
        after=found.next,
        further=after is not None,
    )


@router.post(f"{CONSOLE}/evaluations")
@needs(EVALUATIONS.scope)
async def evaluation_submit(request: Request) -> Started:
    """Start an evaluation of versions, or a trial of an editor."""
    body = evaluation_of(await read_form(request))
    return await started(request, "evaluations", body)


@router.post(f"{CONSOLE}/suites")
@needs(Scope.EDIT)
async def suite_upload(
    request: Request, name: str = "", format: str | None = None, drop_bad: bool = False
) -> Started:
    """Store a suite, whose file is the body."""
    content = await request.body()
    query = {"name": name, "format": format or None, "drop_bad": drop_bad}
    kept = await Calls(request).upload("/suites", SuiteInfo, content, **query)
    location = f"{CONSOLE}/evaluations?{urlencode({'suite': kept.name})}"
    return started_at(request, location, f"suite {kept.name}")


@router.get(CONSOLE + "/evaluations/{id}")
@needs(Scope.READ)
async def evaluation_shown(id: str, request: Request) -> Response:
    """The page of one evaluation."""
    found = await Calls(request).get(at("/evaluations/{}", id), Evaluation)
    return page(request, "measuring/evaluation_shown.html", **_about(found))


@router.get(CONSOLE + "/evaluations/{id}/outcome")
@needs(Scope.READ)
async def evaluation_outcome(id: str, request: Request) -> Response:
    """How far it is, or its figures; loaded again when its job has ended."""
    found = await Calls(request).get(at("/evaluations/{}", id), Evaluation)
    headers = CHANGED if found.status in TERMINAL else None
    return fragment(request, "measuring/evaluation_outcome.html", headers=headers, **_about(found))


@router.get(CONSOLE + "/evaluations/{id}/compare")
@needs(Scope.READ)
async def evaluation_compare(
    id: str,
    request: Request,
    a: str,
    b: str,
    kind: Kind = "broken",
    first: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """Two targets: paired differences, and a part of the cases that got better or broke."""
    path = at("/evaluations/{}/compare", id)
    found = await Calls(request).get(path, EvaluationComparison, a=a, b=b)
    cases = found.better if kind == "better" else found.broken
    shown = cases[first : first + SHOWN]
    return fragment(
        request,
        "measuring/evaluation_compare.html",
        id=id,
        found=found,
        kind=kind,
        shown=shown,
        **_place(first, len(cases)),
    )


@router.get(CONSOLE + "/evaluations/{id}/list")
@needs(Scope.READ)
async def evaluation_cases_part(
    id: str,
    request: Request,
    state: State,
    target: str,
    which: Literal["all", "missed"] = "all",
    first: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """A part of the cases of a target with their scores, without reading the whole file."""
    job, _ = await EVALUATIONS.ended(state, id)
    labels = [one.label for one in EVALUATIONS.payload(job).targets]
    if target not in labels:
        raise not_found("target", target, labels)
    path = await EVALUATIONS.report(state, job, cases_file(labels.index(target)))
    rows = await run_in_threadpool(listed, path, which, first, SHOWN + 1)
    return fragment(
        request,
        "measuring/evaluation_cases.html",
        id=id,
        target=target,
        which=which,
        rows=rows[:SHOWN],
        first=first,
        previous=max(0, first - SHOWN) if first else None,
        next=first + SHOWN if len(rows) > SHOWN else None,
    )


@router.get(CONSOLE + "/evaluations/{id}/cases")
@needs(Scope.READ)
async def evaluation_cases_file(id: str, request: Request, target: str = "") -> Response:
    """The case records as a file."""
    query = {"target": target} if target else {}
    return Calls(request).file(at("/evaluations/{}/cases", id), **query)


def evaluation_of(form: Form) -> dict[str, Any]:
    """The body of an evaluation from its form; what is left empty has its default."""
    body: dict[str, Any] = {"suite": form.get("suite"), "ask": form.get("ask") or "plain"}
    if form.get("kind") == "trial":
        sizes = form.get("n_edits").replace(",", " ").split()
        body |= {"editor": form.get("editor"), "n_edits": [number(size) for size in sizes]}
        if form.get("preset"):
            body["preset"] = form.get("preset")
    else:
        body["versions"] = versions_of(form)
        if form.get("limit").strip():
            body["limit"] = number(form.get("limit"))
    for name in ("seed", "fluency_texts"):
        if form.get(name).strip():
            body[name] = number(form.get(name))
    free = _free_of(form)
    if free is not None:
        body["free"] = free
    return body


def _free_of(form: Form) -> dict[str, Any] | None:
    """The field ``free``: a judge that is named is asked, and judges answers written freely."""
    said: dict[str, Any] = {
        name: form.get(f"judge_{name}").strip() for name in ("model", "address")
    }
    judge = {name: value for name, value in said.items() if value}
    if form.get("judge_timeout_s").strip():
        judge["timeout_s"] = number(form.get("judge_timeout_s"))
    asked = bool(judge or form.get("judge"))
    if not asked and not form.get("free"):
        return None
    free: dict[str, Any] = {"judge": judge} if asked else {}
    if form.get("free_tokens").strip():
        free["max_new_tokens"] = number(form.get("free_tokens"))
    return free


def _about(found: Evaluation) -> dict[str, Any]:
    """Values for the templates of an evaluation."""
    result = found.result
    points = result.points if result else []
    names = list(dict.fromkeys(name for point in points for name in point.metrics))
    labels = [point.label for point in points]
    return {
        "found": found,
        "result": result,
        "ended": found.status in TERMINAL,
        "points": points,
        "metrics": [(name, [point.metrics.get(name) for point in points]) for name in names],
        "agreed": any(alike(cell) for point in points for cell in point.metrics.values()),
        "perplexity": any(point.perplexity is not None for point in points),
        "drawn": [name for name in names if name in MAIN] or names[:8],
        "trial": found.editor is not None,
        "pairs": [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]],
    }


def _place(first: int, count: int) -> dict[str, Any]:
    following = first + SHOWN
    return {
        "first": first,
        "count": count,
        "previous": max(0, first - SHOWN) if first else None,
        "next": following if following < count else None,
    }


def _model(state: ApiState) -> dict[str, Any]:
    """The model and whether it chats; why tasks of lm-eval are missing; why the model is."""
    model, missing = model_or_reason(state)
    if model is None:
        return {"model": None, "missing": missing}
    return {
        "model": model.info.model,
        "chats": model.chat is not None,
        "missing_tasks": "" if model.info.lm_eval else str(NoHarness()),
        "judge_model": state.settings.judge_model,
        "judge_address": state.settings.judge_address,
    }
