"""``POST /v1/chat/completions``: messages in the model's own format, and its answer."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from jeep_core.text.chat import render
from service.api.http.access import needs
from service.api.http.bodies import json_request_body, read_model
from service.api.http.logs import log_texts
from service.api.model import PublishedModel
from service.api.openai.calls import Call, answer, ask_of, bounded, check_prompts, check_texts
from service.api.openai.models import version_of
from service.api.openai.responses import completed
from service.api.openai.token_texts import TokenTexts, utf8
from service.api.state import ApiState, State
from service.contracts.schemas.access import Scope
from service.contracts.schemas.completion import CompletionResult, ScoredToken, StreamedToken
from service.contracts.schemas.openai import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprob,
    ChatLogprobs,
    ChatMessage,
    ChatRequest,
    Delta,
    TopLogprob,
)

router = APIRouter(tags=["openai"])
ROLES = {"developer": "system"}
"""Newer names of roles, which templates do not know."""


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses=completed("The answers; with `stream` chunks of them, then `[DONE]`."),
    openapi_extra=json_request_body(ChatRequest),
)
@needs(Scope.GENERATE)
async def chat(request: Request, state: State) -> Response:
    """Answer messages, written in the way that the model's chat template says."""
    body = await read_model(request, ChatRequest)
    model = await run_in_threadpool(state.models.get)
    call = await run_in_threadpool(_call, state, body, model)
    log_texts(request, state.settings, "messages", [one.text for one in body.messages])
    call = await bounded(state, call, body.min_version)
    return await answer(request, state, call, ChatWriter(call, body))


def _call(state: ApiState, body: ChatRequest, model: PublishedModel) -> Call:
    """Read and check a request.

    Raises:
        ApiProblem: 404, 422 or 413 with what is wrong.
        NoTemplate, RefusedMessages: the model cannot be asked like this.
    """
    version, settings = version_of(state.store, body.model), state.settings
    texts = [(f"/messages/{i}/content", one.text) for i, one in enumerate(body.messages)]
    check_texts(body, texts, 1, settings)
    text = render(model, [_message(one) for one in body.messages])
    # the template has written BOS where the model wants it
    ids = list(model.tokenizer.encode(text, add_special_tokens=False).ids)
    check_prompts([("/messages", ids)], True, model, settings)
    top = (body.top_logprobs or 0) if body.logprobs else 0
    ask = ask_of(body, [ids], body.longest, model, settings, top=top)
    return Call("chatcmpl", body.model, version, model, ask)


def _message(message: ChatMessage) -> dict[str, str]:
    return {"role": ROLES.get(message.role, message.role), "content": message.text}


class ChatWriter:
    """Writes answers and chunks of chats."""

    def __init__(self, call: Call, body: ChatRequest) -> None:
        self._call, self._body = call, body
        self._texts = TokenTexts(call.model.tokenizer)
        self._written: dict[int, str] = {}

    def whole(self, answered: CompletionResult) -> BaseModel:
        """The answer in full."""
        choices = [
            ChatChoice(
                index=one.index,
                message=AnswerMessage(content=one.text),
                logprobs=self._logprobs(one.tokens),
                finish_reason=one.finish_reason,
            )
            for one in answered.answers
        ]
        usage = self._call.usage(answered)
        return ChatCompletion(**self._call.shared, choices=choices, usage=usage)

    def first(self) -> list[BaseModel]:
        """A chunk with the role for every answer."""
        delta = Delta(role="assistant", content="")
        return [self._chunk(i, delta) for i in range(self._call.ask.samples)]

    def token(self, event: StreamedToken) -> list[BaseModel]:
        """A chunk with a token, unless it shows nothing."""
        self._written[event.index] = self._written.get(event.index, "") + event.delta
        if event.token is None or not (event.delta or self._body.logprobs):
            return []
        return [self._chunk(event.index, Delta(content=event.delta), [event.token])]

    def last(self, answered: CompletionResult) -> list[BaseModel]:
        """The rest of every answer with its reason to end; usage, if that was asked for."""
        chunks: list[BaseModel] = []
        for one in answered.answers:
            rest = one.text[len(self._written.get(one.index, "")) :]
            delta = Delta(content=rest) if rest else Delta()
            chunks.append(self._chunk(one.index, delta, reason=one.finish_reason))
        if self._body.with_usage:
            usage = self._call.usage(answered)
            chunks.append(ChatChunk.model_validate({**self._shared, "choices": [], "usage": usage}))
        return chunks

    @property
    def _shared(self) -> dict[str, object]:
        usage = {"usage": None} if self._body.with_usage else {}
        return {**self._call.shared, "object": "chat.completion.chunk", **usage}

    def _chunk(
        self,
        index: int,
        delta: Delta,
        tokens: Sequence[ScoredToken] = (),
        reason: str | None = None,
    ) -> ChatChunk:
        choice = {"index": index, "delta": delta, "finish_reason": reason}
        logprobs = self._logprobs(tokens) if tokens else None
        made = ChatChunkChoice.model_validate({**choice, "logprobs": logprobs})
        return ChatChunk.model_validate({**self._shared, "choices": [made]})

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> ChatLogprobs | None:
        if not self._body.logprobs:
            return None
        return ChatLogprobs(content=[self._logprob(token) for token in tokens])

    def _logprob(self, token: ScoredToken) -> ChatLogprob:
        best = [self._top(id, value) for id, value in token.top]
        own = self._top(token.id, token.log_probability)
        return ChatLogprob(**own.model_dump(), top_logprobs=best)

    def _top(self, token: int, value: float) -> TopLogprob:
        text = self._texts.of(token)
        return TopLogprob(token=text, logprob=value, bytes=utf8(text))
