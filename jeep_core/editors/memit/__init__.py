"""MEMIT: values spread over a range of layers (Meng et al. 2023)."""

from __future__ import annotations

from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.editors.record import LOW, EditorRecord, PlotStyle, Tuning, taking
from jeep_core.reports.colours import VERMILION

record = EditorRecord(
    hparams=MemitHParams,
    editor="jeep_core.editors.memit.editor:Memit",
    tuning=Tuning(regions={"low": LOW}),
    automatic=taking("learning_rate", "low"),
    order=5,
    case_study=True,
    plot=PlotStyle(VERMILION, "s", "--"),
)
