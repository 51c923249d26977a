"""From settings to the executor of a lane."""

from __future__ import annotations

from contextlib import ExitStack

from jeep_core.errors import NoCluster
from jeep_core.executors.choice import Choice
from jeep_core.executors.here import Here
from jeep_core.executors.work import Executor
from jeep_core.models.loading import LoadedModel
from service.settings import Settings, SettingsError


def executor_of(settings: Settings, base: LoadedModel, stack: ExitStack) -> Executor:
    """An executor for a model as the settings say, closed with ``stack``.

    Each lane has its own, so that none waits for another.  The first edit does not wait for the
    libraries of its processes, which are imported meanwhile.

    Raises:
        SettingsError: it needs a library that is not installed, or GPUs that none are set aside of.
    """
    device = str(base.layout) if len(base.devices) > 1 else str(base.device)
    _refuse_unreserved_gpus(settings, device)
    try:
        found = Choice(**settings.executor_fields).make()
    except NoCluster as error:
        raise SettingsError(f"JEEP_EXECUTOR: {error}") from None
    if not isinstance(found, Here):
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
    if Choice(**settings.executor_fields).lacks_gpus(device):
        raise SettingsError(
            "JEEP_EXECUTOR_GPUS: 0 leaves actors of JEEP_EXECUTOR=ray without a GPU, and they are "
            f"to work on the worker's kind of device (JEEP_DEVICE={settings.device}: {device}): "
            "set it to what each may have of a GPU, such as 0.5 or 1"
        )
