"""Hyper-parameters of an edit that names none: from a probe of the base model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jeep_core.models.loading import LoadedModel
from jeep_core.monitor import Monitor
from jeep_core.probe.defaults.choose import choose, record_sha256
from jeep_core.probe.defaults.from_record import Chosen
from service.store import Store


def automatic_hparams(
    store: Store,
    base: LoadedModel,
    editor: str,
    changes: Mapping[str, Any],
    monitor: Monitor,
) -> tuple[Chosen, str]:
    """The hyper-parameters chosen for an edit or a trial, and the hash of the probe used.

    The base model is probed once if no probe of it is stored; the phase is ``probe``.

    Raises:
        InvalidHParams: the changes do not go with what is chosen.
        JeepError: the stored probe cannot be read.
        Whatever ``monitor.check`` raises.
    """
    folder = store.base.probes_folder
    chosen, record = choose(base, editor, folder=folder, changes=changes, monitor=monitor)
    return chosen, record_sha256(record)
