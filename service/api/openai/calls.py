"""A request on its way to the worker: its prompts as tokens, checked, and the version it asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel
from sse_starlette import ServerSentEvent
from tokenizers import Tokenizer

from service.api.http.access import caller_of
from service.api.http.min_version import at_least
from service.api.http.problems import (
    OVER_LIMIT,
    ApiProblem,
    error_event,
    field_error,
    invalid,
)
from service.api.http.worker_calls import replies, result, worker_request
from service.api.model import PublishedModel
from service.api.openai.models import version_of
from service.api.state import ApiState
from service.contracts.jobs import new_id
from service.contracts.schemas import WorkerReply, WorkerRequest
from service.contracts.schemas.completion import CompletionAsk, CompletionResult, StreamedToken
from service.contracts.schemas.openai import Sampled, Usage
from service.queue import WorkerGone
from service.settings import Settings

HOLD_S = 15.0
"""How long a request waits for a worker that is starting again, instead of being refused."""
LOOK_S = 0.2


@dataclass(frozen=True)
class Call:
    """One request: ``name`` is the model as it was asked for, ``version`` what it means."""

    kind: str
    name: str
    version: str
    model: PublishedModel
    ask: CompletionAsk

    @cached_property
    def shared(self) -> dict[str, Any]:
        """The fields that the answer and every chunk of it have."""
        return {
            "id": new_id(self.kind),
            "created": int(time.time()),
            "model": self.name,
            "model_version": self.version,
            "system_fingerprint": self.version,
        }

    def usage(self, answered: CompletionResult) -> Usage:
        """The counts of tokens."""
        prompts = sum(len(ids) for ids in self.ask.prompts)
        answers = sum(len(a.tokens) + (a.end is not None) for a in answered.answers)
        return Usage(
            prompt_tokens=prompts,
            completion_tokens=answers,
            total_tokens=prompts + answers,
        )


class Writer(Protocol):
    """Turns what the worker sends into the answer, or into the chunks of a stream."""

    def whole(self, answered: CompletionResult) -> BaseModel:
        """The answer in full."""
        ...

    def first(self) -> list[BaseModel]:
        """The chunks before any token."""
        ...

    def token(self, event: StreamedToken) -> list[BaseModel]:
        """The chunks of an event."""
        ...

    def last(self, answered: CompletionResult) -> list[BaseModel]:
        """The chunks after the last token."""
        ...


async def bounded(state: ApiState, call: Call, minimum: str | None) -> Call:
    """A request for a version that head was at when it was at ``minimum``, or later.

    Raises:
        ApiProblem: as `service.api.http.min_version.at_least`.
    """
    if minimum is None:
        return call
    resolve = partial(version_of, state.store)
    [version] = await at_least(state, [call.name], minimum, resolve)
    return replace(call, version=version)


async def answer(request: Request, state: ApiState, call: Call, writer: Writer) -> Response:
    """Have a request answered, at once or as a stream.

    Raises:
        ApiProblem: 503 without a worker for `HOLD_S`, 429, or the worker's own error.
    """
    await _hold(state)
    asked = worker_request(
        state,
        "complete",
        [call.version],
        call.ask.model_dump(mode="json"),
        [] if call.name == "head" else [call.version],
    )
    headers = {"X-Model-Version": call.version}
    if call.ask.stream:
        events = _events(request, state, asked, writer)
        return state.streams.tokens(caller_of(request), events, headers=headers)
    try:
        data = await result(state, request, asked)
    except ApiProblem as problem:
        data = await result(state, request, await _again(state, asked, problem))
    found = CompletionResult.model_validate(data)
    body = await run_in_threadpool(lambda: writer.whole(found).model_dump_json())
    return Response(body, headers=headers, media_type="application/json")


async def _hold(state: ApiState) -> None:
    """Wait for a worker that is away for a moment.

    Clients of this interface give up after three tries within two seconds, so a restart would
    end an evaluation of hours.

    Raises:
        ApiProblem: 503 after `HOLD_S` without one, or if the api has to end first.
    """
    end = time.monotonic() + min(HOLD_S, state.settings.generate_timeout_s)
    while True:
        try:
            await state.require_any_worker()
        except ApiProblem:
            if time.monotonic() > end:
                raise
            async with state.closing.or_refused():
                await asyncio.sleep(LOOK_S)
        else:
            return


async def _again(state: ApiState, asked: WorkerRequest, problem: ApiProblem) -> WorkerRequest:
    """The request for another worker, where the first one died before it answered.

    A dead worker counts as alive for a few seconds, in which `_hold` lets requests pass.  There is
    one more try: a request that a worker dies of would end the next ones as well.

    Raises:
        ApiProblem: it is another problem, or no worker starts within `HOLD_S`.
    """
    if problem.code != WorkerGone.code:
        raise problem
    await _hold(state)
    deadline = time.time() + state.settings.generate_timeout_s  # as long as the first one had
    # the worker skips the id given up
    return asked.model_copy(update={"id": new_id("ask"), "deadline": deadline})


async def _replies(state: ApiState, asked: WorkerRequest) -> AsyncGenerator[WorkerReply, None]:
    """The worker's replies, from another one if the first died before it gave any."""
    begun = False
    try:
        async with aclosing(replies(state, asked)) as answers:
            async for reply in answers:
                begun = True
                yield reply
        return
    except ApiProblem as problem:
        if begun:
            raise
        asked = await _again(state, asked, problem)
    async with aclosing(replies(state, asked)) as answers:
        async for reply in answers:
            yield reply


