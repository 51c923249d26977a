"""Before the writer serves: the store made ready, and published what the api needs of the model."""

from __future__ import annotations

import logging
from pathlib import Path

from jeep_core.editing import relations
from jeep_core.editors import BrokenEditor, available, hparams_class
from jeep_core.evaluation.harness.installed import installed_version
from jeep_core.evaluation.perplexity import text_path
from jeep_core.exports.checkpoint import checkpoint_bytes
from jeep_core.models.loading import DTYPES, LoadedModel
from jeep_core.models.special_tokens import special_tokens
from jeep_core.moments.source import import_command, origin_of
from jeep_core.spec.hparams import presets_for, validate_hparams
from jeep_core.storage.looking import present
from service.contracts.jobs import now
from service.contracts.schemas import WorkerInfo
from service.ops.release import program_version
from service.settings import Settings
from service.store import Store, StoreError, is_disk_full
from service.store.base.files import CHAT_TEMPLATE
from service.store.base.moments import source_of
from service.store.maintenance.sweep import sweep_own
from service.worker.input_files import check_moments, own_relations
from service.worker.members.joining import measuring
from service.worker.versions.views import VersionViews

log = logging.getLogger(__name__)


def prepare(store: Store, base: LoadedModel, settings: Settings) -> None:
    """Bind the store to the model, clean it up and publish the model data for the api.

    Raises:
        StoreError: it belongs to another model, or a manifest or head cannot be read.
        InvalidHParams: one of the user's presets for this model does not fit it.
        SettingsError: relations or second moments that the settings name cannot be used.
    """
    store.bind_model(base.model_hash)
    check_moments(settings, store, base)
    store.create_base(base.weights_sha256)
    store.head.repair()
    sweep_own(store)  # the rest is looked for while the worker serves: retention's first round
    publish(store, base, settings)


def load_head(store: Store, views: VersionViews) -> None:
    """Load head before the first request.  A damaged head is served as an error per request,
    so that a rollback to another version remains possible.  One that cannot be read now is read
    when it is asked for.
    """
    try:
        views.get(store.head.read().version)
    except StoreError as error:
        log.error("head cannot be served, roll back to another version: %s", error)
    except OSError as error:
        log.error("head cannot be read now, and is served once it can be: %s", error)


def head_of(store: Store) -> str | None:
    """Head, None where it cannot be read."""
    try:
        return store.head.read().version
    except (StoreError, OSError):
        return None  # /readyz says so


def load_mended_head(store: Store, views: VersionViews) -> None:
    """Try a damaged head again: it may have been repaired, and clients that wait for the worker
    to be ready send no request that would load it.
    """
    if store.head.read().version in views.damaged():
        load_head(store, views)


def say_moments(store: Store, info: WorkerInfo) -> None:
    """Log where second moments come from, and which editors cannot be used for want of them."""
    needing = ", ".join(name for name, found in available()[0].items() if found.needs_moments)
    log.info("second moments: %s", info.moments_from)
    if info.moments is not None and not source_of(store.base, info).imported_files():
        log.warning(
            "JEEP_MOMENTS: nothing is imported as %s for this model: edits by %s are refused "
            "until %s has been run",
            info.moments,
            needing,
            import_command(info.moments),
        )


def publish(store: Store, base: LoadedModel, settings: Settings) -> None:
    """Publish the data by which the api validates requests without a model.

    Raises:
        InvalidHParams: one of the user's presets for this model does not fit it.
    """
    presets = presets_for(base.name, settings.presets, base.shape)
    for problem in available()[1]:
        log.error("%s", problem)
    for preset in presets:
        if settings.presets and present(settings.presets / f"{preset.name}.yaml"):
            try:
                cls, where = hparams_class(preset.editor), f"preset {preset.name}"
            except BrokenEditor:  # reported above
                continue
            validate_hparams(cls, preset.hparams, base.n_layers, where)
    names: dict[str, list[str]] = {}
    for preset in presets:
        names.setdefault(preset.editor, []).append(preset.name)
    config = base.model.config
    info = WorkerInfo(
        model=base.name,
        model_hash=base.model_hash,
        family=base.family.name,
        dtype=str(base.dtype).removeprefix("torch."),
        device=str(base.layout),
        n_layers=base.n_layers,
        hidden_size=config.hidden_size,
        mlp_size=base.mlp_size,
        max_positions=base.max_positions,
        vocabulary=base.vocabulary,
        relations=relations() | own_relations(settings.relations),
        presets=names,
        preset_values={f"{p.editor}/{p.name}": p.hparams for p in presets},
        moments=settings.moments,
        moments_from=origin_of(base.name, settings.corpus, settings.moments),
        perplexity_text=text_path(base.name, settings.perplexity_text) is not None,
        special_tokens=special_tokens(base),
        lm_eval=installed_version(),
        checkpoint_bytes=0 if base.folder is None else checkpoint_bytes(base.folder),
        checkpoint_bytes_as=_bytes_as(base.folder),
        release=program_version(),
        measuring=measuring(settings),
        started_at=now(),
    )
    say_moments(store, info)
    files = {
        "tokenizer.json": base.tokenizer.to_str().encode(),
        "config.json": config.to_json_string().encode(),
    }
    if base.chat is not None:
        files[CHAT_TEMPLATE] = base.chat.to_json().encode()
    try:
        store.base.publish(info, files)
    except OSError as error:
        if not is_disk_full(error) or store.base.info() is None:
            raise
        log.error("the api goes on with what the last worker has published: %s", error)


def _bytes_as(folder: Path | None) -> dict[str, int]:
    """The size of a model's files in each type, by its name."""
    return {} if folder is None else {dtype: checkpoint_bytes(folder, dtype) for dtype in DTYPES}
