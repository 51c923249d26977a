"""Keys of a matrix to be written, and the states that it is written for."""

from __future__ import annotations

import torch

from jeep_core.models.post_mlp_norm import back_through_norm
from jeep_core.models.views import ModelView
from jeep_core.spec.matrices import Place, layer_of
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


def states_of(
    view: ModelView,
    rows: FactRows,
    position: Position,
    last: int,
    at_projection: bool = False,
) -> torch.Tensor:
    """Current states (m, d) as in ``keys_and_states``, alone."""
    plain = [fact[:1] for fact in rows]
    return RegionReader(view, plain, position, last, at_projection=at_projection).states()


def keys_by_row(view: ModelView, rows: FactRows, position: Position, layer: int) -> torch.Tensor:
    """Keys (m, prefixes, d_ff) of block ``layer``, float32."""
    return RegionReader(view, rows, position, layer).by_row(layer)


def residuals_at_projection(
    view: ModelView, rows: FactRows, position: Position, place: Place, residuals: torch.Tensor
) -> torch.Tensor:
    """Residuals (m, d) at the output of a block as residuals of its projection at ``place``.

    They are the same but where a norm follows the MLP or the attention (see
    ``jeep_core.models.post_mlp_norm``).
    """
    plain = [fact[:1] for fact in rows]
    reader = RegionReader(view, plain, position, layer_of(place))
    return through_norm(view, reader, place, residuals)


@torch.no_grad()
def through_norm(
    view: ModelView, reader: RegionReader, place: Place, residuals: torch.Tensor
) -> torch.Tensor:
    """As ``residuals_at_projection``, with a reader that is at ``place``: (m, d) to (m, d)."""
    family = view.base.family
    norm = family.norm_after(view.model, place)
    if norm is None:
        return residuals
    outputs = family.projection_of(view.model, place)(reader.plain_keys(place).to(view.base.dtype))
    epsilon = family.norm_epsilon_of(view.model)
    return back_through_norm(outputs, residuals, family.norm_gain(norm), epsilon)
