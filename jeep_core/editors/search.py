"""Where a search for an editor's hyper-parameters begins; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jeep_core.editors import record_of
from jeep_core.editors.record import Tuning
from jeep_core.errors import JeepError
from jeep_core.spec.hparams import merge

FIRST_WEIGHT = 0.3


def search_of(editor: str) -> Tuning:
    """The search that the editor's record describes.

    Raises:
        JeepError: the editor follows a trained network, or its record names nothing to try.
        InvalidHParams: there is no such editor.
    """
    record = record_of(editor)
    if record.search is not None:
        return record.search
    why = "it writes what a trained network says"
    if record.network is None:
        why = "it has no regions, no layer and no tuning in its record"
    raise JeepError(f"{editor} cannot be tuned: {why}")


def start(editor: str, n_layers: int, facts: int) -> dict[str, Any]:
    """Where the search begins for a model without a preset: the paper's depths and γ.

    λ is in samples and is weighed against K Kᵀ of the batch, so it is a share of its facts.
    """
    search, found = search_of(editor), dict[str, Any]()
    if search.depths:
        found["layer"] = layers_at(search.depths, n_layers)[-1]
    if search.spans:
        found["layers"] = spans_at(search.spans, n_layers)[0]
    for name, region in search.regions.items():
        end, length, clamp = region.start
        layers, weight = window(n_layers, end, length), weight_for(FIRST_WEIGHT, facts)
        found[name] = {"layers": layers, "clamp": clamp, "moment_weight": weight}
    return merge(found, search.start)


def layers_at(depths: Sequence[float], n_layers: int) -> list[int]:
    """The layers to try where an editor writes one, at these shares of the model's depth."""
    return sorted({min(round(depth * n_layers), n_layers - 2) for depth in depths})


def spans_at(spans: Sequence[tuple[float, float]], n_layers: int) -> list[list[int]]:
    """Runs of layers, their first and last ones given as shares of the model's depth."""
    found: list[list[int]] = []
    for first, last in spans:
        ends = (min(round(depth * n_layers), n_layers - 1) for depth in (first, last))
        start, end = ends
        run = list(range(start, max(start, end) + 1))
        if run not in found:
            found.append(run)
    return found


def window(n_layers: int, end: float, length: float) -> list[int]:
    """Layers up to the depth ``end``, both as shares of the model."""
    last = min(round(end * n_layers), n_layers - 2)
    first = max(0, last + 1 - max(1, round(length * n_layers)))
    return list(range(first, last + 1))


def weight_for(share: float, facts: int) -> float:
    """λ for a share of the facts, to two digits."""
    return float(f"{share * facts:.2g}")
