"""Waiting for an answer that may never come, and no longer than the worker works."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import TypeVar

from jeep_core.errors import Cancelled

T = TypeVar("T")
LOOK_S = 0.05
"""How often it is looked whether the wait is to end."""


def unless(ended: Callable[[], bool], call: Callable[[], T]) -> T:
    """The result of a call that may hang in a network, or its exception.

    The call has a thread of its own, which is left alone once ``ended`` says so: nothing else ends
    a look-up of a name, a connection that is being made and a read alike.  Such a thread does not
    keep the process from ending.

    Raises:
        Cancelled: ``ended`` was true before there was a result.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=copy_context().run, args=(work,), daemon=True)
    if ended():
        raise Cancelled
    thread.start()
    while True:
        thread.join(LOOK_S)
        if not thread.is_alive():
            break
        if ended():
            raise Cancelled
    if failed:
        raise failed[0]
    return found[0]