async def _events(
    request: Request, state: ApiState, asked: WorkerRequest, writer: Writer
) -> AsyncIterator[ServerSentEvent]:
    """The chunks, and an end that clients know; an error is an event, too, and the last one."""
    try:
        for chunk in writer.first():
            yield _event(chunk)
        async with aclosing(_replies(state, asked)) as answers:
            async for reply in answers:
                if reply.event == "token":
                    chunks = writer.token(StreamedToken.model_validate(reply.data))
                else:
                    chunks = writer.last(CompletionResult.model_validate(reply.data))
                for chunk in chunks:
                    yield _event(chunk)
        yield ServerSentEvent("[DONE]")
    except Exception as error:
        yield error_event(request, error)


def _event(chunk: BaseModel) -> ServerSentEvent:
    return ServerSentEvent(chunk.model_dump_json(exclude_unset=True))


def ask_of(
    body: Sampled,
    prompts: list[list[int]],
    longest: int | None,
    model: PublishedModel,
    settings: Settings,
    **more: Any,
) -> CompletionAsk:
    """The worker's request; ``longest`` None is as much as may be.

    More than ``JEEP_MAX_NEW_TOKENS`` or than fits is cut to that: answers then end with
    ``length``.
    """
    most = settings.max_new_tokens if longest is None else min(longest, settings.max_new_tokens)
    ids = [_special(model.tokenizer, text) for text in body.stops]
    return CompletionAsk(
        prompts=prompts,
        samples=body.samples,
        max_new_tokens=most,
        temperature=body.heat,
        top_k=body.top_k if body.top_k and body.top_k > 0 else None,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=[text for text, one in zip(body.stops, ids, strict=True) if one is None],
        stop_ids=[one for one in ids if one is not None],
        stream=bool(body.stream),
        **more,
    )


def _special(tokenizer: Tokenizer, text: str) -> int | None:
    """The id of a special token: it shows in no answer, so a stop string could not find it."""
    token = tokenizer.token_to_id(text)
    if token is None or tokenizer.decode([token], skip_special_tokens=True):
        return None
    return int(token)


def check_texts(
    body: Sampled, texts: Sequence[tuple[str, str]], count: int, settings: Settings
) -> None:
    """Check sizes before anything is tokenized; ``texts`` with their pointers.

    Raises:
        ApiProblem: more prompts, answers or characters than the settings allow.
    """
    stops = [(f"/stop/{i}", text) for i, text in enumerate(body.stops)]
    message = f"at most {settings.max_text_chars} characters (JEEP_MAX_TEXT_CHARS)"
    errors = [
        field_error(pointer, OVER_LIMIT, message)
        for pointer, text in (*texts, *stops)
        if len(text) > settings.max_text_chars
    ]
    for pointer, found, what in (
        ("/n", count * body.samples, "prompts × n"),
        ("/stop", len(stops), "stop strings"),
    ):
        if found > settings.max_prompts:
            message = f"{what} must be at most {settings.max_prompts} (JEEP_MAX_PROMPTS)"
            errors.append(field_error(pointer, OVER_LIMIT, message))
    if errors:
        raise invalid(errors)


def check_prompts(
    prompts: Sequence[tuple[str, Sequence[int]]],
    answered: bool,
    model: PublishedModel,
    settings: Settings,
) -> None:
    """Check that prompts, given with their pointers, fit the model; ``answered``: with a token.

    Raises:
        ApiProblem: for prompts without tokens, for those that are too long, and for tokens that are
            none of the model's.
    """
    vocabulary = model.info.vocabulary
    room, limit = model.info.max_positions - answered, settings.max_prompt_tokens
    errors = []
    for pointer, ids in prompts:
        n = len(ids)
        if n == 0:
            errors.append(field_error(pointer, "empty", "the prompt has no tokens"))
        elif n > room:
            message = f"{n} tokens; the model has room for {room} and an answer"
            errors.append(field_error(pointer, "too_long", message))
        elif n > limit:
            message = f"{n} tokens, at most {limit} (JEEP_MAX_PROMPT_TOKENS)"
            errors.append(field_error(pointer, OVER_LIMIT, message))
        elif vocabulary is not None and max(ids) >= vocabulary:
            message = f"token {max(ids)} is none of the model's, which are 0 to {vocabulary - 1}"
            errors.append(field_error(pointer, "unknown_token", message))
    if errors:
        too_long = all(error["code"] == "too_long" for error in errors)
        raise invalid(errors, "too_long" if too_long else "invalid_request")
