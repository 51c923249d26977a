"""CrispEdit: fine-tuning along directions in which the loss on text is flat (ICML 2026)."""

from __future__ import annotations

from jeep_core.editors.crispedit.hparams import CrispEditHParams
from jeep_core.editors.fine_tuning.following import following
from jeep_core.editors.record import EditorRecord, PlotStyle, Tuning
from jeep_core.reports.colours import BLACK

record = EditorRecord(
    hparams=CrispEditHParams,
    editor="jeep_core.editors.crispedit.editor:CrispEdit",
    tuning=Tuning(
        spans=((0.65, 0.65), (0.5, 0.5), (0.55, 0.75)),
        values={
            "learning_rate": (5e-4, 2e-3, 5e-3, 1e-2),
            "energy": (0.5, 0.8, 0.9, 0.95, 0.99),
        },
    ),
    automatic=lambda found: {"layers": found["high"]["layers"][:1], "learning_rate": 4e-3},
    rate_share=0.02,
    order=11,
    follows=following,
    plot=PlotStyle(BLACK, "h", "-"),
    keeps_earlier=True,
)
