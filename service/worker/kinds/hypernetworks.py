"""Training jobs: a network for MEND or MALMEN, for the served model."""

from __future__ import annotations

from pathlib import Path

from jeep_core.commands.train_network import train_network
from jeep_core.editors import hparams_class
from jeep_core.editors.networks.records import read_record
from jeep_core.editors.networks.training import TrainingSettings
from jeep_core.spec.gradient_hparams import HypernetworkHParams
from service.contracts.schemas import HypernetworkPayload, Network
from service.store import CorruptFile, Store
from service.store.base.networks import network_out
from service.store.files import difference
from service.worker.lanes.read_lane import Task


def run(task: Task) -> Network:
    """Train to the end; a job that runs again continues from its last checkpoint.

    Raises:
        InvalidHParams: the data cannot be read, or a suite edits its subjects.
        CorruptFile: the data have changed since the job was accepted.
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
        task.store.base.networks_folder,
        _data(task.store, payload),
        progress=control.progress,
        should_stop=wait,
        pause=control.give_way,
        checkpoint=task.work,
    )
    record = read_record(path)
    assert record is not None
    return network_out(record)


def _data(store: Store, payload: HypernetworkPayload) -> Path | None:
    """The file to train on, None for the bundled cases."""
    if payload.data is None:
        return None
    path = store.base.training_folder / payload.data
    if payload.data_sha256 and (what := difference(path, payload.data_sha256)):
        raise CorruptFile(f"{path} {what}; it must be what it was when the job was accepted")
    return path
