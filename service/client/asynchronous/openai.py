"""Calls of OpenAI's interface, for those who have this client at hand already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.client.asynchronous.transport import Transport
from service.client.requests import OPENAI_ANSWER_S, given, segment
from service.contracts.schemas.openai import (
    ChatCompletion,
    Completion,
    Detokenized,
    Model,
    ModelList,
    Tokenized,
    TokenizerInfo,
)

Prompt = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]


class OpenAICalls(Transport):
    """``/v1`` and the tokenizer.  Streams are for openai's own client, which works unchanged."""

    async def models(self) -> list[Model]:
        """Every name by which a version can be asked."""
        return (await self._model(ModelList, "GET", "/v1/models")).data

    async def model(self, name: str) -> Model:
        """The version that a name means."""
        return await self._model(Model, "GET", f"/v1/models/{segment(name)}")

    async def complete(self, prompt: Prompt, model: str = "head", **options: Any) -> Completion:
        """Continue prompts, texts or tokens; options as in ``POST /v1/completions``."""
        body = {"model": model, "prompt": prompt, **given(options)}
        limits = self._within(OPENAI_ANSWER_S)
        return await self._model(Completion, "POST", "/v1/completions", json=body, timeout=limits)

    async def chat(
        self, messages: str | Sequence[Mapping[str, Any]], model: str = "head", **options: Any
    ) -> ChatCompletion:
        """Answer messages, or one text of the user; options as in ``POST /v1/chat/completions``."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        body = {"model": model, "messages": [dict(one) for one in messages], **given(options)}
        limits, url = self._within(OPENAI_ANSWER_S), "/v1/chat/completions"
        return await self._model(ChatCompletion, "POST", url, json=body, timeout=limits)

    async def tokenize(self, prompt: str, add_special_tokens: bool = True) -> Tokenized:
        """The tokens of a text."""
        body = {"prompt": prompt, "add_special_tokens": add_special_tokens}
        return await self._model(Tokenized, "POST", "/tokenize", json=body)

    async def detokenize(self, tokens: Sequence[int]) -> Detokenized:
        """The text of tokens, special ones included."""
        return await self._model(Detokenized, "POST", "/detokenize", json={"tokens": list(tokens)})

    async def tokenizer_info(self) -> TokenizerInfo:
        """The tokens that begin and end a text, and the chat template."""
        return await self._model(TokenizerInfo, "GET", "/tokenizer_info")
