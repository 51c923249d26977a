"""MEND (Mitchell et al. 2022, arXiv 2110.11309): gradients, transformed by a trained network."""

from __future__ import annotations

from jeep_core.editors.base import EditContext, EditorOutcome
from jeep_core.editors.mend.hparams import MendHParams
from jeep_core.editors.networks.editing import apply_network


class Mend:
    """Model editor networks with gradient decomposition."""

    def run(self, context: EditContext, hparams: MendHParams) -> EditorOutcome:
        """One pass for the gradients of all facts, one update per layer: -step · Σ δ̃ ũᵀ.

        Raises:
            InvalidHParams: no network was trained for this model and these hyper-parameters.
        """
        return apply_network(context, "mend", hparams)
