"""Where the second moments that an edit needs come from; no torch, because the API uses it, too.

The one rule: ``moment_layers`` of the hyper-parameters says which ones are needed.  Imported
statistics give those of the layers that were imported, a text gives those of any layer, and an
editor that needs none needs neither.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from jeep_core import atlas
from jeep_core.errors import MissingMoments, NoMoments
from jeep_core.spec.hparams import EditorHParams
from jeep_core.spec.matrices import Place, in_order

TOKENS_PER_DIMENSION = 20
"""Tokens of text for second moments by default, for each dimension of the keys."""
BATCH_TOKENS = 4096
"""Tokens of one batch of the pass over the text, padding included."""
PANELS = 6
"""Parts in which a sum of k kᵀ is computed, each from the diagonal on."""


def import_command(name: str) -> str:
    """The command that adds files to imported statistics."""
    return f"jeep moments import --name {name} FILE.npz …"


def imported_path(folder: Path, name: str, model_hash: str, place: Place) -> Path:
    """Where the imported second moment of a matrix is kept in the folder of moments."""
    return folder / f"imported-{name}" / f"moment-{model_hash[:32]}-{place}.safetensors"


def may_need_moments(cls: type[EditorHParams]) -> bool:
    """Whether an editor with these hyper-parameters can need second moments at all."""
    return cls.moment_layers is not EditorHParams.moment_layers


def text_of(model: str, corpus: Path | None) -> Path | None:
    """The text for second moments: the one that is given, for bundled models their own."""
    if corpus is not None:
        return corpus
    return atlas.CORPUS if model in atlas.MODELS else None


@dataclass(frozen=True)
class MomentSource:
    """The sources of a model's second moments.

    ``text``: there is one to take them over.  ``imported``: the name of published statistics
    that replace it, imported into ``folder``.  ``without``: the editors that need none, which
    refusals name.
    """

    model_hash: str
    text: bool
    imported: str | None
    folder: Path
    without: Sequence[str] = ()

    def missing(self, layers: Collection[Place]) -> list[Place]:
        """Those of these matrices that nothing was imported for."""
        if self.imported is None:
            return []
        wanted = sorted(set(layers), key=in_order)
        paths = {p: imported_path(self.folder, self.imported, self.model_hash, p) for p in wanted}
        return [place for place, path in paths.items() if not path.exists()]

    def imported_files(self) -> list[Path]:
        """The files of all matrices that were imported for this model."""
        if self.imported is None:
            return []
        one = imported_path(self.folder, self.imported, self.model_hash, 0)
        return sorted(one.parent.glob(one.name.replace("-0.", "-*.")))

    def check(self, editor: str, hparams: EditorHParams) -> None:
        """Refuse an edit whose second moments cannot be had.

        Raises:
            NoMoments: there is neither a text nor a name of imported statistics.
            MissingMoments: they were not imported for a layer that the edit writes.
        """
        layers = hparams.moment_layers
        if not layers:
            return
        self.check_any(editor)
        missing = self.missing(layers)
        if missing:
            names = ", ".join(map(str, missing))
            raise MissingMoments(
                f"{editor} needs second moments of layers {names}, and JEEP_MOMENTS="
                f"{self.imported} lacks them: {import_command(str(self.imported))} adds them"
            )

    def check_any(self, editor: str) -> None:
        """Refuse an editor that will need second moments of layers that are not known yet.

        Raises:
            NoMoments: as `check`.
        """
        if not self.text and self.imported is None:
            verb = "need" if ", " in editor else "needs"  # a log line names several
            raise NoMoments(
                f"{editor} {verb} second moments, and there is no text to take them over: start "
                "the worker with --corpus FILE (JEEP_CORPUS), a text with one document a line, "
                f"or import published ones with {import_command('NAME')} and start it with "
                f"--moments NAME (JEEP_MOMENTS){self._others()}"
            )

    def _others(self) -> str:
        """The end of a refusal: the editors that can be used nonetheless."""
        *most, last = self.without or [""]
        names = f"{', '.join(most)} and {last}" if most else last
        return f"; {names} need{'' if most else 's'} none" if names else ""
