"""Second moments for commands that try several editors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jeep_core.editors import hparams_class
from jeep_core.errors import JeepError
from jeep_core.models.loading import LoadedModel
from jeep_core.moments.cache import Moments
from jeep_core.moments.of_texts import moments_over
from jeep_core.moments.source import may_need_moments


def moments_of(
    base: LoadedModel,
    editors: Iterable[str],
    corpus: Path | None,
    samples: int,
    folder: Path | None,
    imported: str | None,
) -> Moments:
    """Second moments for commands that try these editors; none is read that none of them needs.

    Raises:
        JeepError: as `corpus_texts`; imported ones need the folder they are in.
    """
    if imported is not None and folder is None:
        raise JeepError("--moments needs --folder, the folder that they were imported into")
    needed = any(may_need_moments(hparams_class(editor)) for editor in editors)
    read = needed and imported is None
    if read:
        return moments_over(base, corpus, samples, folder)
    return Moments(base, [], samples, folder, imported)
