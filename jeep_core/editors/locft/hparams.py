"""Hyper-parameters of LocFT-BF."""

from __future__ import annotations

from jeep_core.editors.fine_tuning.hparams import FineTuningHParams


class LocFtHParams(FineTuningHParams):
    """LocFT-BF (ICLR 2026): one matrix, or a few, by Adam in passes over all facts."""
