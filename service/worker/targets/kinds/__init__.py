"""A module for each kind of target: how its servers are asked and told."""

from __future__ import annotations

from collections.abc import Mapping

from service.contracts.schemas.targets import TargetKind
from service.worker.targets.kinds.llama_cpp import LlamaCpp
from service.worker.targets.kinds.sglang import Sglang
from service.worker.targets.kinds.vllm import Vllm
from service.worker.targets.server import Server

SERVERS: Mapping[TargetKind, type[Server]] = {
    TargetKind.VLLM: Vllm,
    TargetKind.SGLANG: Sglang,
    TargetKind.LLAMA_CPP: LlamaCpp,
}
"""The registry of kinds."""
