"""``/suites``: the suites that evaluations run on, bundled and uploaded."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from jeep_core import atlas
from jeep_core.evaluation.harness.catalogue import listed
from jeep_core.evaluation.harness.installed import NoHarness
from jeep_core.suites import AUTO, FORMATS, InvalidSuite, SuiteReader
from service.api.http.access import needs
from service.api.http.early_refusals import DRAIN_SECONDS
from service.api.http.middleware import too_large
from service.api.http.problems import ApiProblem, documented, invalid, not_found
from service.api.state import ApiState, State
from service.api.submission.record_files import check_format, located
from service.contracts.jobs import now
from service.contracts.schemas.access import Scope
from service.contracts.schemas.base import Name
from service.contracts.schemas.evaluation import HarnessEntry, HarnessInfo, SuiteInfo
from service.contracts.schemas.evaluation import SuiteList as SuiteList
from service.contracts.schemas.reading import losses
from service.store.suites import Suites, SuiteTaken, UnknownSuite, Upload

router = APIRouter(tags=["evaluation"])

DESCRIPTION = """\
Stores a suite under a name: the body is the file.  Formats: {formats}; without `format` it is seen
from the records.  A file is a JSON list, one JSON object or several,
JSON lines, CSV with a header, or an object with the list in `data` or `rows`.

`style`: cases are judged by `contrast`, the new answer against the true one, or by `accuracy`, the
tokens of the right answer; `auto` takes what is usual for the format.

Every record is checked.  One that does not have the format refuses the whole upload with 422, with
pointers such as `/lines/12/answers`; with `drop_bad=true` such records are left out and counted.
Records that cannot be edited (a prompt without its subject, a new answer that is the true one) are
always left out and counted.  The answer says what was read and what was not: `dropped` records and
parts that are `left_out` by reason, the first of them in `problems`; `prompts` by kind; fields
`unread`.  The same upload again answers 200.
"""


def description() -> str:
    """The description of ``POST /suites``, with the formats that the registry has."""
    return DESCRIPTION.replace("{formats}", ", ".join(f"`{name}`" for name in FORMATS))


BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string"}}},
    }
}


@router.get("/suites", responses=documented())
@needs(Scope.READ)
def list_suites(state: State) -> SuiteList:
    """All suites: the bundled ones, then the uploaded ones by name; the tasks of lm-eval."""
    uploaded = state.store.suites.all()
    return SuiteList(data=[*map(bundled, atlas.SUITES), *uploaded], lm_eval=_harness(state))


def _harness(state: ApiState) -> HarnessInfo:
    """The tasks, and whether the worker that last served this store can run them."""
    info = state.store.base.info()
    version = info.lm_eval if info is not None else None
    found = listed(state.settings.lm_eval_tasks)
    return HarnessInfo(
        version=version,
        unavailable=None if version is not None else str(NoHarness()),
        tasks=[HarnessEntry.model_validate(asdict(one)) for one in found],
    )


@router.get("/suites/{name}", responses=documented(404))
@needs(Scope.READ)
def show_suite(name: str, state: State) -> SuiteInfo:
    """One suite."""
    return suite_info(state.store.suites, name)


@router.post(
    "/suites",
    status_code=201,
    description=description(),
    responses={
        200: {"description": "The store has this very suite.", "model": SuiteInfo},
        **documented(400, 409, 413, 422, 507),
    },
    openapi_extra=BODY,
)
@needs(Scope.EDIT)
async def upload_suite(
    request: Request,
    response: Response,
    state: State,
    name: Annotated[Name, Query(description="What evaluations call it.")],
    format: Annotated[str | None, Query(description=", ".join(FORMATS))] = None,
    drop_bad: Annotated[bool, Query(description="Leave out and count bad records.")] = False,
    style: Annotated[
        Literal["auto", "contrast", "accuracy"], Query(description="How cases are judged.")
    ] = "auto",
) -> SuiteInfo:
    """Store a suite."""
    check_format(format)
    if name in atlas.SUITES:
        raise ApiProblem("name_taken", f"{name!r} is a bundled suite")
    await run_in_threadpool(state.room.check)
    suites = state.store.suites
    limit = state.settings.max_suite_bytes
    with suites.upload() as upload:
        async for chunk in _limited(request, limit):
            await run_in_threadpool(upload.write, chunk)
        info = await run_in_threadpool(_checked, upload, name, format, drop_bad, style)
        try:
            kept, fresh = await run_in_threadpool(suites.add, upload, info)
        except SuiteTaken as error:
            raise ApiProblem("name_taken", str(error)) from None
    response.status_code = 201 if fresh else 200
    response.headers["Location"] = f"/suites/{name}"
    return kept


def suite_info(suites: Suites, name: str) -> SuiteInfo:
    """A bundled suite or an uploaded one.

    Raises:
        ApiProblem: 404.
    """
    if name in atlas.SUITES:
        return bundled(name)
    try:
        return suites.get(name)
    except UnknownSuite:
        known = (*atlas.SUITES, *(one.name for one in suites.all()))
        raise not_found("suite", name, known) from None


@cache
def bundled(name: str) -> SuiteInfo:
    """Return a bundled suite, which always exists."""
    path = atlas.SUITES[name]
    data = path.read_bytes()
    found = _read(path, None, False, AUTO)
    return _info(found, name, len(data), hashlib.sha256(data).hexdigest(), bundled=True)


async def _limited(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body chunk by chunk.

    Raises:
        ApiProblem: 413 at the first byte too many, once the client had a moment to finish;
            400 if the client leaves.
    """
    size = 0
    stream = request.stream()
    try:
        async for chunk in stream:
            size += len(chunk)
            if size > limit:
                with anyio.move_on_after(DRAIN_SECONDS):
                    async for _ in stream:
                        pass
                raise too_large(limit)
            yield chunk
    except ClientDisconnect:
        raise ApiProblem("incomplete_body", "the body ended before it was whole") from None


def _checked(
    upload: Upload, name: str, format: str | None, drop_bad: bool, style: str
) -> SuiteInfo:
    """Validate an upload, record by record.

    Raises:
        ApiProblem: 422 with a pointer per wrong record.
    """
    upload.close()
    try:
        found = _read(upload.path, format, drop_bad, style)
    except InvalidSuite as error:
        raise invalid([located(problem) for problem in error.problems], "invalid_suite") from None
    return _info(found, name, upload.bytes, upload.sha256)


def _read(path: Path, format: str | None, drop_bad: bool, style: str) -> SuiteReader:
    with path.open("rb") as stream:
        reader = SuiteReader(stream, format, drop_bad, style)
        for _ in reader:
            pass
    return reader


def _info(reader: SuiteReader, name: str, size: int, sha256: str, **more: Any) -> SuiteInfo:
    report = reader.report
    return SuiteInfo(
        name=name,
        format=report.format,
        style=reader.style.value,
        records=report.records,
        cases=report.cases,
        **losses(report),
        prompts=dict(report.prompts),
        bytes=size,
        sha256=sha256,
        created_at=None if more.get("bundled") else now(),
        **more,
    )
