"""``POST /v1/completions``: texts or tokens in, texts with their log-probabilities out."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from service.api.http.access import needs
from service.api.http.bodies import json_request_body, read_model
from service.api.http.logs import log_texts
from service.api.model import PublishedModel
from service.api.openai.calls import Call, answer, ask_of, bounded, check_prompts, check_texts
from service.api.openai.models import version_of
from service.api.openai.responses import completed
from service.api.openai.token_texts import TokenTexts
from service.api.state import ApiState, State
from service.contracts.schemas.access import Scope
from service.contracts.schemas.completion import (
    CompletionAnswer,
    CompletionResult,
    ScoredToken,
    StreamedToken,
)
from service.contracts.schemas.openai import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)

router = APIRouter(tags=["openai"])
USUAL = 16
"""Tokens of an answer where the request does not say how many."""


@router.post(
    "/completions",
    response_model=Completion,
    responses=completed("The answers; with `stream` chunks of them, then `[DONE]`."),
    openapi_extra=json_request_body(CompletionRequest),
)
@needs(Scope.GENERATE)
async def complete(request: Request, state: State) -> Response:
    """Continue prompts; with `echo` and `logprobs` also score them."""
    body = await read_model(request, CompletionRequest)
    model = await run_in_threadpool(state.models.get)
    call = await run_in_threadpool(_call, state, body, model)
    texts = [prompt for prompt in body.prompts if isinstance(prompt, str)]
    log_texts(request, state.settings, "prompts", texts)
    call = await bounded(state, call, body.min_version)
    return await answer(request, state, call, CompletionWriter(call, body))


def _call(state: ApiState, body: CompletionRequest, model: PublishedModel) -> Call:
    """Read and check a request.

    Raises:
        ApiProblem: 404, 422 or 413 with what is wrong.
    """
    version, settings = version_of(state.store, body.model), state.settings
    given = body.prompts
    single = isinstance(body.prompt, str) or given[0] is body.prompt
    pointers = ["/prompt"] if single else [f"/prompt/{i}" for i in range(len(given))]
    named = zip(pointers, given, strict=True)
    texts = [(pointer, text) for pointer, text in named if isinstance(text, str)]
    check_texts(body, texts, len(given), settings)
    prompts = [_ids(model, prompt) for prompt in given]
    longest = USUAL if body.max_tokens is None else body.max_tokens
    check_prompts(list(zip(pointers, prompts, strict=True)), longest > 0, model, settings)
    scored = body.logprobs if body.echo else None
    top = body.logprobs or 0
    ask = ask_of(body, prompts, longest, model, settings, top=top, prompt_top=scored)
    return Call("cmpl", body.model, version, model, ask)


def _ids(model: PublishedModel, prompt: str | list[int]) -> list[int]:
    """Tokens of a prompt: special ones are read where they are written, and none is added."""
    if isinstance(prompt, str):
        return list(model.tokenizer.encode(prompt, add_special_tokens=False).ids)
    return prompt


class CompletionWriter:
    """Writes answers and chunks of completions."""

    def __init__(self, call: Call, body: CompletionRequest) -> None:
        self._call, self._body = call, body
        self._texts = TokenTexts(call.model.tokenizer)
        self._written: dict[int, str] = {}
        self._offsets: dict[int, int] = {}

    def whole(self, answered: CompletionResult) -> BaseModel:
        """The answer in full."""
        shared, usage = self._call.shared, self._call.usage(answered)
        choices = [self._choice(one, answered) for one in answered.answers]
        return Completion(**shared, choices=choices, usage=usage)

    def first(self) -> list[BaseModel]:
        """The prompts, where they are echoed without scores."""
        if not self._body.echo or self._body.logprobs is not None:
            return []
        count = len(self._call.ask.prompts) * self._call.ask.samples
        return [self._chunk(i, self._prompt(i), []) for i in range(count)]

    def token(self, event: StreamedToken) -> list[BaseModel]:
        """A chunk with a prompt and its scores, or with a token."""
        if event.prompt is not None:
            scored = self._prompt_tokens(event.index, event.prompt)
            return [self._chunk(event.index, self._prompt(event.index), scored)]
        self._written[event.index] = self._written.get(event.index, "") + event.delta
        if event.token is None or not (event.delta or self._body.logprobs is not None):
            return []
        return [self._chunk(event.index, event.delta, [event.token])]

    def last(self, answered: CompletionResult) -> list[BaseModel]:
        """The rest of every answer with its reason to end; usage, if that was asked for."""
        chunks: list[BaseModel] = []
        for one in answered.answers:
            rest = one.text[len(self._written.get(one.index, "")) :]
            end = [] if one.end is None else [one.end]
            chunks.append(self._chunk(one.index, rest, end, one.finish_reason))
        if self._body.with_usage:
            usage = self._call.usage(answered)
            chunks.append(
                Completion.model_validate({**self._shared, "choices": [], "usage": usage})
            )
        return chunks

    def _chunk(
        self,
        index: int,
        text: str,
        tokens: Sequence[ScoredToken | int],
        reason: str | None = None,
    ) -> Completion:
        offset = self._offsets.get(index, 0)
        logprobs, end = self._logprobs(tokens, offset)
        self._offsets[index] = end
        choice = CompletionChoice.model_validate(
            {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        )
        return Completion.model_validate({**self._shared, "choices": [choice]})

    @property
    def _shared(self) -> dict[str, object]:
        usage = {"usage": None} if self._body.with_usage else {}
        return {**self._call.shared, "object": "text_completion", **usage}

    def _choice(self, one: CompletionAnswer, answered: CompletionResult) -> CompletionChoice:
        tokens: list[ScoredToken | int] = [*one.tokens, *([one.end] if one.end else [])]
        text = one.text
        if self._body.echo:
            first = answered.answers[one.index - one.index % self._call.ask.samples]
            tokens = [*self._prompt_tokens(one.index, first.prompt or []), *tokens]
            text = self._prompt(one.index) + text
        logprobs, _ = self._logprobs(tokens, 0)
        return CompletionChoice(
            index=one.index, text=text, logprobs=logprobs, finish_reason=one.finish_reason
        )

    def _prompt(self, index: int) -> str:
        """The text of the prompt of an answer."""
        number = index // self._call.ask.samples
        prompt = self._body.prompts[number]
        if isinstance(prompt, str):
            return prompt
        return str(self._call.model.tokenizer.decode(prompt, skip_special_tokens=False))

    def _prompt_tokens(self, index: int, scored: Sequence[ScoredToken]) -> list[ScoredToken | int]:
        """The prompt's tokens: the id alone of the first, which nothing precedes."""
        return [self._call.ask.prompts[index // self._call.ask.samples][0], *scored]

    def _logprobs(
        self, tokens: Sequence[ScoredToken | int], offset: int
    ) -> tuple[CompletionLogprobs | None, int]:
        """Log-probabilities of tokens from ``offset`` on, and where the next token begins."""
        if self._body.logprobs is None:
            return None, offset
        found = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for token in tokens:
            text = self._texts.of(token if isinstance(token, int) else token.id)
            found.tokens.append(text)
            found.text_offset.append(offset)
            if isinstance(token, int):
                found.token_logprobs.append(None)
                found.top_logprobs.append(None)
            else:
                found.token_logprobs.append(token.log_probability)
                ranked = [*token.top, (token.id, token.log_probability)]
                found.top_logprobs.append(self._texts.by_text(ranked))
            offset += len(text)
        return found, offset
