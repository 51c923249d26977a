"""Versions as workers are sent them: updates where these make the matrix, else the matrix."""

from __future__ import annotations

import torch

from jeep_core.executors.version import version_of, view_of
from jeep_core.models.delta import Update, summed
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView


def update(size: tuple[int, int], seed: int) -> Update:
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(n, 2, generator=generator) for n in size)
    return Update.of(left, right)


def test_a_matrix_whose_first_updates_are_a_sum_is_sent_whole_at_once(llama: LoadedModel) -> None:
    """Its later updates alone make another one: a worker would ask for it after the attempt."""
    long, short = (llama.family.weight_name(layer) for layer in (1, 2))
    base = llama.model.get_parameter(long)
    size = (base.shape[0], base.shape[1])
    earlier, later = [update(size, n) for n in range(3)], update(size, 3)
    view = ModelView(llama, starts={long: summed(base, earlier, False)})
    for name in (long, short):
        view.update(name, later)
    version = version_of(view)
    assert set(version.whole) == {long}
    assert set(version.updates) == {short}
    made, unlike = view_of(llama, version)
    assert unlike == []
    assert made.weights_sha256() == view.weights_sha256()
