"""MEND (Mitchell et al. 2022, arXiv 2110.11309): Δ = -step · Σ δ̃ ũᵀ."""

from __future__ import annotations

import torch

from jeep_core.editors.networks.network import Hypernetwork, NetworkSpec, chunks
from jeep_core.models.delta import Update
from jeep_core.values.gradient_pairs import Pairs

FIRST_STEP = 1e-4


class MendNetwork(Hypernetwork):
    """Each token's pseudo pair is one rank of the update."""

    def __init__(self, spec: NetworkSpec, seed: int = 0) -> None:
        super().__init__(spec, FIRST_STEP, seed)

    def factors(self, layer: int, pairs: Pairs) -> Pairs:
        """ũ (n, in) and -step · δ̃ (n, out) from ``pairs`` u (n, in) and δ (n, out)."""
        u, delta = self(layer, pairs)
        # the sign makes it a descent step: Δ = Σ shift · ũᵀ
        return u, -self.step(layer) * delta

    def sum(self, layer: int, scale: float = 1.0) -> MendSum:
        """See the base class."""
        return MendSum(self, layer, scale)

    def backward(self, layer: int, pairs: Pairs, gradient: torch.Tensor) -> None:
        """As in the base class, for u (n, in), δ (n, out) and ``gradient`` (out, in).

        ⟨Δ, ``gradient``⟩ has the same gradient as the loss.
        """
        for chunk in chunks(pairs):
            u, shift = self.factors(layer, chunk)
            # u (n, in), shift (n, out), gradient (out, in): ⟨Δ, G⟩ = Σ over tokens of shift · G ũ
            (shift * (u @ gradient.T)).sum().backward()  # type: ignore[no-untyped-call]


class MendSum:
    """Factors while they are smaller than the matrix (out, in), then the matrix; float64."""

    def __init__(self, network: MendNetwork, layer: int, scale: float) -> None:
        self._network, self._layer, self._scale = network, layer, scale
        self._factors: list[Pairs] = []
        self._tokens = 0
        self._dense: torch.Tensor | None = None

    @torch.no_grad()
    def add(self, pairs: Pairs) -> None:
        """Add the pairs u (n, in), δ (n, out) of n more tokens."""
        for chunk in chunks(pairs):
            u, shift = self._network.factors(self._layer, chunk)
            self._factors.append((u, self._scale * shift))
            self._tokens += len(u)
        out_size, in_size = self._network.size(self._layer)
        if self._dense is not None or self._tokens * (out_size + in_size) >= out_size * in_size:
            # as many numbers in factors as in the matrix: from here on memory stays the same
            left, right = self._joined()
            product = left @ right.T
            self._dense = product if self._dense is None else self._dense + product
            self._factors = []

    def _joined(self) -> tuple[torch.Tensor, torch.Tensor]:
        # (n, in); returned are (out, n) and (in, n), a column per token
        right = torch.cat([u for u, _ in self._factors]).double()
        return torch.cat([shift for _, shift in self._factors]).double().T, right.T

    def update(self) -> Update:
        """Δ (out, in) of everything added, float32."""
        if self._dense is not None:
            return Update(dense=self._dense.float().contiguous())
        return Update.of(*self._joined())
