"""The presets that an edit of a model may take; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jeep_core.editors import hparams_class
from jeep_core.errors import FieldProblem, InvalidHParams
from jeep_core.spec.hparams import AUTO, load_preset, presets_for


def own_presets(
    model: str,
    editor: str,
    preset: str | None,
    folder: Path | None = None,
    shape: tuple[int, int] | None = None,
) -> dict[str, Mapping[str, Any]]:
    """An editor's presets for a model by name, the default first; also the one that is named.

    ``preset``: a name, or ``"auto"``, which names none.

    ``shape``: the model's number of layers and hidden size; one of the same name but of another
    shape has no presets.

    Raises:
        InvalidHParams: unknown editor or preset, a preset of another editor.
    """
    hparams_class(editor)  # an unknown editor has no presets
    presets: dict[str, Mapping[str, Any]] = {
        p.name: p.hparams for p in presets_for(model, folder, shape) if p.editor == editor
    }
    if preset not in (None, AUTO):  # one made for another model is fine here
        chosen = load_preset(preset, folder)
        if chosen.editor != editor:
            message = f"preset {preset!r} is for the editor {chosen.editor!r}, not {editor!r}"
            raise InvalidHParams([FieldProblem("/preset", "other_editor", message)])
        presets[preset] = chosen.hparams
    return presets
