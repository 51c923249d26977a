"""Means over prompts with bootstrap bands."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache

import torch

RESAMPLES = 1000
SEED = 0


@dataclass(frozen=True)
class Band:
    """A mean per layer and its 95 % interval over prompts."""

    mean: list[float]
    low: list[float]
    high: list[float]

    def record(self) -> dict[str, list[float]]:
        """As JSON."""
        return asdict(self)


def band(values: torch.Tensor) -> Band:
    """Mean of (n, L) over n prompts, and the percentile-bootstrap interval of each column.

    The prompts are drawn with replacement 1,000 times, always the same draws for the same n.
    """
    values = values.double().cpu()
    # (resamples, n) · (n, L): a resample is a row of counts, so all are one product
    means = _draws(len(values)) @ values / len(values)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return Band(values.mean(dim=0).tolist(), low.tolist(), high.tolist())


@lru_cache(maxsize=1)
def _draws(n: int) -> torch.Tensor:
    """How often each of n prompts is drawn (resamples, n)."""
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randint(n, (RESAMPLES, n), generator=generator)
    # float64, as the values that they are multiplied with
    counts = torch.zeros(RESAMPLES, n, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones(RESAMPLES, n, dtype=torch.float64))
