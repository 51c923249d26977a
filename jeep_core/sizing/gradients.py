"""Bytes and operations of the editors that follow gradients and optimise no values.

Those that tune (FT-WD, LocFT, CrispEdit) run mini-batches forward and backward in passes over all
facts; the others (UltraEdit, MEND, MALMEN) take the gradients of all facts once.  Blocks below the
lowest layer that is written have no backward pass, and those that tune run them once.
"""

from __future__ import annotations

from math import ceil

from jeep_core.editors.record import TRIED_ROWS, Following
from jeep_core.moments.source import BATCH_TOKENS, GRADIENT_TOKENS
from jeep_core.sizing.architecture import BYTES, Architecture
from jeep_core.sizing.demand import Editing, Settings, Workload
from jeep_core.sizing.operations import EIGEN_OPERATIONS, Work, forward, head, measuring, prefixes

SINGLE, DOUBLE = 4, 8
ADAM_COPIES = 4
"""A matrix that Adam moves is there four times in float32: itself, its gradient, both means."""
ADAM_READS = 10
"""How often a step of Adam reads or writes each of its numbers."""


def work_of(
    arch: Architecture, editing: Editing, load: Workload, settings: Settings, passes: float
) -> dict[str, Work]:
    """The work of every part of an edit, and of the first one."""
    follows = following(editing)
    parts: dict[str, Work] = {}
    if follows.projected:
        parts["second moments"] = moments(arch, editing, load, settings)
    if editing.rows > 1:
        parts["prefixes"] = prefixes(arch, editing, settings)
    if follows.tunes:
        parts["fine-tuning"] = tuning(arch, editing, load, settings, passes)
    else:
        parts["gradients"] = pairs(arch, editing, load, settings)
    parts["writing"] = writing(arch, editing, load, settings)
    return parts | {"measuring": measuring(arch, load, settings)}


def following(editing: Editing) -> Following:
    """How an editor follows gradients."""
    assert editing.follows is not None, f"{editing.editor} optimises values"
    return editing.follows


def row_tokens(editing: Editing, load: Workload) -> float:
    """Tokens of a row: its prefix, the prompt, and the answer with what ends it."""
    prefix = load.prefix * (editing.rows - 1) / editing.rows
    return prefix + load.tokens + 1 + following(editing).ends


def read_places(editing: Editing, load: Workload) -> float:
    """Places of a row at which a token of the answer is predicted."""
    return load.answer + following(editing).ends


def tuning(
    arch: Architecture, editing: Editing, load: Workload, settings: Settings, passes: float
) -> Work:
    """Passes of Adam over all facts, with the blocks below run once."""
    follows, weight = following(editing), BYTES[settings.dtype]
    tokens = load.facts * row_tokens(editing, load)
    first, layers, key = editing.first, editing.matrices, arch.d_ff
    upper = arch.layers - first
    entering = forward(arch, tokens, first + 1, load.tokens)
    # the backward pass ends at the lowest layer's output
    once = forward(arch, tokens, 2 * upper - 1, load.tokens)
    once += 2 * head(arch, load.facts * (read_places(editing, load) + 1))
    # Δ in float32: forward, by Δ, and by what comes in, but for the lowest
    shifts = 2 * tokens * arch.d * key * (3 * len(layers) - 1)
    steps = ceil(load.facts / follows.batch)
    projected = 4.0 * arch.d * key * (arch.d + key) * len(layers) if follows.projected else 0.0
    reads = 2 * (upper * arch.block_parameters + arch.vocabulary * arch.d) * weight
    moved = ADAM_READS * SINGLE * arch.d * key * len(layers)
    found = Work(matrix=once, single=shifts, read_bytes=steps * (reads + moved))
    found += Work(single=steps * projected)
    found = found.times(passes) + Work(matrix=entering, read_bytes=arch.parameters * weight)
    if follows.projected:
        size = float(arch.d**3 + key**3)
        found += Work(double=EIGEN_OPERATIONS * size * len(layers))
        found += pairs(arch, editing, load, settings)
    return found


def pairs(arch: Architecture, editing: Editing, load: Workload, settings: Settings) -> Work:
    """One pass forward and backward over all rows, and the network if there is one."""
    follows, weight = following(editing), BYTES[settings.dtype]
    rows = load.facts * editing.rows
    tokens = rows * row_tokens(editing, load)
    backward = arch.layers - editing.first - 1
    ops = forward(arch, tokens, arch.layers + backward, load.tokens)
    logits = head(arch, rows * (read_places(editing, load) + 1))
    ops += 2 * logits
    # one pass before a search, in which a try runs some of the rows from the lowest layer on
    before = min(follows.tries, 1)
    ops += before * (forward(arch, tokens, arch.layers, load.tokens) + logits)
    tried = follows.tries * min(rows, TRIED_ROWS) / rows
    ops += tried * (forward(arch, tokens, arch.layers - editing.first, load.tokens) + logits)
    reads = (2 + before + tried) * ceil(rows / follows.batch) * arch.parameters * weight
    block = 4.0 * (arch.d + arch.d_ff) * follows.rank
    network = _pairs_of(editing, load) * follows.blocks * block * len(editing.matrices)
    return Work(matrix=ops, single=network, read_bytes=reads)


