"""JEEP: a low region enriches the subject, a high region promotes the answer (AAAI 2025)."""

from __future__ import annotations

from typing import Any

from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.editors.record import HIGH, LOW, EditorRecord, PlotStyle, Tuning
from jeep_core.reports.colours import BLUE

ABLATION: dict[str, dict[str, Any]] = {
    "w/o δ′ & step 2": {"optimise": "high"},
    "w/o δ* & step 3": {"optimise": "low"},
    "w/o step 2": {"write": "high"},
    "w/o step 3": {"write": "low"},
    "separate optimisation": {"optimise": "separately"},
    "even spread in step 2": {"low": {"spread": "linear"}},
    "w/ attention in step 3": {"high": {"projection": "attention"}},
    "JEEP": {},
}
"""The rows of the paper's table 4."""

record = EditorRecord(
    hparams=JeepHParams,
    editor="jeep_core.editors.jeep.editor:Jeep",
    tuning=Tuning(regions={"low": LOW, "high": HIGH}),
    automatic=dict,
    order=8,
    case_study=True,
    ablation=ABLATION,
    sweep="high.clamp",
    plot=PlotStyle(BLUE, "o", "-"),
)
