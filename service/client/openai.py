"""Calls of OpenAI's interface, for those who have this client at hand already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.client.transport import Transport, given
from service.contracts.schemas.openai import ChatCompletion, Completion, Model, ModelList

Prompt = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]


class OpenAICalls(Transport):
    """``/v1``.  Streams are for openai's own client, which works unchanged."""

    def models(self) -> list[Model]:
        """Every name by which a version can be asked."""
        return self._model(ModelList, "GET", "/v1/models").data

    def complete(self, prompt: Prompt, model: str = "head", **options: Any) -> Completion:
        """Continue prompts, texts or tokens; options as in ``POST /v1/completions``."""
        body = {"model": model, "prompt": prompt, **given(options)}
        return self._model(Completion, "POST", "/v1/completions", json=body)

    def chat(
        self, messages: str | Sequence[Mapping[str, Any]], model: str = "head", **options: Any
    ) -> ChatCompletion:
        """Answer messages, or one text of the user; options as in ``POST /v1/chat/completions``."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        body = {"model": model, "messages": [dict(one) for one in messages], **given(options)}
        return self._model(ChatCompletion, "POST", "/v1/chat/completions", json=body)
