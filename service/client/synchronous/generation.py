# Made of service/client/asynchronous by python -m tools.sync_client: change it there.
"""Calls that ask versions: answers, at once or as they come."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

from service.client.errors import translated
from service.client.requests import ANSWER_S, Streamed, generate_body, said_by
from service.client.synchronous.transport import Transport
from service.contracts.schemas import GeneratedToken, GenerateResult


class GenerationCalls(Transport):
    """``/generate``."""

    def generate(
        self,
        prompts: str | Sequence[str] | None = None,
        version: str | Sequence[str] = "head",
        **options: Any,
    ) -> GenerateResult:
        """Answers of one or several versions; options as in ``POST /generate``.

        Among them are ``messages``, in place of prompts: a chat, each with role and content.
        """
        body = generate_body(prompts, version, options)
        limits = self._within(ANSWER_S)
        return self._model(GenerateResult, "POST", "/generate", json=body, timeout=limits)

    def stream(
        self, prompt: str | None = None, version: str = "head", **options: Any
    ) -> Generator[Streamed, None]:
        """``("token", GeneratedToken)`` as they come, then ``("result", GenerateResult)``.

        ``messages`` may be given in place of the prompt, as in ``generate``.  Closing the
        generator ends the computation.

        Raises:
            ApiError: also when the service breaks off in the middle.
        """
        body = {**generate_body(prompt, version, options), "stream": True}
        limits = self._within(ANSWER_S)
        with closing(self._events("POST", "/generate", json=body, timeout=limits)) as events:
            for event in events:
                with translated():
                    data = said_by(event)
                if event.event == "token":
                    with translated():
                        token = GeneratedToken.model_validate(data)
                    yield "token", token
                elif event.event == "result":
                    with translated():
                        result = GenerateResult.model_validate(data)
                    yield "result", result
