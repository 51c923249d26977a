"""JEEP: a low region enriches the subject, a high region promotes the answer (AAAI 2025)."""

from __future__ import annotations

from collections.abc import Mapping
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


def automatic(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """A proposal with the order that held on models of others: the low vector alone, then the high.

    Optimised together, the high vector takes over what the low one should carry, and the high
    region, keyed at the prediction position, then answers for other subjects of the relation, too
    (docs/lab-notes.md).  A proposal asks for it where the low one cannot carry an edit alone.
    """
    low = {**found["low"], "spread": "linear"}
    return {"optimise": "separately", **found, "low": low, "stop_probability": 0.95}


record = EditorRecord(
    hparams=JeepHParams,
    editor="jeep_core.editors.jeep.editor:Jeep",
    tuning=Tuning(regions={"low": LOW, "high": HIGH}),
    automatic=automatic,
    order=8,
    case_study=True,
    ablation=ABLATION,
    sweep="high.clamp",
    plot=PlotStyle(BLUE, "o", "-"),
    columns_per_fact=True,
    keeps_earlier=True,
)
