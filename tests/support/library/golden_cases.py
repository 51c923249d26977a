"""The golden model, its facts and second moments; see ``golden/README.md``."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import load_file

from jeep_core.models.loading import LoadedModel
from jeep_core.moments.cache import Moments
from jeep_core.moments.factors import MomentFactor
from jeep_core.spec.positions import KL_TEMPLATE, tokenize_prompt
from jeep_core.values.optimiser import FactTokens
from support import GOLDEN

CASES: dict[str, Any] = json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-4


class GivenMoments(Moments):
    """The published second moments instead of computed ones."""

    def factor(self, layer: int) -> MomentFactor:
        stored = load_file(GOLDEN / "second_moment.safetensors")
        return MomentFactor(stored[f"second_moment.{layer}"], f"layer {layer}")


def fact_tokens(model: LoadedModel) -> list[FactTokens]:
    """The golden requests after the golden prefixes."""
    templates = [t for group in CASES["context_templates"] for t in group]
    return [_tokens(model, request, templates) for request in CASES["requests"]]


def _tokens(model: LoadedModel, request: dict[str, str], templates: list[str]) -> FactTokens:
    subject, target = request["subject"], request["new"]
    prompts = [template.replace("{}", request["prompt"]) for template in templates]
    return FactTokens(
        [tokenize_prompt(model.tokenizer, prompt, subject, target) for prompt in prompts],
        tokenize_prompt(model.tokenizer, KL_TEMPLATE, subject),
    )


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert found.shape == expected.shape
    difference = found.double() - expected.double()
    assert difference.norm() <= tolerance * expected.double().norm()
