"""MEMIT: values spread over a range of layers (Meng et al. 2023)."""

from __future__ import annotations

from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.editors.record import LOW, EditorRecord, PlotStyle, Tuning, steps_of, taking
from jeep_core.reports.colours import VERMILION

BY_PROBE = taking("learning_rate", "low")

record = EditorRecord(
    hparams=MemitHParams,
    editor="jeep_core.editors.memit.editor:Memit",
    tuning=Tuning(regions={"low": LOW}),
    automatic=lambda found: {**steps_of(found), **BY_PROBE(found)},
    order=5,
    case_study=True,
    plot=PlotStyle(VERMILION, "s", "--"),
    columns_per_fact=True,
    keeps_earlier=True,
)
