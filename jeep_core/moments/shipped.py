"""Second moments that ship with the bundled models, so that a first edit need not take them.

E[k kᵀ] is kept as S R Rᵀ S: S are the roots of its diagonal, R a lower triangle whose rows have
length one, in float16.  R Rᵀ stays positive however R is rounded, which E[k kᵀ] itself would not.
In no direction is the moment off by more than 2 % (atlas-gptj, layers 1 and 5), entries by 0.05 %
of S at most.  Made by ``python -m tools.atlas.moments``.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import torch

from jeep_core import atlas
from jeep_core.models.loading import LoadedModel
from jeep_core.spec.matrices import Measured
from jeep_core.storage.files import load_whole, read_record, save_whole
from jeep_core.storage.looking import present


def shipped_file(
    base: LoadedModel, layer: Measured, corpus_sha256: str, samples: int
) -> Path | None:
    """The shipped moment of a layer that was taken over this text in float32, if there is one."""
    folder = atlas.MODELS.get(base.name)
    path = folder and folder / "moments" / f"layer-{layer}.safetensors"
    if path is None or base.dtype is not torch.float32 or not present(path):
        return None
    made_for = {"model": base.model_hash, "corpus": corpus_sha256, "samples": samples}
    record = _record(path)
    return path if all(record.get(name) == value for name, value in made_for.items()) else None


@cache
def _record(path: Path) -> dict[str, object]:
    return read_record(path)


@cache
def file_sha256(path: Path) -> str:
    """SHA-256 of a shipped file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_shipped(
    path: Path, moment: torch.Tensor, model_hash: str, corpus_sha256: str, samples: int
) -> None:
    """Write a moment (d_ff, d_ff) in the form that is shipped."""
    scale, packed = packed_factor(moment)
    record = {"model": model_hash, "corpus": corpus_sha256, "samples": samples}
    save_whole(path, {"scale": scale, "factor": packed}, record)


def read_shipped(path: Path) -> torch.Tensor:
    """E[k kᵀ] (d_ff, d_ff) in float32 from a shipped file.

    Raises:
        JeepError, SafetensorError, OSError: it is damaged.
    """
    tensors = load_whole(path)
    return unpacked(tensors["scale"], tensors["factor"])


def packed_factor(moment: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """S (d_ff,) in float32 and R's lower triangle (d_ff·(d_ff + 1)/2,), by rows, in float16.

    ``moment`` is (d_ff, d_ff).

    Raises:
        torch.linalg.LinAlgError: the moment is not positive definite.
    """
    lower = torch.linalg.cholesky(moment.double())
    # (d_ff,): the roots of the moment's diagonal, as that of L Lᵀ is ‖row‖²
    scale = lower.norm(dim=1)
    # (d_ff·(d_ff + 1)/2,) each, by rows
    rows, columns = torch.tril_indices(*lower.shape)
    return scale.float(), (lower / scale[:, None])[rows, columns].half()


def unpacked(scale: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
    """E[k kᵀ] (d_ff, d_ff) in float32 from both results of `packed_factor`.

    They are ``scale`` (d_ff,) and ``packed`` (d_ff·(d_ff + 1)/2,).
    """
    n = len(scale)
    lower = torch.zeros(n, n, dtype=torch.float64)
    rows, columns = torch.tril_indices(n, n)
    lower[rows, columns] = packed.double()
    # S R, so that the product below is S R Rᵀ S
    lower *= scale.double()[:, None]
    return (lower @ lower.T).float()
