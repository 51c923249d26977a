"""The executor of a command: this process, others beside it, or actors of a Ray cluster."""

from __future__ import annotations

from jeep_core.commands import WrongArgument
from jeep_core.executors.choice import Choice
from jeep_core.executors.work import Executor
from jeep_core.models.loading import LoadedModel


def executor_for(choice: Choice, base: LoadedModel) -> Executor:
    """The executor of a choice, whose processes have the priority of this one.  To be closed.

    Raises:
        WrongArgument: no GPUs are set aside for actors that need them.
        NoCluster: Ray is not installed.
    """
    devices = ", ".join(map(str, base.devices))
    if choice.lacks_gpus(devices):
        raise WrongArgument(
            f"the model is on {devices}, and JEEP_EXECUTOR_GPUS=0 leaves the actors of "
            "--executor ray without a GPU: set it to what each may have of one, such as 0.5 or 1"
        )
    return choice.make(niceness=0)
