"""Second moments of all layers in one pass: ``python -m bench.library.moments``.

The yardstick takes one pass per layer, which ends at that layer's keys.  Both run the same
batches through the same code, so the ratio is what one pass for all saves.  The table also
has the ratio that the operation count allows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GPTJConfig, GPTJForCausalLM

import jeep_core
from bench.report import Row, table
from jeep_core import atlas
from jeep_core.models.loading import LoadedModel, texts_of, wrap
from jeep_core.moments.cache import Moments
from jeep_core.moments.reading import Documents
from jeep_core.moments.source import PANELS
from jeep_core.moments.sums import MomentSums, accumulate, padding_share

SAMPLES = 4_000
SHAPE = (12, 192, 768)


def run(repeats: int) -> list[Row]:
    """The random model of 12 layers and the bundled ones, all layers of each."""
    texts = texts_of(atlas.CORPUS)
    models = [random_model(*SHAPE), *map(jeep_core.load, atlas.MODELS)]
    return [measure(base, texts, repeats) for base in models]


def measure(base: LoadedModel, texts: Sequence[str], repeats: int) -> Row:
    """One model, all layers."""
    batches = Moments(base, texts, SAMPLES).batches()
    layers = range(base.n_layers)
    one_pass(base, batches[:2], layers)
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(seconds(lambda: one_pass(base, batches, layers)))
        theirs.append(seconds(lambda: [one_pass(base, batches, [layer]) for layer in layers]))
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    allowed = allowed_ratio(base, batches, layers)
    ratio = statistics.median(ratios)
    tokens = sum(len(row) for rows in batches for row in rows)
    note = (
        f"operation count allows {allowed:.2f} (reached: {ratio / allowed:.2f}), with whole "
        f"products {allowed_ratio(base, batches, layers, panels=1):.2f}; "
        f"{tokens} tokens, {len(batches)} batches, {padding_share(batches):.1%} padding"
    )
    return Row(
        what=f"second moments, {base.name}, {base.n_layers} layers, d_ff {base.mlp_size}",
        ours=statistics.median(ours),
        yardstick=statistics.median(theirs),
        unit="s",
        ratio=ratio,
        low=min(ratios),
        high=max(ratios),
        note=note,
    )


def one_pass(base: LoadedModel, batches: Sequence[Documents], layers: Sequence[int]) -> MomentSums:
    """Σ k kᵀ of these layers, the model run up to the last one's keys."""
    start = MomentSums(dict.fromkeys(layers, ""), {})
    return accumulate(base, batches, start, lambda sums: None)


def allowed_ratio(
    base: LoadedModel, batches: Sequence[Documents], layers: Sequence[int], panels: int = PANELS
) -> float:
    """Operations of one pass per layer over those of one pass for all."""
    runs = [operations(base, batches, [layer], panels) for layer in layers]
    return sum(runs) / operations(base, batches, layers, panels)


def operations(
    base: LoadedModel, batches: Sequence[Documents], layers: Sequence[int], panels: int = PANELS
) -> float:
    """Floating-point operations of one pass.

    Per token and block: 2 per weight of a projection and 4·t·d for attention over t tokens; the
    last block ends before its MLP output projection.  Per token and layer: the panels on and
    above the diagonal of k kᵀ, 2·d_ff²·(p+1)/2p for p panels.
    """
    block = base.family.layers_of(base.model)[0]
    weights = sum(p.numel() for p in block.parameters() if p.dim() == 2)
    hidden = base.model.config.hidden_size
    product = base.mlp_size**2 * (1 + 1 / panels)
    total = 0.0
    for rows in batches:
        width = len(rows[-1])
        blocks = (max(layers) + 1) * (2 * weights + 4 * width * hidden)
        blocks -= 2 * hidden * base.mlp_size
        total += len(rows) * width * blocks + sum(map(len, rows)) * len(layers) * product
    return total


def random_model(n_layers: int, hidden: int, d_ff: int) -> LoadedModel:
    """A GPT-J of this shape with random weights and the bundled tokenizer."""
    tokenizer = jeep_core.load("atlas-gptj").tokenizer
    config = GPTJConfig(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=256,
        n_embd=hidden,
        n_inner=d_ff,
        n_layer=n_layers,
        n_head=6,
        rotary_dim=16,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    model: Any = GPTJForCausalLM(config)
    return wrap(f"random GPT-J d {hidden}", model.eval().requires_grad_(False), tokenizer)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(table(run(args.repeats)))


if __name__ == "__main__":
    main()
