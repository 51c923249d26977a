"""Prompts and facts in the api's log: only if configured, with the ids of request and key."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from fastapi import Request

from service.api.http.access import caller_of
from service.settings import Settings

log = logging.getLogger(__name__)


def log_texts(request: Request, settings: Settings, what: str, texts: Iterable[str]) -> None:
    """Log the prompts or facts of a request, if ``JEEP_LOG_PROMPTS`` is set."""
    if settings.log_prompts:
        given = [*texts]
        log.info(
            "request %s of %s: %s %s",
            request.scope["request_id"],
            caller_of(request).id,
            what,
            given,
        )
