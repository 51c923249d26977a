"""``min_version``: an answer from a version, or from what head was moved to after it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence

from fastapi.concurrency import run_in_threadpool

from service.api.http.problems import ApiProblem, field_error, invalid
from service.api.state import ApiState
from service.store import Store, UnknownVersion

LOOK_S = 0.05
POINTER = "/min_version"
_ID = re.compile(r"v(0|[1-9][0-9]{0,17})")


async def at_least(
    state: ApiState, refs: Sequence[str], minimum: str, resolve: Callable[[str], str]
) -> list[str]:
    """The ids of versions, each of which head was at when it first was at ``minimum``, or later.

    Head is waited for; ``refs`` are resolved after that.

    Raises:
        ApiProblem: 422 for a minimum that is no version, 412 if head has not been there within
            ``JEEP_MIN_VERSION_WAIT_S``, or a version that was named is an earlier one; 503 if the
            api has to end first.
    """
    store, wait_s = state.store, state.settings.min_version_wait_s
    end = time.monotonic() + wait_s
    while not (found := await run_in_threadpool(_reached, store, minimum)):
        if time.monotonic() >= end:
            message = (
                f"head has not been at {minimum} within {wait_s:g} s (JEEP_MIN_VERSION_WAIT_S): "
                "wait until its job has succeeded, or leave min_version out"
            )
            errors = [field_error(POINTER, "version_behind", message)]
            raise ApiProblem("version_behind", message, errors)
        async with state.closing.or_refused():
            await asyncio.sleep(LOOK_S)
    versions = await run_in_threadpool(lambda: [resolve(ref) for ref in refs])
    for ref, version in zip(refs, versions, strict=True):
        if not await run_in_threadpool(store.head_log.is_at_least, version, found):
            message = (
                f"head was not at {ref} when it was at {minimum}, or later: ask head, or leave "
                "min_version out"
            )
            errors = [field_error(POINTER, "version_behind", message)]
            raise ApiProblem("version_behind", message, errors)
    return versions


def _reached(store: Store, minimum: str) -> str | None:
    """The id of the minimum, if head has been there; None for one that may still be written."""
    try:
        version = store.names.resolve(minimum)
    except UnknownVersion as error:
        if _ID.fullmatch(minimum):
            return None
        raise invalid([field_error(POINTER, "unknown_version", str(error))]) from None
    head = store.head.read().version
    return version if store.head_log.is_at_least(head, version) else None
