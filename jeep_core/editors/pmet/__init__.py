"""PMET: MEMIT with values that also pass through attention (Li et al. 2024)."""

from __future__ import annotations

from jeep_core.editors.pmet.hparams import PmetHParams
from jeep_core.editors.record import LOW, EditorRecord, PlotStyle, Tuning, taking
from jeep_core.reports.colours import GREEN

record = EditorRecord(
    hparams=PmetHParams,
    editor="jeep_core.editors.pmet.editor:Pmet",
    tuning=Tuning(
        regions={"low": LOW},
        values={
            "low.clamp": (1, 4, 10, 20, 40),
            "learning_rate": (0.2, 0.5, 2),
            "kl_weight": (0.0625, 1),
        },
    ),
    automatic=taking("low"),
    order=6,
    case_study=True,
    plot=PlotStyle(GREEN, "^", "-."),
    columns_per_fact=True,
    keeps_earlier=True,
)
