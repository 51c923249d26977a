"""Second moments of a store's model, for both api and worker; needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from jeep_core.editors import hparams_class
from jeep_core.moments.source import MomentSource
from jeep_core.spec.hparams import EditorHParams, validate_hparams
from service.contracts.schemas import Manifest, WorkerInfo
from service.store.base.files import BaseFiles


def source_of(base: BaseFiles, info: WorkerInfo) -> MomentSource:
    """The source of second moments for the published model."""
    return MomentSource(info.model_hash, info.moments, base.moments_folder)


def check_moments(
    base: BaseFiles, info: WorkerInfo, editor: str, hparams: EditorHParams | Literal["auto"]
) -> None:
    """Refuse an edit, or a trial, whose second moments are not available.

    ``hparams`` are validated, or "auto": then the layers are not known before the job runs, and
    nothing is refused.

    Raises:
        MissingMoments: see `MomentSource.check`.
    """
    if isinstance(hparams, EditorHParams):
        source_of(base, info).check(editor, hparams)


def check_again(base: BaseFiles, info: WorkerInfo, later: Iterable[Manifest]) -> None:
    """Refuse to reapply batches whose second moments are no longer available.

    Raises:
        MissingMoments: as `check_moments`.
        InvalidHParams: an editor is no longer installed, or takes other hyper-parameters.
    """
    source = source_of(base, info)
    for version in later:
        if version.hparams:
            cls = hparams_class(str(version.editor))
            hparams = validate_hparams(cls, version.hparams, info.n_layers, f"/{version.id}")
            source.check(f"{version.editor} ({version.edit_id})", hparams)
