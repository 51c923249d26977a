"""Probes: starting one, the layers that it proposes, and its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.console.calls import Calls, at
from service.api.console.forms import Form, read_form
from service.api.console.pages.models import model_or_reason, usual_presets
from service.api.console.pages.starting import Started, number, started
from service.api.console.rendering import CHANGED, fragment, page
from service.api.http.access import needs
from service.api.http.paging import Page
from service.api.http.sessions import CONSOLE
from service.api.resources.probes import PROBES, ProbeSummary
from service.api.state import ApiState, State
from service.contracts.jobs import TERMINAL
from service.contracts.schemas import Probe
from service.contracts.schemas.access import Scope

router = APIRouter()

NEWEST = 10
POSITIONS = {"subject_last": "the subject's last token", "prediction": "the prediction position"}
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """A mean with its 95 % interval at every layer."""

    name: str
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Plot:
    """Curves over the layers; ``shaded``: the layers that are proposed here."""

    title: str
    said: str
    curves: Sequence[Curve]
    shaded: Sequence[int]


@router.get(f"{CONSOLE}/probes")
@needs(Scope.READ)
async def probes_page(request: Request, state: State, version: str = "base") -> Response:
    """The page on which probes are started."""
    model, missing = await run_in_threadpool(model_or_reason, state)
    return page(
        request,
        "measuring/probes.html",
        version=version,
        model=model and model.info.model,
        missing=missing,
        presets=await run_in_threadpool(usual_presets, state),
    )


@router.get(f"{CONSOLE}/probes/newest")
@needs(Scope.READ)
async def probes_newest(request: Request, after: str | None = None) -> Response:
    """The newest probes, or those after one of them."""
    found = await Calls(request).get("/probes", Page[ProbeSummary], limit=NEWEST, after=after)
    return fragment(
        request,
        "measuring/probes_newest.html",
        found=found.data,
        after=found.next,
        further=after is not None,
    )


@router.post(f"{CONSOLE}/probes")
@needs(PROBES.scope)
async def probe_submit(request: Request) -> Started:
    """Start a probe."""
    return await started(request, "probes", probe_of(await read_form(request)))


@router.get(CONSOLE + "/probes/{id}")
@needs(Scope.READ)
async def probe_shown(id: str, request: Request, state: State) -> Response:
    """The page of one probe."""
    found = await Calls(request).get(at("/probes/{}", id), Probe)
    about = await run_in_threadpool(_about, found, state)
    return page(request, "measuring/probe_shown.html", **about)


@router.get(CONSOLE + "/probes/{id}/outcome")
@needs(Scope.READ)
async def probe_outcome(id: str, request: Request, state: State) -> Response:
    """How far it is, or its proposal and curves; loaded again when its job has ended."""
    found = await Calls(request).get(at("/probes/{}", id), Probe)
    headers = CHANGED if found.status in TERMINAL else None
    about = await run_in_threadpool(_about, found, state)
    return fragment(request, "measuring/probe_outcome.html", headers=headers, **about)


@router.get(CONSOLE + "/probes/{id}/files/{name}")
@needs(Scope.READ)
async def probe_file(id: str, name: str, request: Request) -> Response:
    """A file of a probe."""
    return Calls(request).file(at("/probes/{}/files/{}", id, name))


def probe_of(form: Form) -> dict[str, Any]:
    """The body of a probe from its form; what is left empty has its default."""
    body: dict[str, Any] = {
        "version": form.get("version") or "base",
        "quick": bool(form.get("quick")),
    }
    if form.get("suite"):
        body["suite"] = form.get("suite")
    for name in ("limit", "seed"):
        if form.get(name).strip():
            body[name] = number(form.get(name))
    return body


def plots_of(record: Record) -> list[Plot]:
    """The curves of a probe's record, as far as it has them; a quick one has fewer."""
    proposal = record.get("proposal") or {}
    low, high = proposal.get("low") or [], proposal.get("high") or []
    found = []
    for position, where in POSITIONS.items():
        read = record.get("answers", {}).get("final_norm", {}).get(position, {}).get("output", {})
        curves = [
            _curve(f"{name} answer", read[name]["probability"])
            for name in ("original", "target")
            if "probability" in read.get(name, {})
        ]
        said = f"Probability of both answers, read after each layer at {where}"
        found.append(Plot(f"Answers at {where}", said, curves, low if "subject" in where else high))
    branches = record.get("branches") or {}
    names = {"attention": "attention", "mlp": "MLP"}
    curves = [_curve(title, branches[name]) for name, title in names.items() if branches.get(name)]
    said = "What each layer adds to the probability of the original answer over the other"
    found.append(Plot("Attention and MLP", said, curves, high))
    patching = record.get("patching") or {}
    curves = []
    for kind, name, title in (
        ("exchange", "effect", "original lost"),
        ("exchange", "carried", "other's gained"),
        ("restoration", "effect", "original gained again"),
    ):
        if (patching.get(kind) or {}).get(name):
            curves.append(_curve(title, patching[kind][name]))
    said = "By how much moving the state at the subject's last token changes answers"
    found.append(Plot("Exchanged states", said, curves, low))
    return [plot for plot in found if plot.curves]


def _curve(name: str, band: Mapping[str, Sequence[float]]) -> Curve:
    return Curve(name, band["mean"], band["low"], band["high"])


def _about(found: Probe, state: ApiState) -> dict[str, Any]:
    """Values for the templates of a probe."""
    return {
        "found": found,
        "result": found.result,
        "ended": found.status in TERMINAL,
        "presets": usual_presets(state),
        "plots": plots_of(found.record) if found.record else [],
    }
