"""The editor for a loaded model where none is named: what can be used is looked up here."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from pathlib import Path

from jeep_core.editors import EDITORS
from jeep_core.editors.networks.records import network_records
from jeep_core.editors.presets import own_presets
from jeep_core.models.loading import LoadedModel
from jeep_core.probe.defaults.editor_choice import EditorChoice, Situation, choose_editor
from jeep_core.probe.defaults.from_record import hindrance
from jeep_core.text.chat import has_template


def editor_for(
    base: LoadedModel,
    n_facts: int,
    previous_keys: Mapping[tuple[str, int], Sized],
    automatic: bool = False,
    *,
    presets: Path | None = None,
    networks: Path | None = None,
) -> EditorChoice:
    """The editor for ``n_facts`` facts on top of earlier ones, and the reason.

    ``previous_keys`` (p, d_ff), by region and layer, tell how many facts these are: one a key, or,
    as edits for a model of chats leave them, two keys a fact.  ``automatic``: hyper-parameters are
    to be chosen, too.  ``presets``: folder of own presets.  ``networks``: folder of trained
    networks, beside the shipped ones.

    Raises:
        JeepError: a preset, or the record of a network, cannot be read.
    """
    known = {name: own_presets(base.name, name, None, presets, base.shape) for name in EDITORS}
    chat, n_keys = has_template(base), max(map(len, previous_keys.values()), default=0)
    situation = Situation(
        model=base.name,
        shape=base.shape,
        mlp_size=base.mlp_size,
        chat=chat,
        n_facts=n_facts,
        n_earlier=-(-n_keys // 2) if chat else n_keys,
        automatic=automatic,
        presets={name: next(iter(found.values())) for name, found in known.items() if found},
        hindrance=lambda editor: hindrance(
            base.name,
            editor,
            known[editor],
            base.n_layers,
            base.mlp_size,
            lambda: network_records(base.name, base.model_hash, networks),
            automatic=automatic,
            chat=chat,
        ),
    )
    return choose_editor(situation)
