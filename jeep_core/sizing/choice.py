"""The editor and the hyper-parameters that ``"auto"`` stands for in a plan.

The rules are those of edits.  A plan reads no weights, so it knows no probe of the model, no chat
template, no imported second moments, and of trained networks only those that ship.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jeep_core.editors import AUTO_EDITOR, EDITORS, needs_choice
from jeep_core.editors.networks.records import network_records
from jeep_core.editors.presets import own_presets
from jeep_core.probe.defaults.editor_choice import Situation, check_alone, choose_editor
from jeep_core.probe.defaults.from_record import hindrance
from jeep_core.sizing.architecture import Architecture
from jeep_core.spec.hparams import AUTO

BY_DEPTH = (
    "automatic hyper-parameters are counted at fractions of the model's depth: an edit goes by a "
    "probe of the model, which may propose other layers; give those that jeep probe has proposed "
    "with --hparams"
)


@dataclass(frozen=True)
class Wanted:
    """An editor by name and its preset, and where they come from, for those who asked for ``auto``.

    ``preset``: also ``"auto"``.  ``reason``: of the editor, None where it was named.
    ``warnings``: about hyper-parameters that a probe may choose otherwise.
    """

    editor: str
    preset: str | None
    reason: str | None = None
    warnings: tuple[str, ...] = ()


def wanted(
    arch: Architecture,
    model: str,
    editor: str,
    preset: str | None,
    changes: Mapping[str, Any] | Literal["auto"],
    *,
    facts: int = 1,
    earlier: int = 0,
    presets: Path | None = None,
) -> Wanted:
    """The editor that is meant, and whether its hyper-parameters are automatic.

    Args:
        arch: the model's sizes.
        model: its name, for presets and figures.
        editor: a name, or ``"auto"``.
        preset: a name, ``"auto"`` or None.
        changes: hyper-parameters that are given, or ``"auto"``.
        facts: how many are edited together.
        earlier: facts that were edited before.
        presets: folder of own presets, taken before those shipped.

    Raises:
        InvalidHParams: beside ``"auto"`` for the editor there is what belongs to one editor.
    """
    automatic = AUTO in (preset, changes)
    if editor != AUTO_EDITOR:
        return Wanted(editor, preset, warnings=(BY_DEPTH,) if automatic else ())
    check_alone(preset, changes)
    shape = (arch.layers, arch.d)
    known = {name: own_presets(model, name, None, presets, shape) for name in EDITORS}

    choice = choose_editor(
        Situation(
            model=model,
            shape=shape,
            mlp_size=arch.d_ff,
            chat=False,
            n_facts=facts,
            n_earlier=earlier,
            automatic=automatic,
            presets={name: next(iter(found.values())) for name, found in known.items() if found},
            hindrance=lambda name: hindrance(
                model,
                name,
                known[name],
                arch.layers,
                arch.d_ff,
                lambda: network_records(model, "", None),
                automatic=automatic,
            ),
        )
    )
    automatic = automatic or needs_choice(choice.editor, known[choice.editor], None, {})
    if not automatic:
        return Wanted(choice.editor, None, choice.reason)
    return Wanted(choice.editor, AUTO, choice.reason, (BY_DEPTH,))
