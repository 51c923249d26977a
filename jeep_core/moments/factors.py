"""Cholesky factors of second moments: made once per base model and layer, kept within a limit."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary, WeakSet

import torch

from jeep_core.models.loading import tensor_data
from jeep_core.moments.kept_moment import KeptMoment, bytes_of
from jeep_core.moments.summed_keys import SummedKeys, after
from jeep_core.spec.matrices import Measured
from jeep_core.updates.kept import KeptKeys

CHUNK_ROWS = 1024


class MomentFactor:
    """One user's access to the second moment of a layer: its factor, and columns solved with it.

    ``moment``: a `KeptMoment` that others may share, or its argument.  ``precision``: the type to
    solve in, by default float64 on the CPU, float32 with corrections on a GPU, where float64 can
    be slow.  Solved columns belong to one user, so no result depends on others.
    """

    def __init__(
        self,
        moment: KeptMoment | torch.Tensor | Callable[[], torch.Tensor],
        name: str,
        precision: torch.dtype | None = None,
        path: Path | None = None,
    ) -> None:
        if not isinstance(moment, KeptMoment):
            moment = KeptMoment(moment, name, path)
        self.kept = moment
        self.name, self._precision = name, precision
        self._solved: tuple[torch.dtype, dict[bytes, int], torch.Tensor] | None = None
        self.memory: FactorMemory | None = None
        self._summed: tuple[SummedKeys, MomentFactor] | None = None
        self._inside: tuple[float, MomentFactor] | None = None

    def after(self, keys: KeptKeys, weight: float) -> tuple[MomentFactor, int]:
        """As `Factor.after`.  The last one is kept, for keys that begin with the same ones."""
        make = partial(MomentFactor, name=self.name, precision=self.precision)
        found = after(self._summed, keys, weight, self.name, lambda: self.stored, make)
        if found is None:
            return self, 0
        self._summed = found
        self.kept.forget_moment()
        return found[1], found[0].count

    def in_null_space(self, threshold: float) -> MomentFactor:
        """The factor of the unit matrix (k, k) in the coordinates of `null_basis`."""
        if self._inside is None or self._inside[0] != threshold:
            like = self.null_basis(threshold)[:0]
            unit = partial(torch.eye, like.shape[1], dtype=like.dtype, device=like.device)
            self._inside = threshold, MomentFactor(unit, self.name, torch.float64)
        return self._inside[1]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Use this factor, and no other of its `FactorMemory`, with memory reserved for it."""
        with self.memory.room_for(self) if self.memory is not None else nullcontext():
            yield

    @property
    def stored(self) -> torch.Tensor:
        """E[k kᵀ] (d_ff, d_ff) in the floating-point type it is stored in."""
        return self.kept.stored

    @property
    def moment(self) -> torch.Tensor:
        """E[k kᵀ] (d_ff, d_ff) in float64."""
        return self.stored.double()

    @property
    def precision(self) -> torch.dtype:
        """The type that systems with this moment are solved in first."""
        if self._precision is None:
            gpu = self.stored.device.type == "cuda"
            self._precision = torch.float32 if gpu else torch.float64
        return self._precision

    def null_basis(self, threshold: float) -> torch.Tensor:
        """Eigenvectors (d_ff, k) of E[k kᵀ] with eigenvalues below ``threshold``, float64."""
        return self.kept.null_basis(threshold)

    def distrust(self) -> None:
        """Solve in float64 from now on: float32 was not enough for this moment."""
        self._precision = torch.float64
        self.kept.forget(torch.float32)
        self._solved = self._summed = None

    @property
    def lower(self) -> torch.Tensor:
        """L (d_ff, d_ff) with L Lᵀ = E[k kᵀ], in float64."""
        return self.lower_in(torch.float64)

    def lower_in(self, dtype: torch.dtype) -> torch.Tensor:
        """L (d_ff, d_ff) with L Lᵀ = E[k kᵀ] in ``dtype``, kept (see `KeptMoment.lower_in`)."""
        return self.kept.lower_in(dtype)

    def times(self, right: torch.Tensor) -> torch.Tensor:
        """E[k kᵀ] · ``right`` (d_ff, m) in float64, without a float64 copy of the moment."""
        moment = self.stored
        starts = range(0, len(moment), CHUNK_ROWS)
        # (CHUNK_ROWS, d_ff) · (d_ff, m), one after the other
        return torch.cat([moment[i : i + CHUNK_ROWS].double() @ right for i in starts])

    def unsolved(self, rows: torch.Tensor) -> int:
        """How many of these keys (n, d_ff) ``half_solved`` would have to solve for."""
        # columns solved in another type are of no use
        dtype, known, _ = self._solved or (None, {}, None)
        if dtype is not self.precision:
            return len(rows)
        return sum(digest not in known for digest in _digests(rows))

    def half_solved(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """L⁻¹ Kᵀ (d_ff, n) for keys ``rows`` (n, d_ff), computed in ``dtype``.

        The columns of the last call are kept: keys of earlier edits come back with every edit.
        """
        # rows are known by their bytes; ``kept`` (k, d_ff) holds the columns of the last call
        digests = _digests(rows)
        kept_dtype, known, kept = self._solved or (dtype, {}, rows.to(dtype)[:0])
        if kept_dtype is not dtype:
            known, kept = {}, kept[:0].to(dtype)
        new = [i for i, digest in enumerate(digests) if digest not in known]
        # (n,): the row of ``kept`` with this key, -1 where it is new
        places = torch.tensor(
            [known.get(digest, -1) for digest in digests], dtype=torch.long, device=rows.device
        )
        # (n, d_ff): a solved column in each row
        solved = torch.empty(rows.shape, dtype=dtype, device=rows.device)
        old = places >= 0
        solved[old] = kept[places[old]]
        if new:
            columns = rows[new].to(dtype).T  # (d_ff, new)
            solved[new] = torch.linalg.solve_triangular(
                self.lower_in(dtype), columns, upper=False
            ).T
        self._solved = (dtype, {digest: i for i, digest in enumerate(digests)}, solved)
        return solved.T

    @property
    def solved_bytes(self) -> int:
        """Memory in solved columns, and in what was made of kept keys."""
        size = 0 if self._solved is None else bytes_of(self._solved[2])
        size += 0 if self._summed is None else bytes_of(self._summed[0].moment)
        return size + sum(made[1].held_bytes for made in (self._summed, self._inside) if made)

    @property
    def held_bytes(self) -> int:
        """Memory that ``drop`` would free."""
        return self.kept.held_bytes + self.solved_bytes

    def drop(self) -> None:
        """Free what can be loaded or made again."""
        self.kept.drop()
        self.forget_solved()

    def forget_solved(self) -> None:
        """Free the solved columns, and what was made of kept keys."""
        self._solved = self._summed = self._inside = None


class FactorMemory:
    """The memory that second moments of one base model take, whoever uses them.

    ``limit`` bounds, in bytes, moments, factors, null spaces and solved columns of all users; one
    factor is in use at a time and always fits.  What is dropped is loaded or made again.  First
    dropped are layers that nobody edits any more.  As every edit takes the layers in one order,
    the layer used last is needed again last and is dropped next.  Safe to use from threads.
    """

    def __init__(self, d_ff: int, limit: int | None = None) -> None:
        self.limit, self._one = limit, 8 * d_ff**2
        self.lock = threading.RLock()
        self._users: WeakSet[FactorCache] = WeakSet()
        self._shared: dict[str, KeptMoment] = {}
        self._last_used: WeakKeyDictionary[KeptMoment, int] = WeakKeyDictionary()

    def enter(self, user: FactorCache) -> None:
        """Register a user, for as long as it exists."""
        with self.lock:
            self._users.add(user)

    def shared(self, key: str, make: Callable[[], KeptMoment]) -> KeptMoment:
        """The moment of a key, made for the first user that asks for it."""
        with self.lock:
            if key not in self._shared:
                self._shared[key] = make()
            return self._shared[key]

    @contextmanager
    def room_for(self, factor: MomentFactor) -> Iterator[None]:
        """Exclude other factors from use, with room for this one beside what is kept."""
        with self.lock:
            # a counter, not a clock: only the order matters
            self._last_used[factor.kept] = 1 + max(self._last_used.values(), default=0)
            if self.limit is not None:
                # this one needs what it holds, and room for a float64 factor at least
                self._make_room(self.limit - max(self._held(factor.kept), self._one), factor.kept)
            yield
            if self.limit is not None:  # with blocks of kept keys it may hold more by now
                self._make_room(self.limit - self._held(factor.kept), factor.kept)

    def held_bytes(self) -> int:
        """Memory in all that can be dropped."""
        with self.lock:
            return sum(map(self._held, self._all()))

    def _make_room(self, allowed: int, wanted: KeptMoment) -> None:
        """Drop others until they take at most ``allowed`` bytes."""
        needed = {kept for user in self._users for kept in user.expected()}
        others = sorted(self._all() - {wanted}, key=lambda kept: self._last_used.get(kept, 0))
        # least recently used first; of those in use the last one used, see the class
        unused = [kept for kept in others if kept not in needed]
        used = [kept for kept in others if kept in needed]
        held = sum(map(self._held, others))
        for kept in (*unused, *reversed(used)):
            if held <= allowed:
                return
            held -= self._held(kept)
            kept.drop()
            for factor in self._of(kept):
                factor.forget_solved()

    def _all(self) -> set[KeptMoment]:
        mine = {factor.kept for user in self._users for factor in user.factors()}
        return mine | set(self._shared.values())

    def _of(self, kept: KeptMoment) -> list[MomentFactor]:
        return [f for user in self._users for f in user.factors() if f.kept is kept]

    def _held(self, kept: KeptMoment) -> int:
        return kept.held_bytes + sum(factor.solved_bytes for factor in self._of(kept))


class FactorCache:
    """One user's factors of a model's layers (``d_ff``), within the limit of a `FactorMemory`.

    Without a ``memory`` that others use, too, it has one of its own with this ``limit`` in bytes.
    """

    def __init__(
        self, d_ff: int, limit: int | None = None, memory: FactorMemory | None = None
    ) -> None:
        self.memory = memory or FactorMemory(d_ff, limit)
        self._factors: dict[Measured, MomentFactor] = {}
        self._in_use: set[Measured] = set()
        self.memory.enter(self)

    def __contains__(self, layer: Measured) -> bool:
        return layer in self._factors

    def add(self, layer: Measured, factor: MomentFactor) -> None:
        """Register the factor of a layer."""
        with self.memory.lock:
            factor.memory = self.memory
            self._factors[layer] = factor

    def expect(self, layers: Collection[Measured]) -> None:
        """The layers that the coming solves go through."""
        with self.memory.lock:
            self._in_use = set(layers)

    def get(self, layer: Measured) -> MomentFactor:
        """The factor of an added layer (KeyError for others); makes room for it."""
        with (factor := self._factors[layer]).in_use():
            return factor

    def factors(self) -> list[MomentFactor]:
        """All that are known."""
        return list(self._factors.values())

    def expected(self) -> list[KeptMoment]:
        """Those that the coming solves go through."""
        return [f.kept for layer, f in self._factors.items() if layer in self._in_use]

    def held_bytes(self) -> int:
        """Memory in factors that can be dropped."""
        return sum(factor.held_bytes for factor in self.factors())


def _digests(rows: torch.Tensor) -> list[bytes]:
    """One digest per key of ``rows`` (n, d_ff)."""
    size, data = rows.shape[1] * rows.element_size(), tensor_data(rows)
    parts = (data[i * size : (i + 1) * size] for i in range(len(rows)))
    return [hashlib.blake2b(part, digest_size=16).digest() for part in parts]