def writing(arch: Architecture, editing: Editing, load: Workload, settings: Settings) -> Work:
    """The least-squares systems, and the new matrices."""
    n, key, d = _pairs_of(editing, load), arch.d_ff, arch.d
    stored = d * key * BYTES[settings.dtype]
    follows = following(editing)
    system = small = 0.0
    if follows.solves:
        # the smaller of the two Gram matrices, its factor, and the solution
        small, size = min(n, key), max(n, key)
        system = 2.0 * small**2 * size + small**3 / 3 + 2 * small**2 * size
    # Δ from its factors for the new matrix, and again for its size
    product = 0.0 if follows.tunes else 4.0 * d * key * min(n, key)
    return Work(double=system + product, stored_bytes=stored).times(len(editing.matrices))


def moments(arch: Architecture, editing: Editing, load: Workload, settings: Settings) -> Work:
    """Second moments of keys and of gradients over text, once per base model."""
    tokens, weight = load.text_tokens(arch.d_ff), BYTES[settings.dtype]
    learned = tokens * arch.d / arch.d_ff
    layers = len(editing.matrices)
    keys = forward(arch, tokens, editing.last + 1, GRADIENT_TOKENS)
    gradients = forward(arch, learned, 2 * arch.layers - editing.first - 1, GRADIENT_TOKENS)
    gradients += 2 * head(arch, learned)
    sums = layers * (tokens * arch.d_ff**2 + 2 * learned * arch.d**2)
    reads = tokens / BATCH_TOKENS * 2 * arch.parameters * weight
    return Work(matrix=keys + gradients, single=sums, read_bytes=reads)


def parts(
    arch: Architecture, editing: Editing, load: Workload, settings: Settings
) -> dict[str, float]:
    """Bytes that each part of an edit holds beside weights, versions and clients."""
    follows, weight, key, d = following(editing), BYTES[settings.dtype], arch.d_ff, arch.d
    layers = len(editing.matrices)
    rows = min(load.facts * editing.rows, follows.batch)
    running = rows * of_row(arch, editing, load, weight)
    n = _pairs_of(editing, load)
    matrix, held = 3.0 * DOUBLE * d * key, 0.0
    if follows.tunes:
        held += ADAM_COPIES * SINGLE * d * key * layers
        held += load.facts * row_tokens(editing, load) * d * weight  # as they enter
        if follows.projected:
            held += SINGLE * (key**2 + d**2 + 2 * d * key) * layers
        writing = held + matrix
    else:
        network = follows.blocks * 2 * (key + d) * follows.rank * SINGLE
        # pairs in float32, or what is solved of them in float64
        pair = SINGLE if follows.blocks else DOUBLE
        held += network + pair * n * (key + d) * layers
        small = min(n, float(key))
        system = 2 * small**2 + 3 * small * key + 3 * n * (key + d) if follows.solves else 0.0
        writing = held + max(matrix, DOUBLE * system)
    found = {"gradients": held + running, "writing": writing}
    if follows.projected:
        sums = 12 * (key**2 + d**2) * layers + 24 * key**2
        found["moments"] = sums + BATCH_TOKENS * (6 * d + 3 * key + 4 * arch.queries) * weight
        # eigenvectors and what finds them, before any fact is run
        found["gradients"] = max(found["gradients"], held + 4 * DOUBLE * key**2)
    return found


def moments_kept(arch: Architecture, editing: Editing, factor_bytes: int) -> int:
    """Second moments between two edits, within their bound."""
    if not following(editing).projected:
        return 0
    one = DOUBLE * (arch.d_ff**2 + arch.d**2)
    return max(one, min(factor_bytes, one * len(editing.matrices)))


def of_row(arch: Architecture, editing: Editing, load: Workload, weight: int) -> float:
    """The bytes that one row keeps for the backward pass, and those that pass by."""
    tokens = row_tokens(editing, load)
    passing = tokens * (3 * arch.d_ff + 6 * arch.d) * weight
    places = read_places(editing, load)
    # logits with their gradient, in float32 once more, and the softmax with its gradient
    logits = arch.vocabulary * (2 * (places + 1) * weight + 2 * SINGLE * places)
    return kept(arch, editing, load, weight) + passing + logits


def kept(arch: Architecture, editing: Editing, load: Workload, weight: int) -> float:
    """The bytes that the forward pass keeps of one row for the backward one.

    The model's weights have no gradients, so products with them keep nothing; those with what
    Adam moves keep their input.
    """
    contents, upper = arch.family.contents, arch.layers - editing.first - 1
    tokens = row_tokens(editing, load)
    norm = SINGLE if contents.float32_norms else weight
    attention = 4.0 * arch.queries * weight
    if contents.eager_attention:
        attention += 2 * arch.heads * tokens * SINGLE
    if contents.head_norms:
        attention += (arch.heads + arch.kv_heads) * arch.head_size * SINGLE
    block = contents.block_norms * arch.d * norm + attention
    block += contents.kept_activations * arch.d_ff * weight
    shifts = len(editing.matrices) * arch.d_ff * SINGLE * int(following(editing).tunes)
    capped = 1 if arch.family.soft_cap else 0
    words = (1 + capped) * SINGLE * arch.vocabulary * read_places(editing, load)
    return tokens * (upper * block + arch.d * norm + shifts) + words


def _pairs_of(editing: Editing, load: Workload) -> float:
    """Tokens of all facts that have a pair of input and gradient."""
    rows = load.facts * editing.rows
    if following(editing).every_token:
        return rows * (row_tokens(editing, load) - 1)
    return rows * read_places(editing, load)
