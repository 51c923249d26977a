"""An adapter in PEFT's format."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from jeep_core.exports import adapter
from jeep_core.exports.adapter import Change, Limits, changes_of, write_adapter
from jeep_core.exports.bases import BaseName
from jeep_core.models.delta import Update, materialise
from jeep_core.models.views import ModelView, share
from service.contracts.schemas.exports import Check, PeftExport
from service.worker.exports.asking import check
from service.worker.exports.writing import Evidence, Version, Writer, Written

log = logging.getLogger(__name__)
_HEADER = 2**20
_PROMPT = 32
"""Tokens of the sequence on which PEFT's model is compared with the version."""


def needed(version: Version, options: PeftExport) -> int:
    """Two factors for each matrix, of a rank that is at most the number of their columns."""
    sizes, ranks = [], []
    for updates in version.updates.values():
        shape = _shape(updates[0])
        sizes.append(sum(shape))
        columns = sum(min(shape) if u.left is None else u.left.shape[1] for u in updates)
        ranks.append(min(columns, *shape, options.max_rank or columns))
    return _HEADER + 4 * sum(sizes) * max(ranks, default=0)


def write(version: Version, options: PeftExport, folder: Path) -> Written:
    """Write configuration and factors."""
    found = write_adapter(
        folder,
        changes_of(version.base, version.updates),
        version.base_name.text,
        Limits(options.max_rank, options.max_error),
        options.dtype,
        version.monitor,
    )
    return Written(
        use=_use(version.base_name, found.rank),
        library="peft",
        said=f"The folder is an adapter of rank {found.rank} for the base model.",
        details=asdict(found),
    )


def _use(base: BaseName, rank: int) -> str:
    """How programs load the adapter."""
    return f"""\
from peft import PeftModel
from transformers import AutoModelForCausalLM

{base.comment}base = AutoModelForCausalLM.from_pretrained("{base.loaded_by}")
model = PeftModel.from_pretrained(base, "FOLDER")

# or: vllm serve {base.loaded_by} --enable-lora --max-lora-rank {rank} \\
#       --lora-modules edited=FOLDER"""


def prove(version: Version, options: PeftExport, folder: Path) -> Evidence:
    """Put the written factors on the base model, and compare the matrices with the version's."""
    changes = changes_of(version.base, version.updates)
    view, worst = _with_adapter(version, changes, folder)
    said = "largest error of a matrix, as a part of the norm of its change"
    checks = [check("matrices", said, worst, _allowed(version, options))]
    if find_spec("peft") is not None:
        checks.append(_through_peft(version, view, folder))
    return Evidence(view=view, checks=checks)


def _with_adapter(
    version: Version, changes: Sequence[Change], folder: Path
) -> tuple[ModelView, float]:
    """The base with the written adapter, and the largest error of a matrix."""
    tensors = load_file(folder / adapter.WEIGHTS)
    view, worst = ModelView(version.base), 0.0
    for change in changes:
        version.monitor.check()
        a, b = (tensors[f"{adapter.PREFIX}{change.module}.lora_{s}.weight"] for s in "AB")
        name = f"{change.module}.weight"
        base = version.base.model.get_parameter(name)
        update = Update(left=b.float(), right=a.T.float())
        view.replace(name, materialise(base, [update], change.transposed))
        wanted = version.view.parameter(name).double()
        off = float((view.parameter(name).double() - wanted).norm())
        changed = float((wanted - base.double()).norm())
        worst = max(worst, off / changed if changed else off)
    return view, worst


def _allowed(version: Version, options: PeftExport) -> float | None:
    """How far a matrix may be off: by rounding, unless less was asked for.

    Version and adapter are rounded to the model's type from sums that differ in their last
    places; a change much smaller than its matrix is off by a larger part of itself.
    """
    if options.max_rank is not None and options.max_error is None:
        return None
    ratios = [
        float(base.norm()) / float((version.view.parameter(name).double() - base).norm())
        for name in version.view.replaced
        for base in [version.base.model.get_parameter(name).double()]
    ]
    rounding = float(torch.finfo(version.base.dtype).eps) * max(1.0, *ratios)
    written = float(torch.finfo(getattr(torch, options.dtype)).eps)
    return (options.max_error or 0.0) + rounding + 4 * written


@torch.no_grad()
def _through_peft(version: Version, view: ModelView, folder: Path) -> Check:
    """The largest difference of a logit between PEFT's model and the written adapter's."""
    from peft import PeftModel

    model: Any = PeftModel.from_pretrained(share(version.base.model), str(folder))
    model.eval()
    size = min(_PROMPT, version.base.max_positions)
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(0, version.base.vocabulary, (1, size), generator=random)
    ids = ids.to(version.base.device)
    logits = [m(input_ids=ids, use_cache=False).logits.double() for m in (model, view.model)]
    largest = float(logits[1].abs().max())
    off = float((logits[0] - logits[1]).abs().max()) / largest
    limit = 1e4 * float(torch.finfo(version.base.dtype).eps)
    said = "largest difference of a logit as PEFT computes it, as a part of the largest logit"
    return check("peft", said, off, max(limit, 1e-3))


def _shape(update: Update) -> tuple[int, int]:
    """The shape (out, in) of a change."""
    if update.dense is not None:
        return len(update.dense), update.dense.shape[1]
    assert update.left is not None
    assert update.right is not None
    return len(update.left), len(update.right)


WRITER = Writer(needed, write, prove)
