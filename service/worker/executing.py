"""From settings to the executor of a lane."""

from __future__ import annotations

from contextlib import ExitStack

from jeep_core.errors import NoCluster
from jeep_core.executors.here import HERE
from jeep_core.executors.processes import Processes
from jeep_core.executors.work import Executor
from service.settings import Settings, SettingsError


def executor_of(settings: Settings, stack: ExitStack) -> Executor:
    """An executor as the settings say, closed with ``stack``.

    Each lane has its own, so that none waits for another.

    Raises:
        SettingsError: it needs a library that is not installed.
    """
    megabytes = settings.executor_memory_mb
    memory = None if megabytes is None else megabytes * 2**20
    found: Executor = HERE
    if settings.executor == "processes":
        found = Processes(settings.executor_workers, settings.executor_threads, memory)
    elif settings.executor == "ray":
        found = _cluster(settings, memory)
    stack.callback(found.close)
    return found


def _cluster(settings: Settings, memory: int | None) -> Executor:
    from jeep_core.executors.ray.cluster import RayCluster

    try:
        return RayCluster(
            settings.executor_workers,
            settings.executor_address,
            cpus=settings.executor_cpus,
            gpus=settings.executor_gpus,
            threads=settings.executor_threads,
            memory_bytes=memory,
            wait_s=settings.executor_wait_s,
            without=settings.executor_without,
        )
    except NoCluster as error:
        raise SettingsError(f"JEEP_EXECUTOR: {error}") from None
