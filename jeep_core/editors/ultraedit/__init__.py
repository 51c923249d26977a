"""UltraEdit: one pass for gradients, standardised over all facts so far (Gu et al., TMLR 2026)."""

from __future__ import annotations

from jeep_core.editors.record import EditorRecord, Following, PlotStyle, Tuning
from jeep_core.editors.ultraedit.hparams import UltraEditHParams
from jeep_core.reports.colours import ORANGE

record = EditorRecord(
    hparams=UltraEditHParams,
    editor="jeep_core.editors.ultraedit.editor:UltraEdit",
    tuning=Tuning(
        spans=((0.55, 0.9), (0.45, 0.8), (0.65, 0.9), (0.3, 0.9)),
        values={"step_size": (1e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3)},
        start={"step_size": 1e-3},
    ),
    automatic=lambda found: {
        # the more layers share the work, the less each takes from neighbors
        "layers": range(found["low"]["layers"][0], found["high"]["layers"][-1] + 1),
        "target_probability": 0.35,
        "compute_dtype": found.get("compute_dtype", "model"),
    },
    order=9,
    plot=PlotStyle(ORANGE, "*", ":"),
    keeps_earlier=True,
    follows=lambda found: Following(found.layers, solves=True, tries=found.tries),
)
