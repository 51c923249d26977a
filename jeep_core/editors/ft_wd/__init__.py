"""FT-WD: fine-tuning of a few matrices with weight decay."""

from __future__ import annotations

from jeep_core.editors.ft_wd.hparams import FtWdHParams
from jeep_core.editors.record import EditorRecord, Following, PlotStyle, Tuning
from jeep_core.reports.colours import BLACK

record = EditorRecord(
    hparams=FtWdHParams,
    editor="jeep_core.editors.ft_wd.editor:FtWd",
    tuning=Tuning(
        depths=(0.4, 0.55, 0.7, 0.85),
        values={
            "learning_rate": (5e-4, 2e-3, 5e-3, 1e-2, 2e-2),
            "weight_decay": (0, 1e-3, 1e-2),
            "decay_towards": ("start", "zero"),
        },
    ),
    # without decay: the power law of the published one holds the weights of a model where they are
    automatic=lambda found: {
        "layer": found["low"]["layers"][-1],
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
    },
    order=1,
    many_facts=False,
    plot=PlotStyle(BLACK, "x", ":"),
    follows=lambda found: Following((found.layer,), found.n_steps, found.batch_facts, tunes=True),
)
