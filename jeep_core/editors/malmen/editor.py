"""MALMEN (Tan et al. 2024, arXiv 2311.04661): value shifts from a network, by least squares."""

from __future__ import annotations

from jeep_core.editors.base import EditContext, EditorOutcome
from jeep_core.editors.malmen.hparams import MalmenHParams
from jeep_core.editors.networks.editing import apply_network


class Malmen:
    """Massive language model editing network."""

    def run(self, context: EditContext, hparams: MalmenHParams) -> EditorOutcome:
        """One pass for the gradients of all facts, one damped least-squares system per layer.

        Raises:
            InvalidHParams: no network was trained for this model and these hyper-parameters.
            NumericalError: the damped system of a layer is singular.
        """
        return apply_network(context, "malmen", hparams)
