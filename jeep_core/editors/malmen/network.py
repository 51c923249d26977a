"""MALMEN (Tan et al. 2024, arXiv 2311.04661): value shifts, aggregated by least squares.

Token by token the network asks for a shift d = -step · (uᵀũ) · δ̃ of the matrix's output.  With
keys U (in, n) and shifts D (out, n), Δ = D Uᵀ (U Uᵀ + λ I)⁻¹ comes closest to all of them; λ is
learned per layer.
"""

from __future__ import annotations

import torch
from torch import nn

from jeep_core.editors.networks.network import Hypernetwork, NetworkSpec, chunks
from jeep_core.errors import NumericalError
from jeep_core.models.delta import Update
from jeep_core.values.gradient_pairs import Pairs

FIRST_STEP = 1e-4
FIRST_DAMPING = 1.0


class MalmenNetwork(Hypernetwork):
    """``log_damping`` (layers,): natural logarithm of λ."""

    def __init__(self, spec: NetworkSpec, seed: int = 0) -> None:
        super().__init__(spec, FIRST_STEP, seed)
        self.log_damping = nn.Parameter(torch.full((len(spec.layers),), FIRST_DAMPING).log())

    def damping(self, layer: int) -> float:
        """λ of a layer."""
        return float(self.log_damping.detach()[self.spec.layers.index(layer)].exp())

    def shifts(self, layer: int, pairs: Pairs) -> torch.Tensor:
        """Dᵀ (n, out) from ``pairs`` u (n, in) and δ (n, out), differentiable."""
        pseudo_u, pseudo_delta = self(layer, pairs)
        # (n, 1): uᵀũ of every token
        agreement = (pairs[0] * pseudo_u).sum(dim=1, keepdim=True)
        shifts: torch.Tensor = -self.step(layer) * agreement * pseudo_delta
        return shifts

    def sum(self, layer: int, scale: float = 1.0) -> MalmenSum:
        """See the base class."""
        return MalmenSum(self, layer, scale)

    def backward(self, layer: int, pairs: Pairs, gradient: torch.Tensor) -> None:
        """As in the base class, for ``pairs`` u (n, in) and δ (n, out).

        With G = ``gradient`` (out, in), S = U Uᵀ + λ I (in, in) and Q = G S⁻¹ (out, in), the
        gradients are Q U (out, n) by D and -⟨Q, Δ⟩ by λ.
        """
        keys, damping = pairs[0].double(), self.damping(layer)
        # (out, in) both
        q = _times_inverse(gradient.double(), keys, damping, layer)
        against_damping = _times_inverse(q, keys, damping, layer).float()  # ⟨Q, Δ⟩ = ⟨Q S⁻¹, D Uᵀ⟩
        q, by_damping = q.float(), 0.0
        for chunk in chunks(pairs):
            shifts = self.shifts(layer, chunk)
            (shifts * (chunk[0] @ q.T)).sum().backward()  # type: ignore[no-untyped-call]
            by_damping -= float((shifts.detach() * (chunk[0] @ against_damping.T)).sum())
        if self.log_damping.grad is None:
            self.log_damping.grad = torch.zeros_like(self.log_damping)
        # by log λ: λ times the gradient by λ
        self.log_damping.grad[self.spec.layers.index(layer)] += damping * by_damping


class MalmenSum:
    """Keys and shifts while fewer than the keys' size, then products: constant memory, float64."""

    def __init__(self, network: MalmenNetwork, layer: int, scale: float) -> None:
        self._network, self._layer, self._scale = network, layer, scale
        self._pairs: list[Pairs] = []
        self._tokens = 0
        self._gram: torch.Tensor | None = None
        self._cross: torch.Tensor | None = None

    @torch.no_grad()
    def add(self, pairs: Pairs) -> None:
        """Add the pairs u (n, in), δ (n, out) of n more tokens."""
        for chunk in chunks(pairs):
            shifts = self._scale * self._network.shifts(self._layer, chunk)
            # (n, in) and (n, out)
            self._pairs.append((chunk[0].double(), shifts.double()))
            self._tokens += len(shifts)
        if self._gram is not None or self._tokens > self._network.size(self._layer)[1]:
            keys, shifts = self._joined()
            # UUᵀ (in, in) and D Uᵀ (out, in)
            gram, cross = keys.T @ keys, shifts.T @ keys
            self._gram = gram if self._gram is None else self._gram + gram
            self._cross = cross if self._cross is None else self._cross + cross
            self._pairs = []

    def _joined(self) -> Pairs:
        return torch.cat([k for k, _ in self._pairs]), torch.cat([d for _, d in self._pairs])

    def update(self) -> Update:
        """Δ (out, in) of everything added, float32.

        Raises:
            NumericalError: the damped system is singular.
        """
        damping = self._network.damping(self._layer)
        if self._gram is not None and self._cross is not None:
            # Δ S = D Uᵀ with S = U Uᵀ + λ I symmetric: solved as S Δᵀ = U Dᵀ
            factor = _cholesky(self._gram, damping, self._layer)
            dense = torch.cholesky_solve(self._cross.T, factor).T
            return Update(dense=dense.float().contiguous())
        keys, shifts = self._joined()
        # fewer tokens than the keys' size: Uᵀ S⁻¹ = (UᵀU + λ I)⁻¹ Uᵀ, a system of (n, n)
        factor = _cholesky(keys @ keys.T, damping, self._layer)
        return Update.of(shifts.T, torch.cholesky_solve(keys, factor).T)


def _cholesky(gram: torch.Tensor, damping: float, layer: int) -> torch.Tensor:
    damped = gram + damping * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor: torch.Tensor
    factor, info = torch.linalg.cholesky_ex(damped)
    if int(info) or not bool(torch.isfinite(factor).all()):
        message = f"layer {layer}: U Uᵀ + λ I cannot be factored (λ = {damping:.3g})"
        raise NumericalError(message)
    return factor


def _times_inverse(
    matrix: torch.Tensor, keys: torch.Tensor, damping: float, layer: int
) -> torch.Tensor:
    """``matrix`` (out, in) · (KᵀK + λ I)⁻¹ for keys K (n, in), float64, by the smaller system."""
    n, size = keys.shape
    if n > size:
        factor = _cholesky(keys.T @ keys, damping, layer)
        return torch.cholesky_solve(matrix.T, factor).T
    factor = _cholesky(keys @ keys.T, damping, layer)
    # Woodbury: M S⁻¹ = (M - M Kᵀ (K Kᵀ + λ I)⁻¹ K) / λ
    inner = torch.cholesky_solve(keys @ matrix.T, factor)
    return (matrix - inner.T @ keys) / damping
