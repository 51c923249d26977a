"""``/generate``: answers of one or several versions of the model to prompts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from sse_starlette import ServerSentEvent

from jeep_core.text.chat import NoTemplate, RefusedMessages, render
from jeep_core.text.counting import counted
from jeep_core.text.encoding import count, encode, encode_all
from jeep_core.text.joining import joined
from service.api.http.access import caller_of, needs
from service.api.http.bodies import json_request_body, read_model
from service.api.http.limits import text_errors
from service.api.http.logs import log_texts
from service.api.http.min_version import at_least
from service.api.http.problems import (
    OVER_LIMIT,
    documented,
    error_event,
    event_stream,
    field_error,
    invalid,
)
from service.api.http.worker_calls import replies, result, worker_request
from service.api.model import PublishedModel
from service.api.state import ApiState, State
from service.contracts.schemas import GenerateRequest, GenerateResult, WorkerRequest
from service.contracts.schemas.access import Scope
from service.settings import Settings
from service.store import UnknownVersion

router = APIRouter(tags=["generate"])

HEAD = "head"
JOINED_CHARS = 2**22
"""Characters of prompts with their candidates that are looked at before a request is passed on;
of more, the worker scores what it can."""


@router.post(
    "/generate",
    response_model=GenerateResult,
    responses={
        200: {
            "description": (
                "The answers.  With `stream`: events `token` (GeneratedToken), then one"
                " `result` (GenerateResult) or `error` (Problem)."
            ),
            "headers": {
                "X-Model-Version": {
                    "description": "The versions that answered.",
                    "schema": {"type": "string"},
                }
            },
            "content": event_stream("token", "result", "error"),
        },
        **documented(400, 404, 412, 413, 415, 422, 503, 504),
    },
    openapi_extra=json_request_body(GenerateRequest),
)
@needs(Scope.GENERATE)
async def generate(request: Request, state: State) -> Response:
    """Answer prompts from any versions, side by side; never waits for a running edit."""
    given = await read_model(request, GenerateRequest)
    # in one thread: to change threads costs as much as to check a short prompt
    body, versions = await run_in_threadpool(lambda: checked(state, given, state.models.get()))
    log_texts(request, state.settings, "prompts", body.all_prompts)
    if body.min_version is not None:
        resolve = state.store.names.resolve
        versions = await at_least(state, body.versions, body.min_version, resolve)
    if body.stream:  # else the queue finds out, before anything has been answered
        await state.require_any_worker()
    pinned = [one for one, ref in zip(versions, body.versions, strict=True) if ref != HEAD]
    asked = worker_request(state, "generate", versions, body.model_dump(mode="json"), pinned)
    headers = {"X-Model-Version": ", ".join(dict.fromkeys(versions))}
    if body.stream:
        events = _events(state, request, asked)
        caller = caller_of(request)
        return state.streams.tokens(caller, events, headers=headers)
    answer = GenerateResult.model_validate(await result(state, request, asked))
    content = answer.model_dump_json()
    return Response(content, headers=headers, media_type="application/json")


def checked(
    state: ApiState, body: GenerateRequest, model: PublishedModel
) -> tuple[GenerateRequest, list[str]]:
    """Check the request; it with messages made a prompt, and the ids of the requested versions.

    Raises:
        ApiProblem: 422 with a pointer per wrong field, 413 if only limits are exceeded.
    """
    errors = text_errors(body, state.settings)
    at = "/messages" if body.messages is not None else "/prompt"
    if not errors:
        errors += _limit_errors(body, state.settings)
        try:
            body = _with_prompt(body, model)
        except (NoTemplate, RefusedMessages) as error:
            errors.append(field_error("/messages", error.code, str(error)))
        else:
            errors += _prompt_errors(body, state.settings, model, at)
    versions = []
    for i, ref in enumerate(body.versions):
        try:
            versions.append(state.store.names.resolve(ref))
        except UnknownVersion as error:
            pointer = "/version" if isinstance(body.version, str) else f"/version/{i}"
            errors.append(field_error(pointer, "unknown_version", str(error)))
    if errors:
        raise invalid(errors)
    return body, versions


def _with_prompt(body: GenerateRequest, model: PublishedModel) -> GenerateRequest:
    """The request with the text of its messages for a prompt.

    Raises:
        NoTemplate, RefusedMessages: the model has no template, or it refuses them.
    """
    if body.messages is None:
        return body
    text = render(model, [message.model_dump() for message in body.messages])
    return body.model_copy(update={"prompt": text, "messages": None})


def _limit_errors(body: GenerateRequest, settings: Settings) -> list[dict[str, str]]:
    errors = []
    prompts, versions = body.all_prompts, body.versions
    if not versions:
        errors.append(
            field_error(
                "/version",
                "empty",
                "no version is given: name one, or leave the field out for head",
            )
        )
    if not prompts and body.messages is None:
        errors.append(
            field_error("/prompts", "empty", "no prompt is given: send prompt or prompts")
        )
    if len(prompts) * len(versions) > settings.max_prompts:
        message = f"prompts × versions must be at most {settings.max_prompts} (JEEP_MAX_PROMPTS)"
        errors.append(field_error("/prompts", OVER_LIMIT, message))
    if len(body.candidates) > settings.max_prompts:
        message = f"at most {settings.max_prompts} candidates (JEEP_MAX_PROMPTS)"
        errors.append(field_error("/candidates", OVER_LIMIT, message))
    if body.max_new_tokens > settings.max_new_tokens:
        message = f"at most {settings.max_new_tokens} new tokens (JEEP_MAX_NEW_TOKENS)"
        errors.append(field_error("/max_new_tokens", OVER_LIMIT, message))
    if body.stream and (len(prompts) > 1 or len(versions) > 1):
        message = "a stream has one prompt and one version: send several requests"
        errors.append(field_error("/stream", "not_single", message))
    for name in ("stop", "candidates"):
        empty = [i for i, text in enumerate(getattr(body, name)) if not text]
        errors += [field_error(f"/{name}/{i}", "empty", "the text is empty") for i in empty]
    return errors


def _prompt_errors(
    body: GenerateRequest, settings: Settings, model: PublishedModel, single: str = "/prompt"
) -> list[dict[str, str]]:
    """Errors for prompts without tokens, or too long for the model with their continuation.

    Every one that cannot be answered has an error, so that a client can leave them out.
    ``single``: the field that a single prompt came in.
    """
    if len(body.all_prompts) > settings.max_prompts or len(body.candidates) > settings.max_prompts:
        return []  # already refused without reading it
    lengths = [count(model.tokenizer, text) for text in body.candidates]
    follows = max(body.max_new_tokens, *lengths, 0)
    limit, room = settings.max_prompt_tokens, model.info.max_positions - follows
    joined_chars = 0
    errors: list[dict[str, str]] = []
    if room < 1 and body.max_new_tokens <= settings.max_new_tokens:  # no prompt is short enough
        longest = "max_new_tokens"
        if follows > body.max_new_tokens:
            longest = f"candidates/{lengths.index(follows)}"
        message = (
            f"{counted(follows, 'token')}; with a prompt of one token, at most "
            f"{model.info.max_positions - 1} fit"
        )
        errors.append(field_error(f"/{longest}", "too_long", message))
    for i, prompt in enumerate(body.all_prompts):
        pointer = single if body.prompt is not None else f"/prompts/{i}"
        ids = encode(model.tokenizer, prompt).ids
        n_tokens = len(ids)
        joined_chars += sum(len(prompt) + len(text) for text in body.candidates)
        if 0 < n_tokens <= min(limit, room) and joined_chars <= JOINED_CHARS:
            texts = [joined(prompt, text, body.join) for text in body.candidates]
            wholes = [whole.ids for whole in encode_all(model.tokenizer, texts)]
            errors += _candidate_errors(ids, wholes, pointer, errors)
        if n_tokens == 0:
            errors.append(field_error(pointer, "empty", "the prompt has no tokens"))
        elif n_tokens > limit:
            message = f"{counted(n_tokens, 'token')}, at most {limit} (JEEP_MAX_PROMPT_TOKENS)"
            errors.append(field_error(pointer, OVER_LIMIT, message))
        elif n_tokens > room >= 1 and body.max_new_tokens <= settings.max_new_tokens:
            message = (
                f"{counted(n_tokens, 'token')}; with {follows} to follow, at most {room} fit: "
                "shorten the prompt or what follows"
            )
            errors.append(field_error(pointer, "too_long", message))
    return errors


def _candidate_errors(
    prompt: list[int], wholes: list[list[int]], pointer: str, known: list[dict[str, str]]
) -> list[dict[str, str]]:
    """Errors for candidates that add no tokens after a prompt; each is reported once."""
    reported, errors = {error["pointer"] for error in known}, []
    for i, whole in enumerate(wholes):
        where = f"/candidates/{i}"
        if where in reported:
            continue
        if whole[: len(prompt)] != prompt:
            message = (
                f"its first token merges with the end of {pointer}: "
                "leave out white space at the end of the prompt, or give another `join`"
            )
            errors.append(field_error(where, "merges_with_prompt", message))
        elif len(whole) == len(prompt):
            errors.append(field_error(where, "no_tokens", f"it has no tokens after {pointer}"))
    return errors


async def _events(
    state: ApiState, request: Request, asked: WorkerRequest
) -> AsyncIterator[ServerSentEvent]:
    """Tokens and the result; an error after the answer has begun is an event, too."""
    try:
        async with aclosing(replies(state, asked)) as answers:
            async for reply in answers:
                yield _event(reply.event, reply.model_dump_json(include={"data"}))
    except Exception as error:
        yield error_event(request, error)


def _event(name: str, wrapped: str) -> ServerSentEvent:
    """``wrapped`` is ``{"data":…}``: pydantic writes NaN as null where ``json`` would not."""
    return ServerSentEvent(wrapped[len('{"data":') : -1], event=name)
