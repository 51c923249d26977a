"""AlphaEdit: MEMIT within the null space of preserved keys (Fang et al. 2025)."""

from __future__ import annotations

from jeep_core.editors.alphaedit.hparams import AlphaEditHParams
from jeep_core.editors.record import LOW, EditorRecord, PlotStyle, Tuning, steps_of
from jeep_core.reports.colours import SKY

THRESHOLDS = {"null_space": 0.02, "moment_weight": 10}
"""The paper's."""

record = EditorRecord(
    hparams=AlphaEditHParams,
    editor="jeep_core.editors.alphaedit.editor:AlphaEdit",
    tuning=Tuning(
        regions={"low": LOW},
        values={
            "low.null_space": (1e-3, 5e-3, 2e-2, 5e-2, 0.2),
            "low.moment_weight": (0.01, 0.1, 1, 10),
            "learning_rate": (0.5, 2),
        },
        start={"low": THRESHOLDS},
    ),
    automatic=lambda found: {
        **steps_of(found),
        "learning_rate": found["learning_rate"],
        "low": {**found["low"], **THRESHOLDS},
    },
    order=7,
    many_facts=False,
    plot=PlotStyle(SKY, "P", ":"),
    columns_per_fact=True,
    keeps_earlier=True,
)
