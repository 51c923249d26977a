"""Operations, and bytes of weights read, of every part of an edit.

Counted are matrix products: 2 operations a weight and token, and as many for the gradient of the
input, as weights have none.  Attention counts its two products over all tokens before.  Not
counted are element-wise work, launches of kernels, and the interpreter.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil

from jeep_core.moments.source import PANELS
from jeep_core.sizing.architecture import BYTES, Architecture
from jeep_core.sizing.demand import Editing, Settings, Workload, Written
from jeep_core.updates.operations import block_of, dense_form_operations, small_form_operations

PREFIX_TOKENS = 10
"""Tokens that are sampled for one prefix, without a cache."""
KL_TOKENS = 5
"""Tokens of the row of the KL term; it is read at one of them."""
PROBE_PASSES = 5
"""How often a quick probe reads the weights for a batch of prompts."""
ANSWER_TOKENS = 5
"""Tokens of a greedy answer by which a fact is measured, before and after."""
CORRECTIONS = 3
"""Corrections of a solution in float32, of a few: see ``updates/least_squares.py``."""
EIGEN_OPERATIONS = 9
"""Operations of an eigendecomposition, in units of n³."""


@dataclass(frozen=True)
class Work:
    """Operations by type of number, weights read, and bytes that are hashed and stored.

    ``matrix``: in the type of the weights; ``single``: float32; ``double``: float64.
    """

    matrix: float = 0
    single: float = 0
    double: float = 0
    read_bytes: float = 0
    stored_bytes: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def times(self, n: float) -> Work:
        """The same n times over."""
        return Work(*(n * getattr(self, f.name) for f in fields(self)))

    @property
    def operations(self) -> float:
        """All operations."""
        return self.matrix + self.single + self.double


def forward(arch: Architecture, tokens: float, blocks: float, context: float) -> float:
    """Operations of some blocks over tokens that attend to ``context`` tokens each."""
    return tokens * blocks * (2 * arch.block_weights + 4 * context * arch.queries)


def head(arch: Architecture, places: float) -> float:
    """Operations of the language head at some places."""
    return 2 * places * arch.d * arch.vocabulary


def value_pass(arch: Architecture, editing: Editing, load: Workload) -> float:
    """One forward and backward pass of value optimisation, for one fact."""
    upper, tokens, read = _upper(arch, editing), segment_tokens(editing, load), _read(editing, load)
    products = 2 * tokens * upper * arch.block_weights
    products -= 2 * (tokens - read) * arch.mlp_weights  # the last block's MLP
    # the rows of a fact are one line: scores are computed for all of them and masked
    context = editing.rows * (load.prefix + load.tokens)
    attention = 4 * tokens * upper * context * arch.queries
    return 2 * (products + head(arch, read)) + 3 * attention  # both factors have a gradient


def segment_tokens(editing: Editing, load: Workload) -> float:
    """Tokens of a fact that a pass runs: from subject-last on, and one of the KL row."""
    return editing.rows * load.segment + 1


def values(
    arch: Architecture, editing: Editing, load: Workload, settings: Settings, passes: float
) -> Work:
    """Value optimisation of all facts in ``passes`` passes each, capture included."""
    weight, facts = BYTES[settings.dtype], load.facts
    batches = ceil(facts / max(1, settings.together(facts)))
    if not editing.together:
        batches = facts
    below = forward(arch, editing.rows * load.tokens + KL_TOKENS, editing.low_last + 1, load.tokens)
    left = forward(arch, editing.rows * load.left + KL_TOKENS, _upper(arch, editing), load.tokens)
    captured = facts * (below + left) + _leading(arch, editing, load, arch.layers)
    upper = _upper(arch, editing) * arch.block_parameters + arch.vocabulary * arch.d
    reads = batches * (2 * passes * upper + 2 * arch.parameters) * weight
    ops = captured + facts * passes * value_pass(arch, editing, load)
    return Work(matrix=ops, read_bytes=reads)


def writing(arch: Architecture, editing: Editing, load: Workload, settings: Settings) -> Work:
    """Keys and states, the closed forms, and the new matrices, of all facts."""
    weight, work = BYTES[settings.dtype], Work()
    rounds, together = (load.facts, 1) if editing.one_by_one else (1, load.facts)
    for region in editing.regions:
        tokens = read_tokens(region, load)
        first, last = region.layers[0], region.layers[-1]
        # blocks that one row or another runs: up to the region once, then from layer to layer
        depth = float(editing.rows * first)
        mlp = arch.mlp_weights / arch.block_weights
        for layer in region.layers:
            depth += (last - layer + 1) - mlp  # states of the plain row; the last MLP at one place
            depth += (editing.rows - 1) * (1 - mlp)  # attention, for keys
            if layer < last:  # on with the new matrix: a new one of the MLP keeps the attention
                again = (editing.rows - 1) * mlp + arch.d * arch.d_ff / arch.block_weights
                depth += editing.rows if region.attention else again
        runs = forward(arch, together * tokens, depth, load.tokens)
        runs += _leading(arch, editing, load, last + 1)
        reads = depth / editing.rows * arch.block_parameters * weight
        key = arch.key_size(region.attention)
        per_matrix = _solve(key, together, load.earlier, arch.d, settings)
        # Δ for the new matrix, and again for its size
        per_matrix += Work(double=4 * together * arch.d * key, stored_bytes=arch.d * key * weight)
        work += Work(matrix=runs, read_bytes=reads) + per_matrix.times(len(region.layers))
    return work.times(rounds)


def read_tokens(region: Written, load: Workload) -> float:
    """Tokens of a row after its prefix, up to the one that is read."""
    return load.left + 1 if region.at_subject else load.tokens - load.answer + 1


def _solve(key: int, m: int, earlier: int, d: int, settings: Settings) -> Work:
    """One closed form; on a GPU with factors in float32 and corrections in float64."""
    block, blocks = block_of(key), Work()
    n = m + earlier
    if earlier >= block:  # half a block on average; whole ones are a part of the moment
        n = m + block // 2
        # a block's keys and its factor, spread over the edits until the next one
        added, factor = 2.0 * key**2 * m, key**3 / 3 * m / block
        cpu = settings.device == "cpu"
        blocks = Work(double=added + factor) if cpu else Work(double=added, single=factor)
    form = min(small_form_operations(key, m, n, m), dense_form_operations(key, m, n))
    if settings.device == "cpu":
        return Work(double=form) + blocks
    single, exact = form + CORRECTIONS * 2.0 * key**2 * m, CORRECTIONS * 2.0 * key**2 * m
    return Work(single=single, double=exact + CORRECTIONS * 4.0 * key * n * m) + blocks


def measuring(arch: Architecture, load: Workload, settings: Settings) -> Work:
    """The answers of all facts before and after, each with a few greedy tokens."""
    prompt, answer = load.tokens + load.answer, ANSWER_TOKENS
    ops = forward(arch, 2 * prompt + answer, arch.layers, prompt) + head(arch, answer + load.answer)
    batches = ceil(load.facts / 64)
    reads = batches * (answer + 2) * arch.parameters * BYTES[settings.dtype]
    return Work(matrix=load.facts * ops, read_bytes=reads).times(2)


def moments(arch: Architecture, editing: Editing, load: Workload, settings: Settings) -> Work:
    """Second moments of the layers that are written, over the text."""
    tokens, weight = load.text_tokens(arch.d_ff), BYTES[settings.dtype]
    matrices = editing.matrices
    passes = ceil(len(matrices) / (settings.layers_at_once or len(matrices)))
    blocks = editing.last + 1
    ops = forward(arch, tokens, blocks, 256) * passes
    sums = sum(arch.key_size(one) ** 2 for one in matrices) * (1 + 1 / PANELS)
    reads = passes * tokens / 4096 * blocks * arch.block_parameters * weight
    return Work(matrix=ops, single=tokens * sums, read_bytes=reads)


def factoring(arch: Architecture, editing: Editing, settings: Settings) -> Work:
    """The Cholesky factor, or the null space, of each second moment; once."""
    cubes = float(sum(arch.key_size(one) ** 3 for one in editing.matrices))
    if editing.null_space:
        return Work(double=EIGEN_OPERATIONS * cubes)
    return Work(double=cubes / 3) if settings.device == "cpu" else Work(single=cubes / 3)


def prefixes(arch: Architecture, editing: Editing, settings: Settings) -> Work:
    """Sampling the prefixes together, once per model: every token runs the whole text so far."""
    runs = (editing.rows - 1) * PREFIX_TOKENS
    ops = forward(arch, runs * (2 + PREFIX_TOKENS / 2), arch.layers, PREFIX_TOKENS)
    reads = PREFIX_TOKENS * arch.parameters * BYTES[settings.dtype]
    return Work(matrix=ops + head(arch, runs), read_bytes=reads)


def probing(arch: Architecture, load: Workload, settings: Settings, prompts: int) -> Work:
    """A quick probe: states read through the head, and an exchange for every block.

    Each prompt and its donor are asked and run once; an exchange enters at its own block, from
    the subject's last token on.
    """
    ops = forward(arch, 4 * load.tokens, arch.layers, load.tokens)
    exchanges = arch.layers * (arch.layers - 1) / 2
    ops += forward(arch, load.segment, exchanges, load.tokens)
    ops += head(arch, 2 + (1 + 2 * arch.layers) + arch.layers)
    batches = ceil(prompts * load.tokens / 4096)
    reads = batches * PROBE_PASSES * arch.parameters * BYTES[settings.dtype]
    return Work(matrix=prompts * ops, read_bytes=reads)


def _upper(arch: Architecture, editing: Editing) -> int:
    """Blocks that a value vector changes."""
    return arch.layers - editing.low_last - 1


def _read(editing: Editing, load: Workload) -> float:
    """Places of a fact at which the head is read."""
    return editing.rows * load.answer + 1


def _leading(arch: Architecture, editing: Editing, load: Workload, blocks: float) -> float:
    """The tokens that rows of a prefix share, run once for all facts; one fact shares nothing."""
    rows = (editing.rows - 1) * (load.facts if load.facts == 1 else 1)
    return forward(arch, rows * load.prefix, blocks, load.prefix)
