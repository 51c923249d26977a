"""The rule for ``"auto"``: from what a probe measured to layers and hyper-parameters; no torch.

It is applied whenever a record is read, so that a kept probe goes by the rule of the version that
runs.  `RULE` numbers it.

*Layers*: ``jeep_core/probe/proposal.py`` has the reasons.

*Hyper-parameters*, scaled to the model:

- λ is d_ff samples: it is weighed against kᵀ C⁻¹ k, which is d_ff for a key of the corpus.  A fifth
  of it is as good for one batch and worse for ten on top of one another: docs/lasting.md.
- The learning rate is half the spread of a coordinate of the state that the vector is added to, a
  region's own (``jeep_core/probe/scale.py``): Adam moves every coordinate by about the learning
  rate a step.
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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from jeep_core.editors import DEFAULT_EDITOR, hparams_class
from jeep_core.editors.record import NEWTON
from jeep_core.errors import InvalidHParams, JeepError
from jeep_core.spec.hparams import validate_hparams
from jeep_core.text.counting import counted

RULE = 1
"""Raised whenever the same figures lead to other hyper-parameters, also by an editor's own record
(``EditorRecord.automatic``) or by `from_record.depths`.  Records of before it have no number."""
CARRYING = 0.8
LEAST_EFFECT = 0.01
"""Largest effect of an exchange below which nothing is decided at the subject's last token."""
LOW_END = 1 / 3
"""Depth at which the low region ends at the latest."""
LOW_LENGTH = 1 / 5
HIGH_START = 3 / 4
"""Depth at which the high region begins at the latest."""
HIGH_LENGTH = 1 / 12
CLAMPS = {"low": 1.5, "high": 0.25}
AT = {"low": "subject_last", "high": "prediction"}
"""The position at which a region's vector is added."""
MOMENT_SHARES = {"low": 1.0, "high": 1.0}
"""λ in d_ff."""
WHOLE_SUBJECT = 0.8
"""Share of an answer that the subject's last token carries from which the low region is enough."""
SHARED_CLAMP, SHARED_MOMENTS = 1.0, {"low": 0.2, "high": 0.02}
"""γ*, and λ in d_ff, where the high region has to carry a part of every edit."""
RATE_SHARE = 0.5
NO_PAIRS = "no layers to propose: no two prompts have different answers"
UNMARKED_RATE_SHARE = 0.5
"""`RATE_SHARE` of the rules that had no number."""


class NoProposal(JeepError):
    """The evidence does not say where to edit; the message says what is missing."""

    code = "no_proposal"


class Insufficient(NoProposal):
    """A record of another version that lacks what this version's rule goes by."""


@dataclass(frozen=True)
class Scale:
    """Figures of a probe beside its curves, for hyper-parameters.

    ``spread``: of a coordinate of the states at a position, by name, for every block, from block 0
    on; None where it is not finite, or was not kept.  ``fast_bfloat16``: whether products in
    bfloat16 save time, on the device of the probe and for the dtype of its model.
    """

    mlp_size: int
    parallel: bool
    fast_bfloat16: bool
    spread: Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Evidence:
    """All that the rule goes by.  Lists are per block.

    ``effect``: of an exchange, by how much P(original), which is ``before`` without it, falls.
    ``contrast``: what MLPs add to P(original) - P(target) at the prediction position.
    """

    effect: Sequence[float]
    before: float
    contrast: Sequence[float]
    scale: Scale


def layers_of(
    effect: Sequence[float], contrast: Sequence[float], parallel: bool
) -> tuple[list[int], list[int]]:
    """The low and the high region.

    Raises:
        NoProposal: the model has too few layers, or the subject's state decides nothing.
    """
    low = low_region(carrying_layers(effect)[-1], len(contrast), parallel)
    return low, high_region(contrast, low[-1])


def subject_share(effect: Sequence[float], before: float) -> float:
    """Of the original answer, what the exchange takes away at most, in [0, 1]."""
    return min(1.0, max(effect) / before)


def hyper_parameters(found: Evidence) -> dict[str, Any]:
    """The proposal: learning rates, layers, γ and λ of both regions.

    Raises:
        NoProposal: the figures propose no layers, or nothing that an edit could take.
    """
    scale = found.scale
    low, high = layers_of(found.effect, found.contrast, scale.parallel)
    regions = {"low": low, "high": high}
    shared = subject_share(found.effect, found.before) < WHOLE_SUBJECT
    shares = SHARED_MOMENTS if shared else MOMENT_SHARES
    rates = {name: _rate(scale, name, layers[-1]) for name, layers in regions.items()}
    chosen: dict[str, Any] = {"learning_rate": rates["low"], **NEWTON}
    if scale.fast_bfloat16:
        chosen["compute_dtype"] = "bfloat16"
    for name, layers in regions.items():
        weight = _rounded(shares[name] * scale.mlp_size)
        chosen[name] = {"layers": layers, "clamp": CLAMPS[name], "moment_weight": weight}
    if shared:
        chosen["optimise"] = "together"
        chosen["high"]["clamp"] = SHARED_CLAMP
    chosen["high"]["learning_rate"] = rates["high"]
    try:  # what no edit could take must not be proposed
        validate_hparams(hparams_class(DEFAULT_EDITOR), chosen, len(found.contrast))
    except InvalidHParams as error:
        raise NoProposal(f"no hyper-parameters to propose: {error}") from None
    return chosen


