"""Hyper-parameters for the proposed layers, scaled to the model.

- λ is d_ff samples: it is weighed against kᵀ C⁻¹ k, which is d_ff for a key of the corpus.  A fifth
  of it is as good for one batch and worse for ten on top of one another: docs/lasting.md.
- The learning rate is half the spread of a coordinate of the state that the vector is added to, a
  region's own: Adam moves every coordinate by about the learning rate a step.  The spread is the
  median distance from the coordinate's mean over prompts, over all coordinates, in units of a
  normal distribution.  The root mean square would be the size of a few coordinates that are always
  large: in SmolLM2-135M it is twice the spread, in Gemma 3 270M twenty times.
- Value optimisation takes Newton's steps for the log-odds, with the learning rate as their limit,
  in bfloat16 products where the device is quick at them and the model is float32:
  docs/lab-notes.md has both against Adam and float32.
- γ' is 1.5 and γ* 0.25: value optimisation of the low region ends at its goal and not at the clamp.
  docs/probe.md says what other ones cost.
- Where the subject's last token carries less than 80 % of an answer, the low region cannot carry an
  edit through all wordings: γ* is 1, λ' 0.2 d_ff and λ* a tenth of that, and JEEP optimises both
  vectors together.

Everything else keeps its default, or is chosen by the editor's own record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from jeep_core.editors import DEFAULT_EDITOR, hparams_class
from jeep_core.editors.record import NEWTON
from jeep_core.models.fused.rounding import has_fast_bfloat16
from jeep_core.models.token_rows import stack_rows
from jeep_core.models.views import ModelView
from jeep_core.probe.prompts import Prompt
from jeep_core.probe.proposal import Proposal
from jeep_core.probe.states import POSITIONS, Position, captured, run
from jeep_core.spec.hparams import validate_hparams

CLAMPS = {"low": 1.5, "high": 0.25}
AT: dict[str, Position] = {"low": "subject_last", "high": "prediction"}
MEASURED_ON = 32
MOMENT_SHARES = {"low": 1.0, "high": 1.0}
"""λ in d_ff."""
WHOLE_SUBJECT = 0.8
"""Share of an answer that the subject's last token carries from which the low region is enough."""
SHARED_CLAMP, SHARED_MOMENTS = 1.0, {"low": 0.2, "high": 0.02}
"""γ*, and λ in d_ff, where the high region has to carry a part of every edit."""
RATE_SHARE = 0.5
NORMAL = 0.6745
"""Median of the distance from the mean of a normal distribution, in standard deviations."""


def suggest(view: ModelView, prompts: Sequence[Prompt], proposal: Proposal) -> dict[str, Any]:
    """Hyper-parameters for a proposal: learning rates, layers, γ and λ of both regions."""
    base = view.base
    shared = proposal.subject_share < WHOLE_SUBJECT
    shares = SHARED_MOMENTS if shared else MOMENT_SHARES
    regions = {"low": proposal.low, "high": proposal.high}
    spreads = _spreads(
        view, prompts[:MEASURED_ON], {n: layers[-1] for n, layers in regions.items()}
    )
    rates = {name: _rounded(RATE_SHARE * spread) for name, spread in spreads.items()}
    found: dict[str, Any] = {"learning_rate": rates["low"], **NEWTON}
    if base.dtype == torch.float32 and all(map(has_fast_bfloat16, base.devices)):
        found["compute_dtype"] = "bfloat16"
    for name, layers in regions.items():
        weight = _rounded(shares[name] * base.mlp_size)
        found[name] = {"layers": layers, "clamp": CLAMPS[name], "moment_weight": weight}
    if shared:
        found["optimise"] = "together"
        found["high"]["clamp"] = SHARED_CLAMP
    found["high"]["learning_rate"] = rates["high"]
    # the record keeps the plain values: one that no edit could take must not be kept
    validate_hparams(hparams_class(DEFAULT_EDITOR), found, base.n_layers)
    return found


@torch.no_grad()
def _spreads(
    view: ModelView, prompts: Sequence[Prompt], layers: dict[str, int]
) -> dict[str, float]:
    """Spread of a coordinate at the output of each region's last block, at its position."""
    rows = stack_rows([prompt.tokens for prompt in prompts], view.base.device)
    with captured(view, rows) as states:
        run(view, rows)
    found = {}
    for name, layer in layers.items():
        # (prompts, d)
        output = states.outputs[layer][:, POSITIONS.index(AT[name])]
        found[name] = spread_of(output.float())
    return found


def spread_of(states: torch.Tensor) -> float:
    """Spread of a coordinate over states (n, d); where most do not move the root mean square."""
    size = float(states.square().mean().sqrt())
    spread = float((states - states.mean(dim=0)).abs().median()) / NORMAL
    # equal states differ from their mean by rounding alone
    return spread if spread > 1e-5 * size else size


def _rounded(value: float) -> float:
    """To two digits."""
    return float(f"{value:.2g}")
