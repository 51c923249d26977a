"""``/hypernetworks``: train the networks that some editors need, and list the existing ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from jeep_core import atlas
from jeep_core.editors import hparams_class, preset_hparams
from jeep_core.editors.networks.hparams import HypernetworkHParams
from jeep_core.errors import FieldProblem, InvalidFields, InvalidHParams
from jeep_core.spec.hparams import contexts_of
from jeep_core.suites.training_data import data_hash, load_training_suite
from jeep_core.text.chat import has_template
from service.api.http.access import needs
from service.api.http.bodies import json_request_body, read_json
from service.api.http.paging import Page
from service.api.http.problems import documented, from_fields, invalid
from service.api.jobs.resource import JobResource
from service.api.jobs.submitting import KeyHeader, check_key
from service.api.model import PublishedModel
from service.api.state import ApiState, State
from service.api.submission.misplaced import validated
from service.api.submission.networks import readable_networks
from service.contracts.jobs import Job, JobKind
from service.contracts.schemas import (
    HypernetworkPayload,
    HypernetworkRequest,
    JobOut,
    Network,
    TrainingOptions,
)
from service.contracts.schemas.access import Scope
from service.contracts.schemas.reading import Imported, imported_from
from service.store.base.networks import network_out

router = APIRouter(tags=["hypernetworks"])
TRAININGS = JobResource[HypernetworkPayload, Network](JobKind.HYPERNETWORK)

DESCRIPTION = """\
Queues the training of a network and answers 202 with its job; `Location` is the job's address.

`hparams` (`layers`, `rank`, `n_blocks`) are laid over the editor's preset for this model; an edit
uses the network if its own say the same.  A trained network takes the place of the one that was
trained before for this editor.

Bundled models are trained on counterfactuals about subjects that no suite edits.  `data` names a
file in the folder `training` of the store, in any format of suites (see `POST /suites`); one about
subjects that a suite edits is refused.  `imported` in the answer says how many of its records are
trained on and what was lost, with the reason.
"""


@router.post(
    "/hypernetworks",
    status_code=202,
    description=DESCRIPTION,
    responses=documented(400, 413, 415, 422, 429, 503, 507),
    openapi_extra=json_request_body(HypernetworkRequest),
)
@needs(TRAININGS.scope)
async def train_hypernetwork(
    request: Request, response: Response, state: State, idempotency_key: KeyHeader = None
) -> JobOut:
    """Queue a training."""
    check_key(idempotency_key)
    body = validated(HypernetworkRequest, await read_json(request))
    model = await run_in_threadpool(state.models.get)
    job, fresh = await run_in_threadpool(_journaled, state, body, model, idempotency_key)
    return await TRAININGS.submit(state, request, response, job, fresh)


@router.get("/hypernetworks", responses=documented(503))
@needs(Scope.READ)
async def list_hypernetworks(state: State) -> Page[Network]:
    """The networks of the served model: trained ones first, then those shipped with it."""
    model = await run_in_threadpool(state.models.get)
    records = await run_in_threadpool(readable_networks, state.store.base, model.info)
    return Page(data=[network_out(record) for record in records], has_more=False, next=None)


def _journaled(
    state: ApiState, body: HypernetworkRequest, model: PublishedModel, key: str | None
) -> tuple[Job, bool]:
    """Journal a job for a valid request; False if ``key`` already belongs to it.

    Raises:
        ApiProblem: 422 with a pointer per wrong field, 429 if too many jobs wait.
        StoreFull: there is no room for another job.
    """

    def payload(_: str) -> HypernetworkPayload:
        problems: list[FieldProblem] = []
        preset: str | None = None
        hparams: dict[str, Any] = {}
        try:
            preset, hparams = _hparams(body, model)
        except InvalidHParams as error:
            problems += error.problems
        imported: Imported | None = None
        try:
            imported = _check_data(body, model, state.store.base.training_folder)
        except InvalidFields as error:
            problems += error.problems
        if problems:
            raise invalid(from_fields(problems))
        return HypernetworkPayload(
            editor=body.editor,
            preset=preset,
            hparams=hparams,
            options=TrainingOptions(**body.model_dump(include=set(TrainingOptions.model_fields))),
            data=body.data,
            data_sha256=body.data and data_hash(state.store.base.training_folder / body.data),
            imported=imported,
        )

    said = {"hypernetwork": body.model_dump(mode="json")}
    return TRAININGS.journaled(state, payload, key, said)


def _hparams(body: HypernetworkRequest, model: PublishedModel) -> tuple[str | None, dict[str, Any]]:
    """The preset's hyper-parameters, or the papers' last layers, overridden by the request's."""
    info = model.info
    presets = {
        name: info.preset_values[f"{body.editor}/{name}"]
        for name in info.presets.get(body.editor, [])
    }
    changes = body.hparams
    if not presets:
        cls = hparams_class(body.editor)
        assert issubclass(cls, HypernetworkHParams)
        changes = {"layers": cls.last_layers(info.n_layers), **changes}
    chat = has_template(model)
    preset, hparams = preset_hparams(
        body.editor, presets, body.preset, changes, info.n_layers, chat=chat
    )
    if contexts_of(hparams) != "plain":
        message = "networks are trained on plain prompts: leave contexts out"
        raise InvalidHParams([FieldProblem("/hparams/contexts", "plain_only", message)])
    return preset, hparams.model_dump(mode="json")


def _check_data(body: HypernetworkRequest, model: PublishedModel, folder: Path) -> Imported | None:
    if body.data is not None:
        suite = load_training_suite(folder / body.data, model.info.model)
        bare = suite.report.left_out["nothing_to_train_on"]
        return imported_from(suite.report, len(suite.cases) - bare)
    if model.info.model not in atlas.MODELS:
        message = f"name a suite's file in {folder}: this model has no data of its own"
        raise InvalidFields([FieldProblem("/data", "missing", message)])
    return None
