"""Calls for explanations of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.client.transport import Transport, given
from service.contracts.schemas.effects.explanation import ExplainResult


class ExplainCalls(Transport):
    """``/explain``."""

    def explain(
        self,
        prompt: str | None = None,
        version: str = "head",
        *,
        messages: Sequence[Mapping[str, str]] | None = None,
        answer: str | None = None,
        **options: Any,
    ) -> ExplainResult:
        """Say which facts moved an answer of a version; options as in ``POST /explain``.

        ``answer``: whose probability is explained; default: the version's most probable token.

        Raises:
            ApiError: ``not_explainable``, if the editor's updates have no column for each fact.
        """
        chat = None if messages is None else [dict(message) for message in messages]
        asked = {"prompt": prompt, "messages": chat, "version": version, "answer": answer}
        body = given({**asked, **options})
        return self._model(ExplainResult, "POST", "/explain", json=body, again=True)
