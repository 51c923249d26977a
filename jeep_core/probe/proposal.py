"""From the probe's evidence to a low and a high region: one rule for every model.

*Low region.*  It ends at the last block whose output at the subject's last token still decides
the answer: the exchange of that state (``patching.py``) has at least 80 % of the largest effect
of any block.  Further up attention has read part of what was there, and a value written there
comes too late for it.  It ends no later than at a third of the depth: on models whose state
decides the answer far up, facts written there hold in fewer wordings and change their neighbours
(docs/lab-notes.md).  It has a fifth of the model's layers, at least one (the paper: 6 of 28, 6 of
32).  In a parallel model block 0 is left out: its MLP sees the token alone, so it cannot
tell subjects apart.

*High region.*  An edit writes MLPs, so their promotion of the answer counts: the rise, over a
block's MLP, of the original answer's probability at the prediction position less that of the
target's, through the final norm.  Of all windows above the low region that end below the last
block, the one with the largest sum is taken, of equal ones the lowest; one that begins above three
quarters of the depth is moved down to there: the last blocks of large models add most of every
answer, and what is written there speaks for other subjects.  Attention's share of the
rise, which brings up every fitting answer, is left out; a fall of the original answer counts as
such, so top blocks that take probability back are not chosen.  The region has a twelfth of the
layers, at least one (the paper: 2 of 28, 3 of 32).

*How much the subject's last token carries.*  The share of the original answer's probability that
the exchange takes away, at the block where it takes most.  Where it takes nearly all, the low
region can carry an edit alone; where other tokens carry much of the answer, it cannot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jeep_core.probe.bands import Band, band
from jeep_core.probe.defaults.rule import carrying_layers, layers_of, subject_share
from jeep_core.probe.patching import Patched
from jeep_core.probe.readings import ANSWERS, Readings


@dataclass(frozen=True)
class Proposal:
    """Layers to edit, and the figures they were chosen by, per block.

    ``subject_share`` in [0, 1]: of the original answer, what the exchange takes away at most.

    ``effect``: of the exchange.  ``promotion_*``: what the MLP adds to the answer's probability
    at the prediction position, ``contrast`` the difference.  ``enrichment_*``: by how many ranks
    the MLP brings it up at the subject's last token, which is reported and not used.
    """

    low: list[int]
    high: list[int]
    subject_share: float
    effect: Band
    carrying: list[int]
    promotion_original: Band
    promotion_target: Band
    contrast: Band
    enrichment_original: Band
    enrichment_target: Band

    def record(self) -> dict[str, Any]:
        """As JSON."""
        bands = {
            name: value.record() for name, value in vars(self).items() if isinstance(value, Band)
        }
        return {
            "low": self.low,
            "high": self.high,
            "evidence": {
                "subject_share": self.subject_share,
                "carrying_layers": self.carrying,
                **bands,
            },
        }


def propose(readings: Readings, exchanged: Patched, parallel: bool) -> Proposal:
    """Regions by the rule above.

    Raises:
        NoProposal: the model has too few layers, or the subject's state decides nothing.
    """
    effect = band(exchanged.effect)
    promotion = {a: readings.added("probability", a, "prediction", "mlp") for a in ANSWERS}
    # by the figures that are kept, as a later rule has no others
    contrast = band(promotion["original"] - promotion["target"])
    low, high = layers_of(effect.mean, contrast.mean, parallel)
    enrichment = {a: -readings.added("rank", a, "subject_last", "mlp") for a in ANSWERS}
    return Proposal(
        low,
        high,
        subject_share(effect.mean, float(exchanged.own_before.mean())),
        effect,
        carrying_layers(effect.mean),
        band(promotion["original"]),
        band(promotion["target"]),
        contrast,
        band(enrichment["original"]),
        band(enrichment["target"]),
    )
