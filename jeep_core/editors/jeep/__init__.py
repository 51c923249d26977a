"""JEEP: a low region enriches the subject, a high region promotes the answer (AAAI 2025)."""

from __future__ import annotations

from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.editors.record import HIGH, LOW, EditorRecord, PlotStyle, Tuning
from jeep_core.reports.colours import BLUE

record = EditorRecord(
    hparams=JeepHParams,
    editor="jeep_core.editors.jeep.editor:Jeep",
    tuning=Tuning(regions={"low": LOW, "high": HIGH}),
    automatic=dict,
    order=8,
    plot=PlotStyle(BLUE, "o", "-"),
)
