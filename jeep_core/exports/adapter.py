"""A version as an adapter: a LoRA (PEFT's format) that makes it of the base model.

One rank for all modules, smaller ones padded with zeros, and ``lora_alpha`` equal to it, so that
every loader applies b · a as it is: some scale by a rank of their own where ranks differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from jeep_core.errors import NotExportable, RankTooHigh
from jeep_core.exports.factors import EXACT, Spectrum, missing, spectrum
from jeep_core.models.delta import Update
from jeep_core.models.families import is_transposed
from jeep_core.models.loading import DTYPES, LoadedModel
from jeep_core.monitor import NOTHING, Monitor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before every module's name in the file."""
Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Change:
    """All updates of one matrix, oldest first.

    ``module`` is its full name in the model; ``transposed``: it is stored as (in, out).
    """

    module: str
    updates: Sequence[Update]
    transposed: bool


@dataclass(frozen=True)
class Limits:
    """How close an adapter must come to its version.

    ``max_rank``: no module has a higher rank, whatever is missed.  ``max_error``: what each module
    may miss, as a part of the norm of its change.  Neither: nothing but rounding is missed.
    """

    max_rank: int | None = None
    max_error: float | None = None


@dataclass(frozen=True)
class Module:
    """A module of a written adapter.

    ``rank_needed`` misses nothing but rounding, ``rank`` is what was kept, before padding;
    ``error`` is what the written factors miss, as a part of the norm of the change.
    """

    name: str
    shape: tuple[int, int]
    rank: int
    rank_needed: int
    error: float


@dataclass(frozen=True)
class Written:
    """A written adapter: its common rank, its modules, and what all of it misses.

    ``error`` is a part of the norm of all changes together.
    """

    rank: int
    modules: tuple[Module, ...]
    error: float


def changes_of(base: LoadedModel, updates: Mapping[str, Sequence[Update]]) -> list[Change]:
    """The changes of a version, in the model's order; ``updates`` by parameter name.

    Raises:
        NotExportable: there are none, or one is not of a linear layer's weight.
    """
    found = []
    for name in (name for name, _ in base.model.named_parameters() if updates.get(name)):
        module, _, parameter = name.rpartition(".")
        owner = base.model.get_submodule(module)
        transposed = is_transposed(owner)
        if parameter != "weight" or not (transposed or isinstance(owner, nn.Linear)):
            raise NotExportable(
                f"the version changes {name}, which is no weight of a linear layer: an adapter "
                'cannot hold it; export it with "format": "merged"'
            )
        found.append(Change(module, updates[name], transposed))
    if not found:
        raise NotExportable(
            "the version changes no weight, so an adapter of it would be empty: name an edited one"
        )
    return found


def write_adapter(
    folder: Path,
    changes: Sequence[Change],
    base: str,
    limits: Limits = Limits(),
    dtype: Dtype = "float32",
    monitor: Monitor = NOTHING,
) -> Written:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` into a folder.

    ``base`` is what the configuration names as the model it belongs to.

    Raises:
        RankTooHigh: a module needs a higher rank than ``limits`` allow, or one so high that the
            adapter would be larger than the matrix.
        OSError: the folder cannot be written.
        Whatever ``monitor.check`` raises.
    """
    kept, modules, missed, norms = [], [], [], []
    for i, change in enumerate(changes):
        monitor.check()
        monitor.report("factors", i, len(changes))
        found = spectrum(change.updates)
        needed = found.rank_within(EXACT)
        rank = _rank(change.module, found, needed, limits)
        b, a = found.factors(rank, DTYPES[dtype])
        missed.append(missing(change.updates, b, a))
        norms.append(found.norm)
        error = missed[-1] / norms[-1] if norms[-1] else 0.0
        modules.append(Module(change.module, (len(b), a.shape[1]), rank, needed, error))
        kept.append((b, a))
    common = max(1, *(module.rank for module in modules))
    tensors = {}
    for change, (b, a) in zip(changes, kept, strict=True):
        extra = common - b.shape[1]
        name = f"{PREFIX}{change.module}.lora_"
        tensors[f"{name}A.weight"] = functional.pad(a, (0, 0, 0, extra)).contiguous()
        tensors[f"{name}B.weight"] = functional.pad(b, (0, extra)).contiguous()
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    text = json.dumps(_config(changes, common, base), ensure_ascii=False, indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    monitor.report("factors", len(changes), len(changes))
    total = float(torch.tensor(norms, dtype=torch.float64).norm())
    whole = float(torch.tensor(missed, dtype=torch.float64).norm())
    return Written(common, tuple(modules), whole / total if total else 0.0)


def _rank(module: str, found: Spectrum, needed: int, limits: Limits) -> int:
    """The rank that a module gets.

    Raises:
        RankTooHigh: none does.
    """
    most, error = limits.max_rank, limits.max_error
    wanted = needed if error is None else found.rank_within(error)
    if most is not None and error is None:
        return min(wanted, most)
    if most is not None and wanted > most:
        raise RankTooHigh(
            f"{module} needs rank {wanted} to miss at most {error:g} of its change; with max_rank "
            f"{most} it would miss {found.error_at(most):.2g}: raise max_rank or max_error",
            wanted,
        )
    out_size, in_size = len(found.u), found.vt.shape[1]
    if error is None and wanted * (out_size + in_size) >= out_size * in_size:
        tenth = found.rank_within(0.1)
        raise RankTooHigh(
            f"{module} needs rank {wanted}, and an adapter of that rank is larger than the matrix "
            f'itself ({out_size} × {in_size}): export with "format": "merged", or say what may be '
            f"missed: max_error 0.1 makes rank {tenth} of it",
            wanted,
        )
    return wanted


def _config(changes: Sequence[Change], rank: int, base: str) -> dict[str, Any]:
    """The record that PEFT reads; every field that decides what is computed is in it."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "rank_pattern": {},
        "alpha_pattern": {},
        "bias": "none",
        "fan_in_fan_out": any(change.transposed for change in changes),
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "modules_to_save": None,
        "target_modules": [change.module for change in changes],
    }
