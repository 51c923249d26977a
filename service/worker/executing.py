"""From settings to the executor of a lane."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from jeep_core.errors import NoCluster
from jeep_core.executors.here import HERE
from jeep_core.executors.processes import Processes
from jeep_core.executors.work import Executor
from jeep_core.models.loading import LoadedModel
from jeep_core.models.placement.device_map import BALANCED
from service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from jeep_core.executors.ray.cluster import RayCluster


def executor_of(settings: Settings, base: LoadedModel, stack: ExitStack) -> Executor:
    """An executor for a model as the settings say, closed with ``stack``.

    Each lane has its own, so that none waits for another.  The first edit does not wait for the
    libraries of its processes, which are imported meanwhile.

    Raises:
        SettingsError: it needs a library that is not installed, or GPUs that none are set aside of.
    """
    megabytes = settings.executor_memory_mb
    memory = None if megabytes is None else megabytes * 2**20
    if settings.executor == "here":
        return HERE
    found: Processes | RayCluster
    if settings.executor == "processes":
        found = Processes(settings.executor_workers, settings.executor_threads, memory)
    else:
        device = str(base.layout) if len(base.devices) > 1 else str(base.device)
        _refuse_unreserved_gpus(settings, device)
        found = _cluster(settings, memory)
    stack.callback(found.close)
    found.warm(base)
    return found


def check_executor(settings: Settings) -> None:
    """Check what can be said of the executor before the model is loaded.

    Raises:
        SettingsError: workers of a Ray cluster are to use GPUs, none of which is set aside.
    """
    _refuse_unreserved_gpus(settings, settings.device)


def _refuse_unreserved_gpus(settings: Settings, device: str) -> None:
    """An actor without a share of a GPU sees none, or takes memory that Ray gives to others."""
    on_gpus = "cuda" in device or device == BALANCED
    if settings.executor == "ray" and on_gpus and not settings.executor_gpus:
        raise SettingsError(
            "JEEP_EXECUTOR_GPUS: 0 leaves actors of JEEP_EXECUTOR=ray without a GPU, and they are "
            f"to work on the worker's kind of device (JEEP_DEVICE={settings.device}: {device}): "
            "set it to what each may have of a GPU, such as 0.5 or 1"
        )


def _cluster(settings: Settings, memory: int | None) -> RayCluster:
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
