"""The expected cost of 10,000 edits on one H100, from operation and byte counts.

An estimate, not a measurement: ``python -m bench.library.estimate``.  Counted are the matrix
products of this implementation; assumed are the token counts below, the passes per fact, and the
share of the peak that matrix products of this size reach.
"""

from __future__ import annotations

from dataclasses import dataclass

FACTS = 10_000
ROWS = 6
PREFIX_TOKENS = 13
"""Ten sampled tokens, the start, and the tokens that join them to the prompt."""
LEFT_TOKENS, SEGMENT_TOKENS, TARGET_TOKENS = 4, 7, 1
"""Of a CounterFact prompt: left of subject-last, from there on, and of these with a target."""
CORPUS_TOKENS = 100_000 * 500
PEAK_FLOPS, PEAK_BYTES = 989e12, 3.35e12
"""H100 SXM: dense bfloat16/float16, and memory."""
PEAK_FLOPS_64 = 67e12
SHARES = (0.25, 0.5)
PASSES = (15, 30)


@dataclass(frozen=True)
class Shape:
    """A model: sizes, edited layers, and the paper's figure for 10,000 edits, in hours."""

    name: str
    layers: int
    d: int
    d_ff: int
    mlp_matrices: int
    vocabulary: int
    low: tuple[int, ...]
    high: tuple[int, ...]
    paper_hours: float

    @property
    def block(self) -> int:
        """Parameters of the matrices of one block."""
        return 4 * self.d**2 + self.mlp_matrices * self.d * self.d_ff


SHAPES = (
    Shape("GPT-J-6B", 28, 4096, 16384, 2, 50400, (3, 4, 5, 6, 7, 8), (15, 16), 3.3),
    Shape("LLaMA-7B", 32, 4096, 11008, 3, 32000, (5, 6, 7, 8, 9, 10), (22, 23, 24), 3.6),
)


def pass_flops(shape: Shape) -> float:
    """One forward and backward pass of one fact: blocks above L', and the head."""
    upper = shape.layers - shape.low[-1] - 1
    tokens = ROWS * SEGMENT_TOKENS + 1
    head = (ROWS * TARGET_TOKENS + 1) * shape.d * shape.vocabulary
    return 4 * (tokens * upper * shape.block + head)


def once_flops(shape: Shape) -> float:
    """Per fact once: capture, and keys and states for every layer written."""
    tokens = ROWS * (LEFT_TOKENS + SEGMENT_TOKENS)
    capture = 2 * tokens * shape.layers * shape.block
    depth = sum(shape.low) + sum(shape.high) + len(shape.low) + len(shape.high)
    return capture + 2 * tokens * depth * shape.block


def solve_flops(shape: Shape) -> float:
    """All layers, m = 10,000: the d_ff×d_ff sum, its factor, the two triangular solves."""
    layers = len(shape.low) + len(shape.high)
    per_layer = FACTS * shape.d_ff**2 + shape.d_ff**3 / 3 + 2 * FACTS * shape.d_ff**2
    return layers * (per_layer + 2 * FACTS * shape.d * shape.d_ff)


def moment_flops(shape: Shape) -> float:
    """One pass over the corpus up to the last edited layer, and k kᵀ of every layer."""
    layers = len(shape.low) + len(shape.high)
    forward = 2 * (shape.high[-1] + 1) * shape.block
    return CORPUS_TOKENS * (forward + 2 * layers * shape.d_ff**2)


def pass_bytes(shape: Shape) -> float:
    """Weights read by one pass over a batch, forward and backward, in 16 bits."""
    upper = shape.layers - shape.low[-1] - 1
    return 2 * 2 * upper * shape.block


def main() -> None:
    lines = [
        "| model | values | keys, states | solve (float64) | 10,000 edits | the paper, A100 "
        "| second moments, once |",
        "|---|---|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        best, worst = (
            FACTS * passes * pass_flops(shape) / (share * PEAK_FLOPS)
            for passes, share in zip(PASSES, reversed(SHARES), strict=True)
        )
        once = [FACTS * once_flops(shape) / (share * PEAK_FLOPS) for share in reversed(SHARES)]
        solve = [solve_flops(shape) / (share * PEAK_FLOPS_64) for share in reversed(SHARES)]
        moments = [moment_flops(shape) / (share * PEAK_FLOPS) for share in reversed(SHARES)]
        total = [best + once[0] + solve[0], worst + once[1] + solve[1]]
        lines.append(
            f"| {shape.name} | {best / 60:.0f}–{worst / 60:.0f} min "
            f"| {once[0] / 60:.0f}–{once[1] / 60:.0f} min | {solve[0]:.0f}–{solve[1]:.0f} s "
            f"| **{total[0] / 3600:.2f}–{total[1] / 3600:.2f} h** | {shape.paper_hours} h "
            f"| {moments[0] / 3600:.1f}–{moments[1] / 3600:.1f} h |"
        )
    print("\n".join(lines))
    for shape in SHAPES:
        batch = pass_bytes(shape) / PEAK_BYTES / (pass_flops(shape) / (SHARES[1] * PEAK_FLOPS))
        print(f"\n{shape.name}: from {batch:.0f} facts a batch on, products outlast weight reads.")


if __name__ == "__main__":
    main()
