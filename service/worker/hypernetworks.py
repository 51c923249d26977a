"""Training jobs: a network for MEND or MALMEN, for the served model."""

from __future__ import annotations

from jeep_core.editors import hparams_class
from jeep_core.hparams_gradient import HypernetworkHParams
from jeep_core.hypernetworks.records import read_record
from jeep_core.hypernetworks.training import TrainingSettings
from jeep_core.train_hypernetwork import train_network
from service.networks import network_out, networks_folder, training_folder
from service.schemas import HypernetworkPayload, Network
from service.worker.read_lane import Task


def run(task: Task) -> Network:
    """Train to the end; a job that runs again goes on from its last checkpoint.

    Raises:
        InvalidHParams: the data cannot be read, or a suite edits its subjects.
    """
    payload = HypernetworkPayload.model_validate(task.job.payload)
    hparams = hparams_class(payload.editor).model_validate(payload.hparams)
    assert isinstance(hparams, HypernetworkHParams)
    control = task.control

    def wait() -> bool:
        control.pause()
        return False

    control.progress("prepare", 0, 1)
    path = train_network(
        task.base,
        payload.editor,
        hparams,
        TrainingSettings(**payload.options.model_dump()),
        networks_folder(task.store),
        None if payload.data is None else training_folder(task.store) / payload.data,
        progress=control.progress,
        should_stop=wait,
        pause=control.give_way,
        checkpoint=task.work,
    )
    record = read_record(path)
    assert record is not None
    return network_out(record)
