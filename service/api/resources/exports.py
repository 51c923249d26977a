"""``/exports``: versions as files for other programs, with what the files say when asked."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from service.api.http.access import needs
from service.api.http.auditing import concerns
from service.api.http.bodies import described, read_json, validate
from service.api.http.paging import AFTER, Limit, Page
from service.api.http.problems import ApiProblem, documented, field_error, invalid, not_found
from service.api.http.ranges import FILE, file_in_parts
from service.api.jobs.resource import JobResource
from service.api.jobs.submitting import KeyHeader, check_key
from service.api.state import ApiState, State
from service.contracts.exports import FORMATS, ExportFormat
from service.contracts.jobs import TERMINAL, Job, JobKind, JobStatus
from service.contracts.schemas import JobOut
from service.contracts.schemas.access import Scope
from service.contracts.schemas.exports import (
    PROOF_FILE,
    Export,
    ExportFile,
    ExportOptions,
    ExportPayload,
    ExportResult,
)
from service.contracts.schemas.jobs import ExportSummary as ExportSummary
from service.store import CorruptFile
from service.store.tensors import byte_count

router = APIRouter(tags=["exports"])
EXPORTS = JobResource[ExportPayload, ExportResult](JobKind.EXPORT)
Ref = Annotated[str, Path(description="`head`, `base`, a version id (`v3`) or a snapshot name.")]

DESCRIPTION = f"""\
Queues an export and answers 202 with its job; `Location` is the export's address.

