"""Three facts, hyper-parameters for them and what an editor works on, with a tiny model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jeep_core.editors.base import EditContext
from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.spec.facts import Fact
from jeep_core.spec.positions import fact_rows
from jeep_core.values.optimiser import FactTokens
from support.library import tiny

PREFIXES = ("", "The river is wide", "I")
FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru"),
    Fact("São Paulo", "People who live in {} are at home in", "Norway"),
    Fact("東京", "The capital of Japan is {}", "old"),
)
LOW = {"layers": [0, 1], "clamp": 2.0, "moment_weight": 5}
HIGH = {"layers": [2], "clamp": 1.0, "moment_weight": 20}
JEEP = JeepHParams(low=LOW, high=HIGH, n_steps=4)
MEMIT = MemitHParams(low={**LOW, "layers": [0, 1, 2], "spread": "linear"}, n_steps=4)


def context_of(base: LoadedModel, **changes: Any) -> EditContext:
    facts = [FactTokens(*fact_rows(base.tokenizer, fact, PREFIXES)) for fact in FACTS]
    moments = Moments(base, tiny.TEXTS)
    moments.ensure([0, 1, 2])
    return replace(EditContext(ModelView(base), facts, moments), **changes)
