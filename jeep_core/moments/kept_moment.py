"""One second moment with its Cholesky factors and its null space, in memory or on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError

from jeep_core.errors import JeepError, is_out_of_memory, is_passing
from jeep_core.executors.threads import all_threads
from jeep_core.moments.unfinished import GIVEN_UP_S
from jeep_core.storage.files import load_whole, save_whole
from jeep_core.storage.looking import listed, present
from jeep_core.updates.cholesky import check_moment, cholesky

log = logging.getLogger(__name__)

KEPT_ON_DISK_FROM = 4096
"""Smallest d_ff whose float64 factor is read back quicker than it is made, with a margin."""


class KeptMoment:
    """A second moment with its factors and its null space, for all its users.

    ``moment`` (d_ff, d_ff) is E[k kᵀ] over tokens, or a function that loads it; then it may be
    dropped and is loaded again when it is needed.  The float64 factor of a large layer on the CPU
    is kept in ``path``, if given.

    Factors and null space serve all edits to come, so they are made with all threads, however many
    the edit has that asks first.
    """

    def __init__(
        self,
        moment: torch.Tensor | Callable[[], torch.Tensor],
        name: str,
        path: Path | None = None,
    ) -> None:
        self.name, self._path = name, path
        self._load = moment if callable(moment) else None
        self._moment = None if callable(moment) else moment
        self._lower: dict[torch.dtype, torch.Tensor] = {}
        self._null: tuple[float, torch.Tensor] | None = None

    @property
    def stored(self) -> torch.Tensor:
        """E[k kᵀ] (d_ff, d_ff) in the floating-point type it is stored in."""
        if self._moment is None:
            assert self._load is not None
            self._moment = self._load()
        return self._moment

    def null_basis(self, threshold: float) -> torch.Tensor:
        """Eigenvectors (d_ff, k) of E[k kᵀ] with eigenvalues below ``threshold``, float64."""
        if self._null is None or self._null[0] != threshold:
            check_moment(self.stored, self.name)
            with all_threads():
                # values (d_ff,), vectors (d_ff, d_ff), one a column
                values, vectors = torch.linalg.eigh(self.stored.double())
            self._null = threshold, vectors[:, values < threshold].contiguous()
            self.forget_moment()
        return self._null[1]

    def lower_in(self, dtype: torch.dtype) -> torch.Tensor:
        """L (d_ff, d_ff), lower, with L Lᵀ = E[k kᵀ], computed in ``dtype`` and kept.

        Raises:
            NumericalError: the moment is singular or not finite.
        """
        if dtype not in self._lower:
            self._lower[dtype] = self._read() if self._on_disk(dtype) else self._make(dtype)
            if dtype is torch.float64:
                self.forget_moment()
        return self._lower[dtype]

    def forget(self, dtype: torch.dtype) -> None:
        """Drop the factor of one type."""
        self._lower.pop(dtype, None)

    @property
    def held_bytes(self) -> int:
        """Memory that ``drop`` would free."""
        kept = list(self._lower.values())
        if self._load is not None and self._moment is not None:
            kept.append(self._moment)
        if self._null is not None:
            kept.append(self._null[1])
        return sum(map(bytes_of, kept))

    def drop(self) -> None:
        """Free what can be loaded or made again."""
        self._lower.clear()
        self._null = None
        self.forget_moment()

    def forget_moment(self) -> None:
        """Drop the moment itself where it can be loaded again."""
        if self._load is not None:
            self._moment = None

    def _on_disk(self, dtype: torch.dtype) -> bool:
        return dtype is torch.float64 and self._path is not None and present(self._path)

    def _read(self) -> torch.Tensor:
        """The factor in the file; a damaged file is made again.

        One that cannot be read now stays, and the factor is made without it.

        Raises:
            OSError, SafetensorError: memory was not enough.
        """
        assert self._path is not None
        try:
            # kept as Lᵀ by rows, so that L is laid out by columns, as the factorisation leaves it
            return load_whole(self._path)["upper"].mT
        except FileNotFoundError:
            return self._make(torch.float64)
        except (SafetensorError, OSError, KeyError, JeepError) as error:
            if is_out_of_memory(error):  # making it takes more
                raise
            if isinstance(error, OSError) or is_passing(error):
                log.warning("%s cannot be read now, the factor is made: %s", self._path, error)
                return self._make(torch.float64, keep=False)
            log.warning("%s is damaged, it is made again: %s", self._path, error)
        self._path.unlink(missing_ok=True)
        return self._make(torch.float64)

    def _make(self, dtype: torch.dtype, keep: bool = True) -> torch.Tensor:
        with all_threads():
            lower = cholesky(self.stored.to(dtype), self.name)  # (d_ff, d_ff)
        large = len(lower) >= KEPT_ON_DISK_FROM and lower.device.type == "cpu"
        if keep and self._path is not None and large and dtype is torch.float64:
            save_whole(self._path, {"upper": lower.mT.contiguous()})
            _remove_others(self._path)
        return lower


def _remove_others(path: Path) -> None:
    """Remove factors of a moment that other numbers of threads made, unless they are new.

    They take 8·d_ff² bytes each; whoever still needs one makes it again.
    """
    stem = path.name.rpartition("-")[0]
    if not stem.startswith("factor-"):
        return
    with suppress(OSError):  # the factor that was made is worth more than their room
        for other in listed(path.parent, f"{stem}*.safetensors"):
            if other != path and time.time() - other.stat().st_mtime > GIVEN_UP_S:
                other.unlink(missing_ok=True)


def bytes_of(tensor: torch.Tensor) -> int:
    """Memory that the numbers of a tensor of any shape take."""
    return tensor.numel() * tensor.element_size()
