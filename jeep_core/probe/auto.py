"""Hyper-parameters for the proposed layers, scaled to the model.

- λ is 0.02 d_ff samples: it is weighed against kᵀ C⁻¹ k, which is d_ff for a key of the corpus.
- The learning rate is half the root mean square of the state that δ' is added to: Adam moves
  every coordinate by about the learning rate a step.
- γ' is 1.5 and γ* 1: wide, so that value optimisation ends at its goal and not at the clamp.
  docs/probe.md says what smaller ones cost the bundled models.  Thousands of edits at once want
  a smaller γ* (the paper: 0.25): that is for ``jeep tune``.

Everything else keeps its default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from jeep_core.editors import DEFAULT_EDITOR, hparams_class
from jeep_core.models.token_rows import stack_rows
from jeep_core.models.views import ModelView
from jeep_core.probe.prompts import Prompt
from jeep_core.probe.proposal import Proposal
from jeep_core.probe.states import captured, run
from jeep_core.spec.hparams import validate_hparams

CLAMPS = {"low": 1.5, "high": 1.0}
MEASURED_ON = 32
MOMENT_SHARE = 0.02
RATE_SHARE = 0.5


def suggest(view: ModelView, prompts: Sequence[Prompt], proposal: Proposal) -> dict[str, Any]:
    """Hyper-parameters for a proposal: the learning rate, and layers, γ and λ of both regions."""
    base = view.base
    weight = _rounded(MOMENT_SHARE * base.mlp_size)
    size = _size(view, prompts[:MEASURED_ON], proposal.low[-1])
    regions = {"low": proposal.low, "high": proposal.high}
    found: dict[str, Any] = {"learning_rate": _rounded(RATE_SHARE * size)}
    for name, layers in regions.items():
        found[name] = {"layers": layers, "clamp": CLAMPS[name], "moment_weight": weight}
    validate_hparams(hparams_class(DEFAULT_EDITOR), found, base.n_layers)
    return found


@torch.no_grad()
def _size(view: ModelView, prompts: Sequence[Prompt], layer: int) -> float:
    """Root mean square of a block's output at the subject's last token."""
    rows = stack_rows([prompt.tokens for prompt in prompts], view.base.device)
    with captured(view, rows) as states:
        run(view, rows)
    return float(states.outputs[layer][:, 0].float().square().mean().sqrt())


def _rounded(value: float) -> float:
    """To two digits."""
    return float(f"{value:.2g}")