def proposed(record: Mapping[str, Any], mlp_size: int | None) -> dict[str, Any]:
    """The proposal of this version's rule by a probe's record, whichever rule it was made by.

    ``mlp_size``: d_ff of the model, which records without a rule's number do not have.

    Raises:
        NoProposal: the figures propose nothing.
        Insufficient: it was made by another version, and lacks what the rule goes by.
    """
    if "measured" not in record and record.get("rule") == RULE:
        # a probe that ended without figures
        if record.get("hparams") is None:
            raise NoProposal(record.get("why_no_proposal") or "the probe proposes no layers")
        return dict(record["hparams"])
    return hyper_parameters(evidence_of(record, mlp_size))


def suffices(record: Mapping[str, Any], mlp_size: int) -> bool:
    """Whether a record has what this version's rule goes by, also where that proposes nothing."""
    try:
        proposed(record, mlp_size)
    except Insufficient:
        return False
    except NoProposal:
        return True
    return True


def evidence_of(record: Mapping[str, Any], mlp_size: int | None) -> Evidence:
    """The figures of a record that the rule goes by.

    Raises:
        NoProposal: no two of the probe's prompts have different answers.
        Insufficient: it was made by another version, and lacks some.
    """
    try:
        exchange = record["patching"]["exchange"]
        if exchange is None:
            raise NoProposal(NO_PAIRS)
        effect = exchange["effect"]["mean"]
        contrast = record["branches"]["mlp"]["mean"]
        if "measured" in record:
            scale = Scale(**record["measured"])
            if any(len(scale.spread[at]) != len(contrast) for at in AT.values()):
                raise LookupError("the spread of every block")
        else:
            scale = _scale_of_unmarked(record, effect, contrast, mlp_size)
        return Evidence(effect, exchange["original_before"], contrast, scale)
    except (LookupError, TypeError) as error:
        raise Insufficient(
            "the probe was made by another version and lacks figures that this one goes by "
            f"({error}): probe the model again"
        ) from None


def _scale_of_unmarked(
    record: Mapping[str, Any],
    effect: Sequence[float],
    contrast: Sequence[float],
    mlp_size: int | None,
) -> Scale:
    """The scale by the hyper-parameters of a record whose rule has no number.

    It has the spreads where its own regions end, as learning rates.

    Raises:
        NoProposal: the figures propose no layers.
        LookupError, TypeError: it has no learning rates, or of other blocks than the rule's.
    """
    old = record["hparams"]
    # a probe of a request does not say it: block 0 is left out of a parallel model alone
    parallel = bool(record.get("parallel", old is not None and 0 not in old["low"]["layers"]))
    low, high = layers_of(effect, contrast, parallel)
    if (old["low"]["layers"][-1], old["high"]["layers"][-1]) != (low[-1], high[-1]):
        raise LookupError("the spread where the regions end")
    if mlp_size is None:
        raise LookupError("the size of the MLPs")
    spread: dict[str, list[float | None]] = {name: [None] * len(contrast) for name in AT.values()}
    spread[AT["low"]][low[-1]] = old["learning_rate"] / UNMARKED_RATE_SHARE
    spread[AT["high"]][high[-1]] = old["high"]["learning_rate"] / UNMARKED_RATE_SHARE
    return Scale(mlp_size, parallel, old.get("compute_dtype") == "bfloat16", spread)


def carrying_layers(effect: Sequence[float]) -> list[int]:
    """Blocks whose exchanged state has at least 80 % of the largest effect.

    Raises:
        NoProposal: no block has an effect of at least one percentage point.
    """
    peak = max(effect)
    if peak < LEAST_EFFECT:
        raise NoProposal(
            "no layers to propose: exchanging the state at the subject's last token changes the "
            f"original answer's probability by {100 * peak:.2f} points at most"
        )
    return [layer for layer, value in enumerate(effect) if value >= CARRYING * peak]


def low_region(last: int, n_layers: int, parallel: bool) -> list[int]:
    """A fifth of the layers up to ``last``, with room for a high region above.

    Raises:
        NoProposal: the model has too few layers.
    """
    first = 1 if parallel else 0
    last = max(first, min(last, int(n_layers * LOW_END), n_layers - 3))
    if last > n_layers - 3:
        raise NoProposal(f"a model of {counted(n_layers, 'layer')} has no room for two regions")
    return list(range(max(first, last + 1 - length_of(n_layers, LOW_LENGTH)), last + 1))


def high_region(contrast: Sequence[float], low_last: int) -> list[int]:
    """The window above the low region with the largest sum of ``contrast`` (L)."""
    n_layers = len(contrast)
    length = min(length_of(n_layers, HIGH_LENGTH), n_layers - 2 - low_last)
    starts = range(low_last + 1, n_layers - length)
    best = max(starts, key=lambda start: sum(contrast[start : start + length]))
    best = min(best, max(low_last + 1, ceil(n_layers * HIGH_START)))
    return list(range(best, best + length))


def length_of(n_layers: int, share: float) -> int:
    """A share of the layers, at least one."""
    return max(1, round(n_layers * share))


def _rate(scale: Scale, region: str, last: int) -> float:
    """A region's learning rate, by the spread at the output of its last block.

    Raises:
        NoProposal: that is not finite.
    """
    spread = scale.spread[AT[region]][last]
    if spread is None:
        raise NoProposal(
            f"no hyper-parameters to propose: the states at the end of block {last} are not finite"
        )
    return _rounded(RATE_SHARE * spread)


def _rounded(value: float) -> float:
    """To two digits."""
    return float(f"{value:.2g}")
