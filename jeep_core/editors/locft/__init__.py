"""LocFT-BF: fine-tuning of few matrices in mini-batches, breadth first (ICLR 2026)."""

from __future__ import annotations

from jeep_core.editors.fine_tuning.following import following
from jeep_core.editors.locft.hparams import LocFtHParams
from jeep_core.editors.record import EditorRecord, PlotStyle, Tuning
from jeep_core.reports.colours import SKY

record = EditorRecord(
    hparams=LocFtHParams,
    editor="jeep_core.editors.locft.editor:LocFt",
    tuning=Tuning(
        spans=((0.65, 0.65), (0.5, 0.5), (0.35, 0.35), (0.8, 0.8), (0.55, 0.75)),
        values={
            "learning_rate": (2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2),
            "n_passes": (10, 25, 50),
            "end_of_text": (True, False),
        },
    ),
    automatic=lambda found: {"layers": found["high"]["layers"][:1], "learning_rate": 1e-3},
    rate_share=0.005,
    order=10,
    follows=following,
    plot=PlotStyle(SKY, "d", ":"),
)
