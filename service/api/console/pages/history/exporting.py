"""Exports of a version: formats with their options, how far a job is, files to download."""

from __future__ import annotations

from math import isfinite
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.console.calls import Calls, at
from service.api.console.pages.history.dialogs import INTO_DIALOG, Dialog, Given, Values
from service.api.console.pages.history.listing import HISTORY
from service.api.console.pages.history.version import VERSION
from service.api.console.rendering import CHANGED, fragment
from service.api.http.access import needs
from service.api.http.problems import ApiProblem
from service.api.resources.exports import EXPORTS
from service.api.state import ApiState, State
from service.contracts.exports import FORMATS
from service.contracts.jobs import TERMINAL, JobKind
from service.contracts.schemas import JobOut, RevertResult, Snapshot
from service.contracts.schemas.access import Scope
from service.contracts.schemas.exports import Export, ExportOptions
from service.store.index import listing
from service.store.tensors import byte_count

router = APIRouter()

OF_ALL = ("format", "include_facts")
"""Options that every format has; the others are fields of their own below the format."""


@router.get(f"{VERSION}/export")
@needs(Scope.READ)
async def export_dialog(ref: str, request: Request, state: State) -> Response:
    """The formats, and what each costs."""
    return await EXPORT.show(request, state, ref)


@router.post(f"{VERSION}/export")
@needs(EXPORTS.scope)
async def export_version(ref: str, request: Request, state: State) -> Response:
    """Queue the export."""

    async def act(given: Given) -> Values:
        path = at("/snapshots/{}/export", ref)
        return {"job": await Calls(request).post(path, JobOut, _asked(given))}

    return await EXPORT.carry_out(request, state, ref, act)


@router.get(f"{HISTORY}/jobs/{{id}}")
@needs(Scope.READ)
async def job_progress(id: str, request: Request, part: str = "") -> Response:
    """How far a revert or an export is, as a dialog or as the part that moves; what came of it."""
    calls = Calls(request)
    job = await calls.get(at("/jobs/{}", id), JobOut)
    if job.status not in TERMINAL:
        return fragment(request, "history/progress.html" if part else "history/job.html", job=job)
    headers = CHANGED | INTO_DIALOG if part else {}
    if job.result is None:
        return fragment(request, "history/job.html", headers=headers, job=job)
    if job.kind is JobKind.EXPORT:
        export = await calls.get(at("/exports/{}", job.resource_id), Export)
        return fragment(request, "history/exported.html", headers=headers, export=export)
    result = RevertResult.model_validate(job.result) if job.kind is JobKind.REVERT else None
    return fragment(request, "history/reverted.html", headers=headers, job=job, result=result)


@router.get(f"{HISTORY}/exports/{{id}}/files/{{path:path}}")
@needs(Scope.READ)
async def export_file(id: str, path: str, request: Request) -> Response:
    """A file of an export, whole or in parts: the cookie of a session opens no other path."""
    parts = path.split("/")
    return Calls(request).file(at("/exports/{}/files/" + "/".join(["{}"] * len(parts)), id, *parts))


def options_of(model: type[ExportOptions]) -> list[dict[str, Any]]:
    """The options that a format alone has, as its form shows them.

    ``choices`` are the values of one that has few; ``kind`` is ``whole`` or ``number`` for figures.
    """
    found = []
    for name, about in model.model_json_schema()["properties"].items():
        if name in OF_ALL:
            continue
        kinds = about.get("anyOf", [about])
        choices = next((kind["enum"] for kind in kinds if "enum" in kind), None)
        types = {kind.get("type") for kind in kinds}
        found.append(
            {
                "name": name,
                "label": name.replace("_", " "),
                "description": about.get("description", ""),
                "choices": choices,
                "kind": "whole" if "integer" in types else "number",
                "default": about.get("default"),
            }
        )
    return found


def _fields() -> dict[str, str]:
    """The first contents of the dialog's fields."""
    own = [
        f"{spec.name}.{option['name']}"
        for spec in FORMATS.values()
        for option in options_of(spec.options_model())
    ]
    return {"format": next(iter(FORMATS)), "include_facts": "", **dict.fromkeys(own, "")}


def _asked(given: Given) -> dict[str, Any]:
    """The body that a filled form means; what was left empty is left out."""
    name = given["format"]
    body: dict[str, Any] = {"format": name, "include_facts": given["include_facts"] == "yes"}
    if name in FORMATS:
        for option in options_of(FORMATS[name].options_model()):
            text = given[f"{name}.{option['name']}"]
            if text:
                body[option["name"]] = text if option["choices"] else _figure(text)
    return body


def _figure(text: str) -> int | float | str:
    """A number as JSON has it; what is none is left to the interface to refuse."""
    for read in (int, float):
        try:
            number = read(text)
        except ValueError:
            continue
        if isinstance(number, int) or isfinite(number):
            return number
    return text


async def _exporting(request: Request, state: ApiState, ref: str) -> Values:
    version = await Calls(request).get(at("/snapshots/{}", ref), Snapshot)
    formats = [(spec, options_of(spec.options_model())) for spec in FORMATS.values()]
    known = await run_in_threadpool(_known, state, version)
    return {"version": version, "formats": formats, **known}


def _known(state: ApiState, version: Snapshot) -> dict[str, Any]:
    """Bytes of what is exported, as far as the api knows them, and the facts that are asked."""
    try:
        whole = state.models.get().info.checkpoint_bytes
    except ApiProblem:
        whole = 0
    changed = sum(byte_count(ref) for ref in version.tensors)
    facts = listing.live_count(state.store, version.id)
    sizes = {"whole": whole, "changed": changed}
    return {"sizes": sizes, "n_live": facts, "kept": state.settings.keep_exports}


EXPORT = Dialog("history/export.html", "history/job.html", _fields(), _exporting)
