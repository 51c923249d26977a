"""Cholesky factors of second moments: made once per base model and layer, kept within a limit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError

from jeep_core.errors import JeepError, NumericalError
from jeep_core.files import load_whole, save_whole
from jeep_core.finite import check_tensor
from jeep_core.loading import tensor_bytes
from jeep_core.places import Place

MAX_CONDITION = 1e14
KEPT_ON_DISK_FROM = 4096
"""Smallest d_ff whose float64 factor is read back quicker than it is made, with a margin."""
CHUNK_ROWS = 1024


class MomentFactor:
    """The second moment of one layer, its Cholesky factor, and columns solved with it.

    ``moment`` (d_ff, d_ff) is E[k kᵀ] over tokens, or a function that loads it; what a function
    loads may be dropped and is loaded again when it is needed.  ``precision`` is what systems
    are solved in: by default float64 on the CPU and float32 with corrections on a GPU, where
    float64 can be many times slower.  The float64 factor of a large layer on the CPU is kept in
    ``path``, if given.
    """

    def __init__(
        self,
        moment: torch.Tensor | Callable[[], torch.Tensor],
        name: str,
        precision: torch.dtype | None = None,
        path: Path | None = None,
    ) -> None:
        self.name, self._path = name, path
        self._load = moment if callable(moment) else None
        self._moment = None if callable(moment) else moment
        self._precision = precision
        self._lower: dict[torch.dtype, torch.Tensor] = {}
        self._solved: tuple[torch.dtype, dict[bytes, int], torch.Tensor] | None = None
        self._null: tuple[float, torch.Tensor] | None = None

    @property
    def stored(self) -> torch.Tensor:
        """E[k kᵀ] (d_ff, d_ff) in the floating-point type it is stored in."""
        if self._moment is None:
            assert self._load is not None
            self._moment = self._load()
        return self._moment

    @property
    def moment(self) -> torch.Tensor:
        """E[k kᵀ] (d_ff, d_ff) in float64."""
        return self.stored.double()

    @property
    def precision(self) -> torch.dtype:
        """What systems with this moment are solved in first."""
        if self._precision is None:
            gpu = self.stored.device.type == "cuda"
            self._precision = torch.float32 if gpu else torch.float64
        return self._precision

    def null_basis(self, threshold: float) -> torch.Tensor:
        """Eigenvectors (d_ff, k) of E[k kᵀ] with eigenvalues below ``threshold``, float64."""
        if self._null is None or self._null[0] != threshold:
            check_moment(self.stored, self.name)
            values, vectors = torch.linalg.eigh(self.moment)
            self._null = threshold, vectors[:, values < threshold].contiguous()
        return self._null[1]

    def distrust(self) -> None:
        """Solve in float64 from now on: float32 was not enough for this moment."""
        self._precision = torch.float64
        self._lower.pop(torch.float32, None)
        self._solved = None

    @property
    def lower(self) -> torch.Tensor:
        """L with L Lᵀ = E[k kᵀ], in float64.

        Raises:
            NumericalError: the moment is singular or not finite.
        """
        return self.lower_in(torch.float64)

    def lower_in(self, dtype: torch.dtype) -> torch.Tensor:
        """L with L Lᵀ = E[k kᵀ], computed in ``dtype`` and kept.

        Raises:
            NumericalError: the moment is singular or not finite.
        """
        if dtype not in self._lower:
            self._lower[dtype] = self._read() if self._on_disk(dtype) else self._make(dtype)
            if self._load is not None and dtype is torch.float64:
                self._moment = None
        return self._lower[dtype]

    def times(self, right: torch.Tensor) -> torch.Tensor:
        """E[k kᵀ] · ``right`` (d_ff, m) in float64, without a float64 copy of the moment."""
        moment = self.stored
        starts = range(0, len(moment), CHUNK_ROWS)
        return torch.cat([moment[i : i + CHUNK_ROWS].double() @ right for i in starts])

    def unsolved(self, rows: torch.Tensor) -> int:
        """How many of these keys (n, d_ff) ``half_solved`` would have to solve for."""
        dtype, known, _ = self._solved or (None, {}, None)
        if dtype is not self.precision:
            return len(rows)
        return sum(digest not in known for digest in _digests(rows))

    def half_solved(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """L⁻¹ Kᵀ (d_ff, n) for keys ``rows`` (n, d_ff), computed in ``dtype``.

        The columns of the last call are kept: keys of earlier edits come back with every edit.
        """
        digests = _digests(rows)
        kept_dtype, known, kept = self._solved or (dtype, {}, rows.to(dtype)[:0])
        if kept_dtype is not dtype:
            known, kept = {}, kept[:0].to(dtype)
        new = [i for i, digest in enumerate(digests) if digest not in known]
        places = torch.tensor(
            [known.get(digest, -1) for digest in digests], dtype=torch.long, device=rows.device
        )
        solved = torch.empty(rows.shape, dtype=dtype, device=rows.device)
        old = places >= 0
        solved[old] = kept[places[old]]
        if new:
            columns = rows[new].to(dtype).T
            solved[new] = torch.linalg.solve_triangular(
                self.lower_in(dtype), columns, upper=False
            ).T
        self._solved = (dtype, {digest: i for i, digest in enumerate(digests)}, solved)
        return solved.T

    @property
    def held_bytes(self) -> int:
        """Memory that ``drop`` would free."""
        kept = list(self._lower.values())
        if self._load is not None and self._moment is not None:
            kept.append(self._moment)
        if self._solved is not None:
            kept.append(self._solved[2])
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def drop(self) -> None:
        """Free what can be loaded or made again."""
        self._lower.clear()
        self._solved = None
        if self._load is not None:
            self._moment = None

    def _on_disk(self, dtype: torch.dtype) -> bool:
        return dtype is torch.float64 and self._path is not None and self._path.exists()

    def _read(self) -> torch.Tensor:
        """The factor in the file; a file that cannot be read is made again."""
        assert self._path is not None
        with suppress(SafetensorError, OSError, KeyError, JeepError):
            return load_whole(self._path)["upper"].mT
        self._path.unlink(missing_ok=True)
        return self._make(torch.float64)

    def _make(self, dtype: torch.dtype) -> torch.Tensor:
        lower = cholesky(self.stored.to(dtype), self.name)
        large = len(lower) >= KEPT_ON_DISK_FROM and lower.device.type == "cpu"
        if self._path is not None and large and dtype is torch.float64:
            save_whole(self._path, {"upper": lower.mT.contiguous()})
        return lower


class FactorCache:
    """The factors of one model's layers (``d_ff``) within a memory limit in bytes, if any.

    Every edit walks through the same layers in the same order, so among those in use the one
    used last is the one needed again last, and goes first; before them go layers that are no
    longer edited.  A dropped factor is read or made again when it is needed.
    """

    def __init__(self, d_ff: int, limit: int | None = None) -> None:
        self.limit, self._one = limit, 8 * d_ff**2
        self._factors: dict[Place, MomentFactor] = {}
        self._in_use: set[Place] = set()

    def __contains__(self, layer: Place) -> bool:
        return layer in self._factors

    def add(self, layer: Place, factor: MomentFactor) -> None:
        """Know the factor of a layer."""
        self._factors[layer] = factor

    def expect(self, layers: Collection[Place]) -> None:
        """The layers that the coming solves go through."""
        self._in_use = set(layers)

    def get(self, layer: Place) -> MomentFactor:
        """The factor of a layer; others are dropped so that it fits beside them.

        Raises:
            KeyError: it was never added.
        """
        factor = self._factors.pop(layer)
        if self.limit is not None:
            self._make_room(self.limit - max(factor.held_bytes, self._one))
        self._factors[layer] = factor
        return factor

    def held_bytes(self) -> int:
        """Memory in factors that can be dropped."""
        return sum(factor.held_bytes for factor in self._factors.values())

    def _make_room(self, allowed: int) -> None:
        """Drop factors until those known take at most ``allowed`` bytes."""
        unused = [factor for n, factor in self._factors.items() if n not in self._in_use]
        used = [factor for n, factor in self._factors.items() if n in self._in_use]
        held = self.held_bytes()
        for factor in (*unused, *reversed(used)):
            if held <= allowed:
                return
            held -= factor.held_bytes
            factor.drop()


def cholesky(matrix: torch.Tensor, name: str) -> torch.Tensor:
    """The lower Cholesky factor of a second moment, or of a sum that contains one.

    Raises:
        NumericalError: singular, not finite, or conditioned above ``MAX_CONDITION``.
    """
    lower, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0 or not bool(torch.isfinite(lower).all()):
        check_moment(matrix, name)
        raise NumericalError(
            f"{name}: the second moment is singular; take it over more text or another corpus"
        )
    if condition(lower) > MAX_CONDITION:
        raise NumericalError(
            f"{name}: condition above {MAX_CONDITION:.0e}; take the second moment over more text"
        )
    factor: torch.Tensor = lower
    return factor


def check_moment(matrix: torch.Tensor, name: str) -> None:
    """Raise :class:`NumericalError` if a second moment, or a sum with one, is not finite."""
    advice = "remove it from the store's folder base/moments, then it is taken again"
    check_tensor(matrix, f"{name}: the second moment of its keys", advice)


def condition(lower: torch.Tensor) -> float:
    """A lower bound of the condition number, from the diagonal of a Cholesky factor."""
    diagonal = lower.diagonal()
    return float((diagonal.max() / diagonal.min()) ** 2)


def _digests(rows: torch.Tensor) -> list[bytes]:
    """One digest per key."""
    size = rows.shape[1] * rows.element_size()
    data = memoryview(tensor_bytes(rows))
    return [
        hashlib.blake2b(data[i * size : (i + 1) * size], digest_size=16).digest()
        for i in range(len(rows))
    ]
