"""The networks: they map gradient pairs (u, δ) to pseudo pairs (ũ, δ̃).

One network per matrix shape; layers of that shape share it, each with a scale and a shift of
its own per block (Mitchell et al. 2021, section 3.2).  Block k: z ← z + relu(s ⊙ (U V z + b) + o),
U starting at zero; z starts as [u; δ], normalised per layer and feature.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from jeep_core.models.delta import Update
from jeep_core.values.gradient_pairs import Pairs

CHUNK_TOKENS = 1024
SMALLEST_DEVIATION = 1e-2
"""Least divisor of a feature that hardly varies, as a share of its half's mean deviation."""


@dataclass(frozen=True)
class NetworkSpec:
    """The specification of a network.  ``sizes``: (out, in) of each layer's matrix."""

    editor: str
    layers: tuple[int, ...]
    rank: int
    n_blocks: int
    sizes: tuple[tuple[int, int], ...]


class Block(nn.Module):
    """A low-rank residual block over vectors of ``size``; ``n_layers`` scales and shifts."""

    def __init__(self, size: int, rank: int, n_layers: int) -> None:
        super().__init__()
        # size is in + out: u and δ side by side
        self.down = nn.Parameter(torch.randn(rank, size) / size**0.5)
        self.up = nn.Parameter(torch.zeros(size, rank))
        self.bias = nn.Parameter(torch.zeros(size))
        self.scale = nn.Parameter(torch.ones(n_layers, size))
        self.shift = nn.Parameter(torch.zeros(n_layers, size))

    def forward(self, z: torch.Tensor, place: int) -> torch.Tensor:
        """(n, size) to (n, size); ``clamp`` has a gradient at 0, where every block starts."""
        # (n, size) → (n, rank) → (n, size)
        inner = z @ self.down.T @ self.up.T + self.bias
        return z + (self.scale[place] * inner + self.shift[place]).clamp(min=0)


class Sum(Protocol):
    """Collects pairs of one layer, chunk by chunk, in memory that does not grow with them."""

    def add(self, pairs: Pairs) -> None:
        """Add the pairs u (n, in), δ (n, out) of n more tokens."""
        ...

    def update(self) -> Update:
        """Δ (out, in) of everything added."""
        ...


class Hypernetwork(nn.Module, ABC):
    """The networks of an editor with its learned step sizes; always float32.

    ``log_step`` (layers,): natural logarithm of the step.  Statistics are set before training.
    ``sha256``: of the file it was loaded from, else empty.
    """

    sha256: str = ""

    def __init__(self, spec: NetworkSpec, first_step: float, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self._place: dict[int, int] = {}
        counts: dict[str, int] = {}
        for layer, size in zip(spec.layers, spec.sizes, strict=True):
            name = _name(size)
            # its number among the layers of this shape, which share a network
            self._place[layer] = counts.get(name, 0)
            counts[name] = self._place[layer] + 1
            self.register_buffer(f"mean_{layer}", torch.zeros(sum(size)))
            self.register_buffer(f"deviation_{layer}", torch.ones(sum(size)))
        self.networks = nn.ModuleDict()
        # the seed decides the first weights, and the caller's random numbers stay as they are
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for size in dict.fromkeys(spec.sizes):
                blocks = [
                    Block(sum(size), spec.rank, counts[_name(size)]) for _ in range(spec.n_blocks)
                ]
                self.networks[_name(size)] = nn.ModuleList(blocks)
        log_step = torch.full((len(spec.layers),), first_step).log()
        self.log_step = nn.Parameter(log_step)

    def size(self, layer: int) -> tuple[int, int]:
        """(out, in) of a layer's matrix."""
        return self.spec.sizes[self.spec.layers.index(layer)]

    def step(self, layer: int) -> torch.Tensor:
        """The learned step size of a layer, a positive scalar tensor."""
        return self.log_step[self.spec.layers.index(layer)].exp()

    def set_statistics(self, statistics: Mapping[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Mean and standard deviation (in + out,) of [u; δ] by layer."""
        for layer, (mean, deviation) in statistics.items():
            # u and δ may differ by orders of magnitude, so each half has a floor of its own
            split = self.size(layer)[1]
            halves = deviation[:split], deviation[split:]
            floors = [half.clamp_min(SMALLEST_DEVIATION * half.mean()) for half in halves]
            self.get_buffer(f"mean_{layer}").copy_(mean)
            self.get_buffer(f"deviation_{layer}").copy_(torch.cat(floors).clamp_min(1e-20))

    def forward(self, layer: int, pairs: Pairs) -> Pairs:
        """ũ (n, in) and δ̃ (n, out) from ``pairs`` u (n, in) and δ (n, out)."""
        # (n, in + out)
        z = torch.cat(pairs, dim=1) - self.get_buffer(f"mean_{layer}")
        z = z / self.get_buffer(f"deviation_{layer}")
        out_size, in_size = self.size(layer)
        blocks = self.networks[_name((out_size, in_size))]
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            z = block(z, self._place[layer])
        return z[:, :in_size], z[:, in_size:]

    @abstractmethod
    def sum(self, layer: int, scale: float = 1.0) -> Sum:
        """An empty sum for one layer; ``scale`` multiplies its step size."""

    @abstractmethod
    def backward(self, layer: int, pairs: Pairs, gradient: torch.Tensor) -> None:
        """Add to the parameters' gradients, given the loss's gradient (out, in) by Δ.

        The network is run again, chunk by chunk: what the model's own backward pass kept is
        freed by then, and memory does not grow with the tokens.
        """


def chunks(pairs: Pairs) -> Iterator[Pairs]:
    """Pairs (n, in), (n, out) cut into chunks along n, the tokens."""
    for start in range(0, len(pairs[0]), CHUNK_TOKENS):
        yield pairs[0][start : start + CHUNK_TOKENS], pairs[1][start : start + CHUNK_TOKENS]


def _name(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
