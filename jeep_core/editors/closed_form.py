"""Which closed form a region is written by."""

from __future__ import annotations

from jeep_core.spec.hparams import Region
from jeep_core.updates.least_squares import Solver, solve_update
from jeep_core.updates.null_space import in_null_space


def closed_form(region: Region) -> Solver:
    """Least squares, or what the region's hyper-parameters ask for instead."""
    return solve_update if region.null_space is None else in_null_space(region.null_space)
