"""The page on which an edit is written: facts, editor, guards, and what was edited last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from jeep_core.editors import AUTO_EDITOR, DEFAULT_EDITOR, available, check_editor
from jeep_core.errors import InvalidHParams
from jeep_core.probe.defaults.from_record import by_depths
from jeep_core.suites import FORMATS
from jeep_core.text.chat import has_template
from service.api.console.calls import Calls, at
from service.api.console.pages.models import editor_names, model_or_reason
from service.api.console.pages.starting import started
from service.api.console.rendering import fragment, page
from service.api.http.access import needs
from service.api.http.bodies import read_json
from service.api.http.paging import Page
from service.api.http.problems import ApiProblem, field_error, invalid
from service.api.http.sessions import CONSOLE
from service.api.model import PublishedModel
from service.api.resources.edits import EditSummary
from service.api.state import ApiState, State
from service.api.submission.validation import hparams_of
from service.contracts.schemas import AUTO, Edit, EditPayload, FactEntry
from service.contracts.schemas.access import Scope
from service.contracts.schemas.effects.checks import as_sent
from service.store import Store
from service.store.history import facts_of
from service.store.index import listing

router = APIRouter()

NEWEST = 8
GIVEN = ("subject", "prompt", "target_new", "target_true")
"""Fields of a fact that a link to the page may bring."""


@router.get(f"{CONSOLE}/edit")
@needs(Scope.EDIT)
async def edit_page(
    request: Request,
    state: State,
    subject: str = "",
    prompt: str = "",
    target_new: str = "",
    target_true: str = "",
    lost: Annotated[
        str | None,
        Query(description="Begin with facts that this edit found missing."),
    ] = None,
    missing: Annotated[
        str | None,
        Query(description="Begin with the facts that this check found not to hold."),
    ] = None,
    again: Annotated[str | None, Query(description="Begin with the facts of this edit.")] = None,
) -> Response:
    """The page, with the facts that a link may bring."""
    given = dict(zip(GIVEN, (subject, prompt, target_new, target_true), strict=True))
    facts = [{name: text for name, text in given.items() if text}] if any(given.values()) else []
    settings: dict[str, Any] = {}
    if again is not None:
        edit = await Calls(request).get(at("/edits/{}", again), Edit)
        facts = [as_sent(fact) for fact in edit.facts]
        settings = await run_in_threadpool(_sent_with, state, edit)
    if lost is not None:
        facts = await _not_said_after(state, Calls(request), lost)
    if missing is not None:
        facts = await Calls(request).lines(at("/checks/{}/missing", missing))
    about = await run_in_threadpool(_about, state)
    return page(
        request,
        "editing/page.html",
        **about,
        facts=json.dumps(facts),
        settings=json.dumps(settings),
        formats=", ".join(FORMATS),
        most=state.settings.max_facts,
        earlier=state.settings.check_earlier,
    )


@router.post(f"{CONSOLE}/edit")
@needs(Scope.EDIT)
async def edit_submit(request: Request) -> Response:
    """Submit an edit.  Its key makes sure that what is sent again is not edited again."""
    body = await read_json(request)
    if not isinstance(body, dict):
        raise invalid([field_error("", "model_type", "the body must be an object")])
    found = await started(request, "edits", body, page="edit")
    return Response(found.model_dump_json(), 202, media_type="application/json")


@router.get(f"{CONSOLE}/edit/newest")
@needs(Scope.READ)
async def edits_newest(request: Request, after: str | None = None) -> Response:
    """The newest edits, or those after one of them."""
    found = await Calls(request).get("/edits", Page[EditSummary], limit=NEWEST, after=after)
    return fragment(
        request,
        "editing/newest.html",
        edits=found.data,
        after=found.next,
        further=after is not None,
    )


@router.get(f"{CONSOLE}/edit/settings")
@needs(Scope.EDIT)
async def edit_settings(request: Request, state: State, editor: str, preset: str = "") -> Response:
    """The hyper-parameters of an editor, each with the value that it has unless it is changed."""
    refused = ""
    try:
        values, source = await run_in_threadpool(_settings, state, editor, preset or None)
    except InvalidHParams as error:
        values, source, refused = {}, "", error.problems[0].message
    rows = [(path, json.dumps(value)) for path, value in flat(values)]
    return fragment(request, "editing/settings.html", rows=rows, source=source, refused=refused)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Values by their path, such as ``low.layers``; only objects are taken apart."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found += flat(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found


def _settings(state: ApiState, editor: str, preset: str | None) -> tuple[dict[str, Any], str]:
    """Complete hyper-parameters, and where they are from.

    Raises:
        InvalidHParams: an unknown editor or preset, or nothing may choose its hyper-parameters.
        ApiProblem: 503 without a model.
    """
    model = state.models.get()
    check_editor(editor)
    if editor == AUTO_EDITOR:
        return {}, "chosen with the editor"
    chosen, hparams, _ = hparams_of(editor, preset, {}, model)
    if hparams != AUTO:
        return hparams.model_dump(mode="json"), f"the preset {chosen}" if chosen else "defaults"
    info = model.info
    found = by_depths(editor, info.n_layers, info.mlp_size, {}, chat=has_template(model))
    return found.model_dump(mode="json"), "shares of the model's depth, unless a probe says better"


def _sent_with(state: ApiState, edit: Edit) -> dict[str, Any]:
    """The settings of an edit by the ids of their fields, and its changes to hyper-parameters.

    Its name is left out where a version has it.
    """
    payload = EditPayload.model_validate(state.store.journal.read(edit.job_id).payload)
    editor = edit.editor if payload.editor_reason is None else AUTO_EDITOR
    fields: dict[str, Any] = {"editor": editor, "preset": _preset_of(payload, state)}
    fields |= {"staged": not payload.activate, "repair": payload.repair}
    if payload.guards:
        fields |= payload.guards.model_dump(exclude_none=True)
    if payload.check_earlier is not None:
        fields["check_earlier"] = payload.check_earlier
    if payload.snapshot_name and edit.result is None:
        fields["snapshot_name"] = payload.snapshot_name
    changes = {path: json.dumps(one) for path, one in _changes_of(payload, state)}
    return {"fields": {name: _text(value) for name, value in fields.items()}, "hparams": changes}


def _preset_of(payload: EditPayload, state: ApiState) -> str:
    """The preset with which an edit is sent again: its own, or auto; empty for the usual one."""
    if payload.editor_reason is not None and payload.automatic is not None:
        return AUTO if payload.automatic else ""
    if payload.hparams == AUTO:
        model, _ = model_or_reason(state)
        return AUTO if model is not None and model.info.presets.get(payload.editor) else ""
    return payload.preset or "" if payload.editor_reason is None else ""


def _changes_of(payload: EditPayload, state: ApiState) -> list[tuple[str, Any]]:
    """The hyper-parameters that an edit was sent with, by their paths."""
    if isinstance(payload.hparams, str):  # not what the worker chose
        return flat(payload.changes)
    found = flat(payload.hparams)
    if payload.editor_reason is not None:
        return []
    if payload.preset is None:
        return found
    try:
        usual = dict(flat(_settings(state, payload.editor, payload.preset)[0]))
    except (InvalidHParams, ApiProblem):
        return []  # what was changed is not known
    return [(path, one) for path, one in found if one != usual.get(path)]


def _text(value: Any) -> Any:
    return value if isinstance(value, bool) else str(value)


def _about(state: ApiState) -> dict[str, Any]:
    """Model, editors, presets and head, as the page shows them; without a model why not."""
    model, missing = model_or_reason(state)
    if model is None:
        return {"model": None, "missing": missing}
    return {
        "model": model.info.model,
        "editors": editor_names(),
        "usual": DEFAULT_EDITOR,
        "presets": json.dumps(_presets(model)),
        # of an edit whose editor is to choose: only some editors have presets
        "usual_preset": "the editor's, else auto" if any(model.info.presets.values()) else AUTO,
        "perplexity": model.info.perplexity_text,
        "head": state.store.head.read().version,
    }


def _presets(model: PublishedModel) -> dict[str, list[str]]:
    """The presets to choose from by editor; with ``auto``, where that is another choice."""
    able = {name for name, record in available()[0].items() if record.automatic is not None}
    own = {
        editor: [*names, AUTO] if names and editor in able else names
        for editor, names in model.info.presets.items()
    }
    return {AUTO_EDITOR: [AUTO], **own}


async def _not_said_after(state: ApiState, calls: Calls, edit_id: str) -> list[dict[str, Any]]:
    """The earlier facts that an edit has found not to hold, as facts of a new one.

    Raises:
        ApiProblem: 404; 409 while the edit has no result.
    """
    edit = await calls.get(at("/edits/{}", edit_id), Edit)
    if edit.result is None:
        raise ApiProblem("no_result", f"the edit is {edit.status.value}: it has no result yet")
    wanted = set[tuple[str, int]]()
    if (earlier := edit.result.earlier) is not None:
        wanted = {(version, i) for version, missing in earlier.missing.items() for i in missing}
    found = await run_in_threadpool(_live_ones, state.store, edit.result.version, wanted)
    return [as_sent(fact) for fact in found]


def _live_ones(store: Store, tip: str, wanted: set[tuple[str, int]]) -> list[FactEntry]:
    """The facts of a version that were taught where ``wanted`` says and still govern it."""
    taught = {
        (version, fact.index): fact.subject
        for version in {version for version, _ in wanted}
        for fact in facts_of([store.versions.read(version)])
    }
    subjects = dict.fromkeys(taught[one] for one in sorted(wanted) if one in taught)
    return [
        fact
        for subject in subjects
        for fact in listing.facts(store, tip, subject=subject)
        if fact.state == "live" and (fact.version, fact.index) in wanted
    ]
