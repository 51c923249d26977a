"""Hyper-parameters of MEND."""

from __future__ import annotations

from typing import ClassVar

from jeep_core.editors.networks.hparams import HypernetworkHParams


class MendHParams(HypernetworkHParams):
    """MEND (Mitchell et al. 2022, arXiv 2110.11309): the last three MLPs in the paper."""

    last_written: ClassVar[int] = 3
