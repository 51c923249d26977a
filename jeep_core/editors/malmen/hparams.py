"""Hyper-parameters of MALMEN."""

from __future__ import annotations

from typing import ClassVar

from jeep_core.editors.networks.hparams import HypernetworkHParams


class MalmenHParams(HypernetworkHParams):
    """MALMEN (Tan et al. 2024, arXiv 2311.04661): the last six MLPs in the paper."""

    last_written: ClassVar[int] = 6
