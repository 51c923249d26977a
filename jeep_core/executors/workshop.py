"""The worker's side: the model, the version that is worked on, and one unit after the other."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from jeep_core.errors import JeepError
from jeep_core.executors.version import Version, view_of
from jeep_core.executors.wire import pack, unpack
from jeep_core.executors.work import Bench, Function, function_of
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import LoadedModel
from jeep_core.monitor import NOTHING, Monitor


class Workshop:
    """A model in a worker; the last version that was worked on is kept for the next run."""

    def __init__(self, base: LoadedModel) -> None:
        self._base = base
        self._monitor = NOTHING
        self._hooks = ExitStack()
        self._key: str | None = None
        self._bench: Bench | None = None
        self._function: Function | None = None
        self._common: Any = None

    def begin(self, task: str, common: Any, version: Version | str) -> list[str]:
        """Prepare for units of a task; one that is here already need only be named.

        Returns the names of the matrices that must be sent whole; then nothing is prepared.
        """
        key = version.key if isinstance(version, Version) else version
        if key == self._key and self._bench is not None:
            self._bench = replace(self._bench, kept={})
        elif isinstance(version, Version):
            self._hooks.close()
            self._key = self._bench = None  # the old one's memory is free for the new one
            view, unlike = view_of(self._base, version)
            if unlike:
                return unlike
            self._key, self._bench = version.key, Bench(view)
            # copies of the view outlive a unit, a twin even a run, and have its hooks for good: so
            # these ask for whoever is the caller now
            caller = Monitor(give_way=lambda: self._monitor.give_way())
            self._hooks.enter_context(giving_way(view, caller))
        else:
            raise JeepError(f"the worker has no version {version[:12]}")
        self._function, self._common = function_of(task), common
        return []

    def work(self, unit: Any, monitor: Monitor) -> Any:
        """The result of a unit, its tensors on the CPU and without a share in others' memory.

        Raises:
            Whatever the unit, or ``monitor.check``, raises.
        """
        assert self._bench is not None
        assert self._function is not None
        self._monitor = monitor
        try:
            return packed(self._function(self._bench.monitored(monitor), self._common, unit))
        finally:
            self._monitor = NOTHING


def packed(value: Any) -> Any:
    """Plain data with its tensors (any shape) as they are sent.

    A view of a larger tensor would be sent with all of it.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {key: packed(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(packed(one) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: packed(getattr(value, f.name)) for f in fields(value)})
    return value


def sendable(error: BaseException) -> BaseException:
    """An exception that arrives as it is, or one that says the same.

    Where it was raised is added as a note to those that were not raised on purpose.
    """
    if not isinstance(error, JeepError):
        error.add_note("in a worker: " + "".join(traceback.format_exception(error)))
    try:
        if type(unpack(pack(error))) is type(error):
            return error
    except Exception:
        pass
    return JeepError(f"{type(error).__name__}: {error}")
