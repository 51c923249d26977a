"""Log lines of the api: ids of requests and keys, never a key, texts only when asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from fastapi import Request

from service.api.access import caller_of
from service.logs import configure
from service.settings import Settings
from service.store import without_keys

log = logging.getLogger(__name__)


class NoKeys(logging.Filter):
    """Takes keys out of lines that quote what a client sent, such as addresses."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; every one is kept."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                without_keys(arg) if isinstance(arg, str) else arg for arg in record.args
            )
        return True


def set_up(settings: Settings) -> None:
    """Lines of this process, without keys."""
    configure(settings, "api")
    logging.getLogger("uvicorn.access").addFilter(NoKeys())


def log_texts(request: Request, settings: Settings, what: str, texts: Iterable[str]) -> None:
    """Write what was asked or taught into the log, if ``JEEP_LOG_PROMPTS`` is set."""
    if settings.log_prompts:
        given = [*texts]
        log.info(
            "request %s of %s: %s %s",
            request.scope["request_id"],
            caller_of(request).id,
            what,
            given,
        )
