"""``jeep store gc``: one round of retention without a worker."""

from __future__ import annotations

import sys

from jeep_core.errors import JeepError
from jeep_core.models.loading import load
from jeep_core.text.counting import counted
from service.settings import Settings
from service.store import Store, StoreBusy, StoreError
from service.store.maintenance.sweep import sweep
from service.worker.versions.retention import Keeper


def main(settings: Settings) -> int:
    """Drop what can be rebuilt; the exit code.

    The model is needed because nothing is dropped before it was rebuilt from the model's weights
    and came out the same.  It is the one that the store was last served with, unless one is named.
    """
    try:
        store = Store.open(settings.store, idempotency_hours=settings.idempotency_hours)
        with store.worker_lock():
            model, dtype = _model_of(store, settings)
            base = load(model, settings.device, dtype, settings.models)
            store.bind_model(base.model_hash)
            removed = sweep(store)
            done = Keeper(base, store, settings.keep_versions).collect()
    except StoreBusy as error:
        print(f"{error}: it does this itself, after every job", file=sys.stderr)
        return 1
    except (StoreError, JeepError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for version, freed in done.dropped.items():
        print(f"{version}: tensors dropped, {freed:,} bytes")
    for version in done.restored:
        print(f"{version}: tensors stored again")
    files = removed + done.removed_files
    print(
        f"{sum(done.dropped.values()):,} bytes free, {counted(files, 'file')} without use removed"
    )
    return 0


def _model_of(store: Store, settings: Settings) -> tuple[str, str]:
    """Name and type of weights of the model to load."""
    info, given = store.base.info(), settings.model_fields_set
    model, dtype = settings.model, str(settings.dtype)
    if info is not None and "model" not in given:
        model = info.model
    if info is not None and "dtype" not in given:
        dtype = info.dtype  # of the same weights, wherever they lie now
    return model, dtype
