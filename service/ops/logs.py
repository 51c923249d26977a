"""Log lines of api and worker: JSON or text, with the ids of their request and their job.

No line contains an API key, whether from an address, a quoted body or an error's message.
Code logs through `logging` as usual.  Ids that are `bound` in a thread or task are on each of its
lines, those of other packages included.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import structlog
from structlog.contextvars import bound_contextvars, get_contextvars, merge_contextvars
from structlog.stdlib import ProcessorFormatter

from service.settings import Settings
from service.store.api_keys import without_keys

OWN = ("service", "jeep_core", "uvicorn")
"""Loggers at the level of ``JEEP_LOG_LEVEL``; all others log from ``warning`` up."""

Part = Literal["api", "worker"]
_log = logging.getLogger(__name__)


def configure(settings: Settings, part: Part) -> None:
    """Log to standard error, if nothing is configured for this process yet.

    A JSON line has ``time``, ``level``, ``logger``, ``message`` and ``part``, and where they are
    known ``request_id``, ``job_id`` and ``exception``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(settings.log_format, part))
    logging.basicConfig(handlers=[handler])
    logging.captureWarnings(True)
    for name in OWN:
        logging.getLogger(name).setLevel(settings.log_level.upper())


def formatter(kind: Literal["json", "text"], part: Part) -> logging.Formatter:
    """Return the formatter of records.  Tracebacks show no values: these may be prompts."""

    def with_part(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {"part": part, **event}

    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
    known: list[structlog.types.Processor] = [
        with_part,
        merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        stamp,
    ]
    shown: list[structlog.types.Processor] = [ProcessorFormatter.remove_processors_meta]
    if kind == "json":
        shown += [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    else:
        shown.append(
            structlog.dev.ConsoleRenderer(
                colors=False,
                timestamp_key="time",
                pad_event_to=0,
                exception_formatter=structlog.dev.plain_traceback,
            )
        )
    shown.append(lambda _, __, line: without_keys(str(line)))
    return ProcessorFormatter(foreign_pre_chain=known, processors=shown)


def bound(**ids: str | None) -> AbstractContextManager[None]:
    """Put ``request_id`` or ``job_id`` on every line of this thread or task, in a block."""
    return bound_contextvars(**{name: value for name, value in ids.items() if value is not None})


def request_id() -> str | None:
    """The id of the request that is being answered here."""
    found: str | None = get_contextvars().get("request_id")
    return found


def say(text: str) -> None:
    """Log a message of ``jeep serve`` or ``jeep api``."""
    _log.info("%s", text)
