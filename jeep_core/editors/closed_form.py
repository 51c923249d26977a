"""Editors that write one region by a closed form: the form, and the whole way."""

from __future__ import annotations

from jeep_core.editors.base import EditContext, EditorOutcome, Targets, write_region
from jeep_core.spec.hparams import OptimisedEditorHParams, Region
from jeep_core.updates.least_squares import Solver, solve_update
from jeep_core.updates.null_space import in_null_space
from jeep_core.values.optimiser import Objective


def closed_form(region: Region) -> Solver:
    """Least squares, or what the region's hyper-parameters ask for instead."""
    return solve_update if region.null_space is None else in_null_space(region.null_space)


def optimise_and_write(
    context: EditContext,
    hparams: OptimisedEditorHParams,
    objective: Objective,
    *,
    at_projection: bool = False,
) -> EditorOutcome:
    """Optimise δ at the subject's last token, then write the low region; see ``write_region``."""
    values = context.optimised(objective)
    outcome = EditorOutcome(values=values)
    write_region(
        context,
        "low",
        objective.low,
        "subject_last",
        Targets(values.low, values.chat_low),
        hparams,
        outcome,
        solve=closed_form(objective.low),
        at_projection=at_projection,
    )
    return outcome
