"""Keys of a matrix to be written, and the states that it is written for."""

from __future__ import annotations

import torch

from jeep_core.models.views import ModelView
from jeep_core.spec.matrices import Place
from jeep_core.values.reader import FactRows, Position, RegionReader


def keys_and_states(
    view: ModelView,
    rows: FactRows,
    position: Position,
    place: Place,
    last: int,
    at_projection: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys at ``place`` and current states of block ``last`` for every fact.

    Keys (m, d_ff) are ½·(empty prefix) + ½·(mean of the others); states (m, d) come from the
    empty prefix, ``at_projection`` from the MLP's output projection.  Both float32.
    """
    return RegionReader(view, rows, position, last, at_projection=at_projection).read(place)


def keys_by_row(view: ModelView, rows: FactRows, position: Position, layer: int) -> torch.Tensor:
    """Keys (m, prefixes, d_ff) of block ``layer``, float32."""
    return RegionReader(view, rows, position, layer).by_row(layer)