`format` is one of: {"; ".join(f"`{one.name}`, {one.said}" for one in FORMATS.values())}.  The
worker writes the files, asks the edited facts again of what it has written, and says how many
hold (`proof`).  There are 507 at once where `merged` or `safetensors` cannot fit; the job ends with
`store_full` or `disk_full` where another format cannot.  What a format cannot hold ends it
with `not_exportable` or `rank_too_high`, which say what can be done.
"""


@router.post(
    "/snapshots/{id}/export",
    status_code=202,
    description=DESCRIPTION,
    responses=documented(400, 404, 413, 415, 422, 429, 503, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"oneOf": [described(f.options_model()) for f in FORMATS.values()]}
                }
            },
        }
    },
)
@needs(EXPORTS.scope)
async def submit_export(
    id: Ref, request: Request, response: Response, state: State, idempotency_key: KeyHeader = None
) -> JobOut:
    """Queue an export."""
    check_key(idempotency_key)
    body = await read_json(request)
    spec, options = _options(body)
    job, fresh = await run_in_threadpool(_journaled, state, id, spec, options, idempotency_key)
    concerns(request, EXPORTS.payload(job).version)
    return await EXPORTS.submit(state, request, response, job, fresh)


@router.get("/exports", responses=documented(422))
@needs(Scope.READ)
async def list_exports(
    state: State,
    limit: Limit = 50,
    after: Annotated[str | None, Query(pattern=EXPORTS.id_pattern, description=AFTER)] = None,
) -> Page[ExportSummary]:
    """Exports, newest first."""
    return await EXPORTS.page(state, limit, after, lambda job: _summary(state, job))


@router.get("/exports/{id}", responses=documented(404))
@needs(Scope.READ)
async def show_export(id: str, state: State) -> Export:
    """The status of an export and, once it has ended, its files with their hashes."""
    job = await EXPORTS.find(state, id)
    payload = EXPORTS.payload(job)
    return Export(
        **EXPORTS.shown(job),
        **payload.model_dump(include={"version", "format", "options"}),
        available=_available(state, job),
        kept_by=state.store.exports.kept_by(job.id),
    )


@router.get(
    "/exports/{id}/proof",
    response_class=FileResponse,
    responses={
        200: {
            "description": "The proof sheet, with every fact and both answers.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        **documented(404, 409),
    },
)
@needs(Scope.READ)
async def export_proof(id: str, state: State) -> FileResponse:
    """The whole proof sheet.  It stays when the files are removed."""
    job, _ = await EXPORTS.ended(state, id)
    path = await EXPORTS.report(state, job, PROOF_FILE)
    return FileResponse(path, media_type="application/json")


_FILE_PATH = "/exports/{id}/files/{path:path}"
_FILE_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {FILE: {"schema": {"type": "string"}}}},
    206: {
        "description": "The part that `Range` asks for.",
        "content": {FILE: {"schema": {"type": "string"}}},
    },
    304: {"description": "The hash in `If-None-Match` is the file's."},
    **documented(404, 409, 416),
}


@router.head(
    _FILE_PATH,
    response_class=FileResponse,
    responses=_FILE_ANSWERS,
    operation_id="export_file_headers",
)
@router.get(_FILE_PATH, response_class=FileResponse, responses=_FILE_ANSWERS)
@needs(Scope.READ)
async def export_file(id: str, path: str, request: Request, state: State) -> Response:
    """One file, whole or in parts (`Range`, `If-Range`); its `ETag` is its SHA-256.

    HEAD is answered with the same status and headers, and no body.
    """
    job, result = await EXPORTS.ended(state, id)
    found = next((one for one in result.files if one.path == path), None)
    if found is None:
        raise not_found("file", path)
    return await run_in_threadpool(_file, state, request, job, found)


@router.delete("/exports/{id}", status_code=204, responses=documented(404, 409))
@needs(EXPORTS.scope)
async def remove_export(id: str, request: Request, state: State) -> Response:
    """Remove the files of an export that has ended; what it was and its proof stay."""
    job = await EXPORTS.find(state, id)
    concerns(request, EXPORTS.payload(job).version)
    if job.status not in TERMINAL:
        raise ApiProblem("export_in_use", f"the export is {job.status.value}: cancel its job first")
    await run_in_threadpool(state.store.exports.remove, job.id)
    return Response(status_code=204)


def _options(body: Any) -> tuple[ExportFormat, ExportOptions]:
    """The format of a body, and its options.

    Raises:
        ApiProblem: 422 with a pointer for each wrong field.
    """
    given = body.get("format") if isinstance(body, dict) else None
    if given is None:
        given = validate(ExportOptions, body).format  # refuses what is no object, or has none
    spec = FORMATS.get(given) if isinstance(given, str) else None
    if spec is None:
        *others, last = (repr(name) for name in FORMATS)
        message = f"must be {', '.join(others)} or {last}"
        raise invalid([field_error("/format", "literal_error", message)])
    return spec, validate(spec.options_model(), body)


def _journaled(
    state: ApiState, ref: str, spec: ExportFormat, options: ExportOptions, key: str | None
) -> tuple[Job, bool]:
    """Journal a job; False if ``key`` already belongs to it.

    Raises:
        ApiProblem: 429 if too many jobs wait, 503 before any worker has published its model.
        UnknownVersion: there is no such version.
        StoreFull, DiskFull: it cannot fit.
    """
    info = state.models.get().info
    whole = info.checkpoint_bytes_as.get(getattr(options, "dtype", None) or "", 0)
    given = options.model_dump(mode="json")

    def payload(job_id: str) -> ExportPayload:
        version = state.store.names.resolve(ref)
        manifest = state.store.versions.lineage(version)[-1]
        if spec.known_size == "whole":
            state.room.check(whole or info.checkpoint_bytes)
        elif spec.known_size == "changed":
            state.room.check(sum(map(byte_count, manifest.tensors)))
        return ExportPayload(
            export_id=EXPORTS.id_of(job_id), version=version, format=spec.name, options=given
        )

    return EXPORTS.journaled(state, payload, key, {"export": given, "of": ref})


def _file(state: ApiState, request: Request, job: Job, found: ExportFile) -> Response:
    """The answer for one file.

    Raises:
        ApiProblem: 409 where it has been removed; as `file_in_parts`.
        CorruptFile: its size is not the one that was written.
    """
    if not state.store.exports.is_there(job.id):
        raise ApiProblem("export_gone", "the files of this export have been removed: export again")
    path = state.store.exports.path(job.id) / found.path
    size = path.stat().st_size if path.is_file() else None
    if size != found.bytes:
        what = "is missing" if size is None else f"has {size} bytes, not {found.bytes}"
        raise CorruptFile(f"{path} {what}: export again")
    return file_in_parts(request, path, found.bytes, found.sha256)


def _available(state: ApiState, job: Job) -> bool:
    return job.status is JobStatus.SUCCEEDED and state.store.exports.is_there(job.id)


def _summary(state: ApiState, job: Job) -> ExportSummary:
    payload, result = EXPORTS.payload(job), EXPORTS.result(job)
    return ExportSummary(
        id=payload.export_id,
        job_id=job.id,
        status=job.status,
        version=payload.version,
        format=payload.format,
        available=_available(state, job),
        bytes=result.bytes if result else None,
        facts=result.proof.facts if result else None,
        hold=result.proof.hold if result else None,
    )
