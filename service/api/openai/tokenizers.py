"""``/tokenize``, ``/detokenize``, ``/tokenizer_info``: the model's tokenizer for other programs.

At the root, beside ``/v1``: there lm-eval's remote tokenizer asks for them.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from jeep_core.text.encoding import encode
from service.api.http.access import needs
from service.api.http.bodies import json_request_body, read_model
from service.api.http.problems import documented, field_error, invalid
from service.api.model import PublishedModel
from service.api.state import State
from service.contracts.schemas.access import Scope
from service.contracts.schemas.openai import (
    Detokenized,
    DetokenizeRequest,
    Tokenized,
    TokenizeRequest,
    TokenizerInfo,
)

router = APIRouter(tags=["openai"])


@router.post(
    "/tokenize",
    responses=documented(400, 413, 415, 422, 503),
    openapi_extra=json_request_body(TokenizeRequest),
)
@needs(Scope.GENERATE)
async def tokenize(request: Request, state: State) -> Tokenized:
    """The tokens of a text; special ones are read where the text writes them."""
    body = await read_model(request, TokenizeRequest)
    return await run_in_threadpool(_tokenized, body, await run_in_threadpool(state.models.get))


@router.post(
    "/detokenize",
    responses=documented(400, 413, 415, 422, 503),
    openapi_extra=json_request_body(DetokenizeRequest),
)
@needs(Scope.GENERATE)
async def detokenize(request: Request, state: State) -> Detokenized:
    """The text of tokens, special ones included."""
    body = await read_model(request, DetokenizeRequest)
    return await run_in_threadpool(_detokenized, body, await run_in_threadpool(state.models.get))


@router.get("/tokenizer_info", responses=documented(503))
@needs(Scope.GENERATE)
def tokenizer_info(state: State) -> TokenizerInfo:
    """The tokens that begin and end a text, and the chat template."""
    model = state.models.get()
    tokens = dict(model.info.special_tokens)
    if model.chat is not None:
        tokens |= {name: text for name, text in model.chat.tokens.items() if text}
    return TokenizerInfo(
        bos_token=tokens.get("bos_token"),
        eos_token=tokens.get("eos_token"),
        chat_template=model.chat.source if model.chat is not None else None,
        max_model_len=model.info.max_positions,
    )


def _tokenized(body: TokenizeRequest, model: PublishedModel) -> Tokenized:
    tokenizer = model.tokenizer
    if body.add_special_tokens:
        ids = encode(tokenizer, body.prompt).ids
    else:
        ids = tokenizer.encode(body.prompt, add_special_tokens=False).ids
    return Tokenized(tokens=ids, count=len(ids), max_model_len=model.info.max_positions)


def _detokenized(body: DetokenizeRequest, model: PublishedModel) -> Detokenized:
    for i, token in enumerate(body.tokens):
        if model.tokenizer.id_to_token(token) is None:
            message = f"{token} is no token of the model"
            raise invalid([field_error(f"/tokens/{i}", "unknown_token", message)])
    text = model.tokenizer.decode(body.tokens, skip_special_tokens=False)
    return Detokenized(prompt=str(text))
