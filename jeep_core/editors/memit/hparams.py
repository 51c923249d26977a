"""Hyper-parameters of MEMIT."""

from __future__ import annotations

from jeep_core.spec.hparams import LowRegionHParams


class MemitHParams(LowRegionHParams):
    """MEMIT (Meng et al. 2023): the low region alone; a fact stops when its loss is small."""
