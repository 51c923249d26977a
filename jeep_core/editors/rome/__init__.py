"""ROME: one fact, one layer (Meng et al. 2022)."""

from __future__ import annotations

from jeep_core.editors.record import EditorRecord, PlotStyle, Tuning
from jeep_core.editors.rome.hparams import RomeHParams
from jeep_core.reports.colours import ORANGE

record = EditorRecord(
    hparams=RomeHParams,
    editor="jeep_core.editors.rome.editor:Rome",
    tuning=Tuning(
        depths=(0.1, 0.2, 0.3),
        values={"clamp": (1, 2, 4, 8), "learning_rate": (0.5, 2), "kl_weight": (0.0625, 1)},
    ),
    automatic=lambda found: {"layer": found["low"]["layers"][-1]},
    order=3,
    many_facts=False,
    one_by_one=True,
    plot=PlotStyle(ORANGE, "v", "--"),
    columns_per_fact=True,
    keeps_earlier=True,
)
