"""Where the second moments that an edit needs come from; no torch, because the API uses it, too.

The one rule: ``moment_layers`` of the hyper-parameters says which ones are needed.  Imported
statistics give those of the layers that were imported.  Without them a text gives those of any
layer: the one that is named, else a bundled model's own, else an English one that ships.  An editor
that needs none needs neither.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from jeep_core import atlas
from jeep_core.errors import MissingMoments
from jeep_core.spec.hparams import EditorHParams
from jeep_core.spec.matrices import GradientOf, Measured, in_order
from jeep_core.storage.looking import listed, present

DEFAULT_CORPUS = Path(__file__).parent / "data" / "english.txt"
"""The English text that ships for models without one of their own; ``english.md`` says whence."""
TOKENS_PER_DIMENSION = 20
"""Tokens of a bundled model's text for second moments, for each dimension of the keys."""
TOKENS_OF_OWN = 10
"""The same of a text that is given: more change no Score (docs/lab-notes.md)."""
TOKENS_OF_DEFAULT = 4
"""The same of the text that ships for all other models: a first edit waits for them."""
BATCH_TOKENS = 4096
"""Tokens of one batch of the pass over the text, padding included."""
GRADIENT_TOKENS = 256
"""Tokens of a document that gradients are taken of: what is further apart hardly matters."""
PANELS = 6
"""Parts in which a sum of k kᵀ is computed, each from the diagonal on."""


def import_command(name: str) -> str:
    """The command that adds files to imported statistics."""
    return f"jeep moments import --name {name} FILE.npz …"


def imported_path(folder: Path, name: str, model_hash: str, place: Measured) -> Path:
    """Where the imported second moment of a matrix is kept in the folder of moments."""
    return folder / f"imported-{name}" / f"moment-{model_hash[:32]}-{place}.safetensors"


def may_need_moments(cls: type[EditorHParams]) -> bool:
    """Whether an editor with these hyper-parameters can need second moments at all."""
    return cls.moment_layers is not EditorHParams.moment_layers


def text_of(model: str, corpus: Path | None) -> Path:
    """The text for second moments: the one that is given, a bundled model's own, else English."""
    if corpus is not None:
        return corpus
    return atlas.CORPUS if model in atlas.MODELS else DEFAULT_CORPUS


def samples_of(model: str, corpus: Path | None, mlp_size: int) -> int:
    """How many tokens of that text are taken where no number is given."""
    return tokens_per_dimension(model, corpus) * mlp_size


def tokens_per_dimension(model: str, corpus: Path | None) -> int:
    """The same for each dimension of the keys."""
    if corpus is not None:
        return TOKENS_OF_OWN
    bundled = text_of(model, corpus) == atlas.CORPUS
    return TOKENS_PER_DIMENSION if bundled else TOKENS_OF_DEFAULT


def origin_of(model: str, corpus: Path | None, imported: str | None) -> str:
    """Where second moments come from, in words for answers and manifests."""
    if imported is not None:
        return f"imported {imported}"
    if corpus is not None:
        return f"corpus {corpus.name}"
    return "bundled corpus" if model in atlas.MODELS else "default corpus"


@dataclass(frozen=True)
class MomentSource:
    """The sources of a model's second moments.

    ``imported``: the name of published statistics that replace a text, imported into ``folder``.
    """

    model_hash: str
    imported: str | None
    folder: Path

    def missing(self, layers: Collection[Measured]) -> list[Measured]:
        """Those of these matrices that nothing was imported for."""
        if self.imported is None:
            return []
        wanted = sorted(set(layers), key=in_order)
        paths = {p: imported_path(self.folder, self.imported, self.model_hash, p) for p in wanted}
        return [place for place, path in paths.items() if not present(path)]

    def imported_files(self) -> list[Path]:
        """The files of all matrices that were imported for this model."""
        if self.imported is None:
            return []
        one = imported_path(self.folder, self.imported, self.model_hash, 0)
        return listed(one.parent, one.name.replace("-0.", "-*."))

    def check(self, editor: str, hparams: EditorHParams) -> None:
        """Refuse an edit whose second moments cannot be had.

        Raises:
            MissingMoments: they were not imported for a layer that the edit writes.
        """
        missing = self.missing(hparams.moment_layers)
        if any(isinstance(place, GradientOf) for place in missing):
            raise MissingMoments(
                f"{editor} needs second moments of gradients, which published statistics do not "
                "have: start the worker without JEEP_MOMENTS, then all are taken over a text"
            )
        if missing:
            names = ", ".join(map(str, missing))
            raise MissingMoments(
                f"{editor} needs second moments of layers {names}, and JEEP_MOMENTS="
                f"{self.imported} lacks them: {import_command(str(self.imported))} adds them"
            )
