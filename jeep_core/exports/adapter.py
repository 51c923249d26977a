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


@dataclass(frozen=True)
class _Need:
    """The rank of a matrix of ``shape`` (out, in), and whether that is more than it may have.

    ``misses``: what ``max_rank`` leaves out, as a part of the norm; ``tenth``: the rank that
    leaves out a tenth.
    """

    module: str
    shape: tuple[int, int]
    rank: int
    is_too_high: bool
    misses: float
    tenth: int


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
    needs: list[_Need] = []
    for i, change in enumerate(changes):
        monitor.check()
        monitor.report("factors", i, len(changes))
        found = spectrum(change.updates)
        needed = found.rank_within(EXACT)
        needs.append(_need(change.module, found, needed, limits))
        if any(need.is_too_high for need in needs):
            continue  # the others are only asked what they need, to name the largest rank
        rank = needs[-1].rank
        b, a = found.factors(rank, DTYPES[dtype])
        missed.append(missing(change.updates, b, a))
        norms.append(found.norm)
        error = missed[-1] / norms[-1] if norms[-1] else 0.0
        modules.append(Module(change.module, (len(b), a.shape[1]), rank, needed, error))
        kept.append((b, a))
    _refuse(needs, limits)
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


def _need(module: str, found: Spectrum, needed: int, limits: Limits) -> _Need:
    """The rank that a matrix gets; ``needed`` misses nothing but rounding."""
    most, error = limits.max_rank, limits.max_error
    rank = needed if error is None else found.rank_within(error)
    out_size, in_size = len(found.u), found.vt.shape[1]
    if most is None:
        is_too_high = error is None and rank * (out_size + in_size) >= out_size * in_size
    elif error is None:
        rank, is_too_high = min(rank, most), False
    else:
        is_too_high = rank > most
    misses = 0.0 if most is None else found.error_at(most)
    return _Need(module, (out_size, in_size), rank, is_too_high, misses, found.rank_within(0.1))


def _refuse(needs: Sequence[_Need], limits: Limits) -> None:
    """Name the largest rank of those that are too high, if any are.

    Raises:
        RankTooHigh: some are.
    """
    refused = [need for need in needs if need.is_too_high]
    if not refused:
        return
    worst = max(refused, key=lambda need: need.rank)
    among = f", the most of {len(needs)} matrices," if len(needs) > 1 else ""
    if limits.max_rank is not None and limits.max_error is not None:
        far = max(refused, key=lambda need: need.misses)
        who = "it" if far is worst else far.module
        raise RankTooHigh(
            f"{worst.module} needs rank {worst.rank}{among} to miss at most {limits.max_error:g} "
            f"of its change; with max_rank {limits.max_rank} {who} would miss {far.misses:.2g}: "
            f"raise max_rank to {worst.rank}, or max_error",
            worst.rank,
        )
    out_size, in_size = worst.shape
    tenth = max(need.tenth for need in needs)
    raise RankTooHigh(
        f"{worst.module} needs rank {worst.rank}{among or ','} and an adapter of that rank is "
        f'larger than the matrix itself ({out_size} × {in_size}): export with "format": "merged", '
        f"or say what may be missed: max_error 0.1 makes an adapter of rank {tenth}",
        max(need.rank for need in needs),
    )


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
