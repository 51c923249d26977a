"""The trained networks of a store's model, as they are shown; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from jeep_core.editors.networks.records import NetworkRecord, network_records
from service.contracts.schemas import Network
from service.store.base.files import BaseFiles


def networks_of(base: BaseFiles, model: str, model_hash: str) -> Sequence[NetworkRecord]:
    """The networks of a model, read again each time, so that a finished training shows immediately.

    Raises:
        JeepError: a record cannot be read.
    """
    return network_records(model, model_hash, base.networks_folder)


def network_out(record: NetworkRecord) -> Network:
    """A network as it is shown."""
    n = record.network
    return Network(
        editor=record.editor,
        layers=n["layers"],
        rank=n["rank"],
        n_blocks=n["n_blocks"],
        shipped=record.shipped,
        sha256=record.sha256,
        **{key: record.training[key] for key in Network.model_fields if key in record.training},
    )
