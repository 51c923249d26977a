"""Bytes on the device: what is always there, and what the parts of an edit need beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jeep_core.moments.source import BATCH_TOKENS
from jeep_core.sizing import gradients
from jeep_core.sizing.architecture import BYTES, Architecture
from jeep_core.sizing.copies import copies
from jeep_core.sizing.demand import Editing, Settings, Workload, Written
from jeep_core.sizing.operations import KL_TOKENS, read_tokens, segment_tokens
from jeep_core.updates.operations import block_of, dense_form_operations, small_form_operations
from jeep_core.values.defaults import READ_ROWS

SINGLE, DOUBLE = 4, 8
MAKING_A_FACTOR = {"cpu": 20, "cuda": 12}
"""Bytes for each of d_ff² numbers while a factor is made: moment, its copy, and the factor."""
SUMMED = {"cpu": 16, "cuda": 12}
"""The same while a moment has blocks of kept keys in it: the sum in float64, and its factor."""
SUMMING = 12
"""Bytes for each of d_ff² numbers while sums are taken: a float32 block, the float64 total …"""
ENDING_A_SUM = 24
"""… and three float64 copies when the total of one layer is made whole."""
PREFILL_TOKENS = 2048


@dataclass(frozen=True)
class Need:
    """Bytes: ``weights``, ``versions`` beside them, ``decoding`` for all clients, ``copies`` in
    bfloat16 that are kept for the next edit, and by part of an edit what it needs beside these."""

    weights: int
    versions: int
    decoding: int
    parts: Mapping[str, int]
    moments_apart: bool = False
    copies: int = 0

    @property
    def standing(self) -> int:
        """The bytes that a service holds while it waits for work."""
        return self.weights + self.versions + self.decoding + self.copies

    @property
    def peaks(self) -> dict[str, int]:
        """The most that is held during each part."""
        apart = {"moments"} if self.moments_apart else set()
        return {
            name: (self.weights if name in apart else self.standing) + size
            for name, size in self.parts.items()
            if size
        }

    @property
    def total(self) -> int:
        """The most that is held at any time."""
        return max(self.peaks.values(), default=self.standing)


def need(arch: Architecture, editing: Editing, load: Workload, settings: Settings) -> Need:
    """The bytes that a service of this model needs for such an edit, the first one included."""
    if editing.follows is not None:
        sizes = gradients.parts(arch, editing, load, settings)
        kept = gradients.moments_kept(arch, editing, settings.factor_bytes)
    else:
        kept = factors_kept(arch, editing, load, settings)
        sizes = {
            "moments": moments(arch, editing, settings),
            "values": values(arch, editing, load, settings),
            "writing": writing(arch, editing, load, settings),
        }
    sums = sizes.pop("moments", 0.0)
    sizes = {name: kept + size for name, size in sizes.items()}
    sizes = {"moments": 0.0 if settings.on_cpu else sums, **sizes}
    return put_together(arch, arch, editing, load, settings, sizes, arch.parameters)


def put_together(
    arch: Architecture,
    whole: Architecture,
    editing: Editing,
    load: Workload,
    settings: Settings,
    sizes: Mapping[str, float],
    parameters: int,
) -> Need:
    """All bytes of a part ``arch`` of the model ``whole``, with so many ``parameters``.

    ``sizes``: of the parts of an edit beside the matrices that it writes and copies in bfloat16.
    """
    weight = BYTES[settings.dtype]
    numbers = sum(arch.d * arch.key_size(one) for one in editing.matrices)
    rounded = copies(arch, whole, editing, load, settings, numbers)
    more = {"moments": rounded.moments if sizes["moments"] else 0}
    return Need(
        weights=parameters * weight,
        versions=settings.versions * numbers * weight,
        decoding=decoding(arch, load, weight),
        parts={
            name: round(size + more.get(name, numbers * weight + rounded.editing))
            for name, size in sizes.items()
        },
        moments_apart=settings.layers_at_once is not None,
        copies=rounded.kept,
    )


def decoding(arch: Architecture, load: Workload, weight: int) -> int:
    """Keys and values of all clients, the logits of a step, and a prompt that joins."""
    if not load.clients:
        return 0
    kept = load.clients * load.context * arch.kv_bytes(weight)
    joining = min(PREFILL_TOKENS, load.context) * (3 * arch.d_ff + 6 * arch.d) * weight
    return kept + load.clients * arch.vocabulary * (weight + 3 * SINGLE) + joining


def moments(arch: Architecture, editing: Editing, settings: Settings) -> float:
    """Sums of the layers of one pass, and the activations of one batch of text."""
    if settings.layers_at_once == 0:
        return 0.0
    sizes = sorted((arch.key_size(one) ** 2 for one in editing.matrices), reverse=True)
    sums = SUMMING * sum(sizes[: settings.layers_at_once or len(sizes)])
    weight = BYTES[settings.dtype]
    states = (6 * arch.d + 3 * arch.d_ff + 4 * arch.queries) * weight + SINGLE * arch.d_ff
    return sums + ENDING_A_SUM * max(sizes, default=0) + BATCH_TOKENS * states


def factors_kept(arch: Architecture, editing: Editing, load: Workload, settings: Settings) -> int:
    """Second moments with their factors between two edits, within their bound.

    With a block of kept keys in it, a moment is there beside its factor.
    """
    summed = SUMMED[settings.device]
    if editing.follows is not None:
        return gradients.moments_kept(arch, editing, settings.factor_bytes)
    keys = [arch.key_size(one) for one in editing.matrices]
    sizes = [(DOUBLE if load.earlier < block_of(key) else summed) * key**2 for key in keys]
    return max(max(sizes, default=0), min(settings.factor_bytes, sum(sizes)))


def writing(arch: Architecture, editing: Editing, load: Workload, settings: Settings) -> float:
    """Beside the kept factors: one that is made, or the system, or float64 matrices; and rows."""
    key = max((arch.key_size(one) for one in editing.matrices), default=0)
    if not key:
        return 0.0
    m = 1 if editing.one_by_one else load.facts
    n = m + min(load.earlier, block_of(key) - 1)  # whole blocks are a part of the moment
    making = (MAKING_A_FACTOR[settings.device] - DOUBLE) * key**2
    if editing.null_space:
        making = 3 * DOUBLE * key**2  # eigenvectors and what finds them
    small = small_form_operations(key, m, n, m) < dense_form_operations(key, m, n)
    system = DOUBLE * (key * (4 * n + 3 * m) + 2 * n**2 if small else 2 * key**2 + 2 * key * n)
    matrix = 3 * DOUBLE * arch.d * key
    updates = SINGLE * m * (arch.d + 2 * key) * len(editing.matrices)
    read = max(reading(arch, editing, region, load, settings) for region in editing.regions)
    kept = max(rows_kept(arch, editing, region, load, settings) for region in editing.regions)
    return max(making + kept, system + kept, matrix + kept, read) + updates


def rows_kept(
    arch: Architecture, editing: Editing, region: Written, load: Workload, settings: Settings
) -> float:
    """The bytes that are kept of all rows of all facts until a region is written.

    They are, within the bound on them, the states that enter the block that is read, what its
    attention gave and, of the rows without a prefix, its keys; and masks.
    """
    weight, tokens, rows = BYTES[settings.dtype], read_tokens(region, load), _rows(editing, load)
    plain = arch.d_ff / editing.rows
    of_block = 0 if region.attention else arch.d + (plain if len(region.layers) > 1 else 0)
    states = rows * tokens * (arch.d + of_block) * weight
    if settings.edit_bytes is not None:
        states = min(states, settings.edit_bytes)
    return states + rows * tokens * (load.prefix + tokens) * weight


def reading(
    arch: Architecture, editing: Editing, region: Written, load: Workload, settings: Settings
) -> float:
    """The most while a layer is read: these, the keys of all rows as they are put in order, and the
    activations of a batch of rows with the keys and values before them.
    """
    weight, tokens, rows = BYTES[settings.dtype], read_tokens(region, load), _rows(editing, load)
    keys = 2 * SINGLE * rows * arch.key_size(region.attention)
    # the first read climbs from the embedding to the first layer, a later one to the next
    blocks = max(region.layers[0], len(region.layers))
    given = load.prefix * blocks * 2 * arch.kv_heads * arch.head_size
    batch = min(rows, READ_ROWS) * (tokens * (3 * arch.d_ff + 6 * arch.d) + given) * weight
    return rows_kept(arch, editing, region, load, settings) + keys + batch


def _rows(editing: Editing, load: Workload) -> int:
    """Rows of the facts that are written together."""
    return editing.rows * (1 if editing.one_by_one else load.facts)


def values(arch: Architecture, editing: Editing, load: Workload, settings: Settings) -> float:
    """The bytes that value optimisation holds for the facts that are optimised together."""
    together = settings.together(load.facts) if editing.together else 1
    one = of_fact(arch, editing, load, BYTES[settings.dtype])
    if settings.edit_bytes is None:
        return together * one
    return max(one, min(together * one, settings.edit_bytes))


def of_fact(arch: Architecture, editing: Editing, load: Workload, weight: int) -> float:
    """All that value optimisation holds for one fact."""
    return (
        kept_for_gradients(arch, editing, load, weight)
        + left_of_subject(arch, editing, load, weight)
        + passing(arch, editing, load, weight)
    )


def kept_for_gradients(arch: Architecture, editing: Editing, load: Workload, weight: int) -> float:
    """The bytes that the forward pass keeps for the backward one, for one fact.

    Weights have no gradients, so products keep nothing; norms, attention and activations do.
    """
    contents, upper = arch.family.contents, arch.layers - editing.low_last - 1
    tokens, read = segment_tokens(editing, load), editing.rows * load.answer + 1
    norm = SINGLE if contents.float32_norms else weight
    block = contents.block_norms * arch.d * norm + attention_kept(arch, editing, load, weight)
    mlp = contents.kept_activations * arch.d_ff * weight
    kept = upper * tokens * block + ((upper - 1) * tokens + read) * mlp
    capped = 1 if arch.family.soft_cap else 0
    words = SINGLE * arch.vocabulary
    logits = editing.rows * load.answer * words * (1 + capped) + words * (3 + capped)
    mask = tokens * line_tokens(editing, load) * weight
    return kept + tokens * arch.d * norm + logits + mask


def attention_kept(arch: Architecture, editing: Editing, load: Workload, weight: int) -> float:
    """Of one token in one block: queries, outputs, and its share of all keys and values."""
    contents = arch.family.contents
    # the rows of a fact and its KL row are one line
    line = line_tokens(editing, load)
    keys = 2 * arch.queries * line / segment_tokens(editing, load)
    kept = (2 * arch.queries + keys) * weight
    if contents.eager_attention:
        # a token has a probability for every token of its line, those of other rows are 0
        kept += 2 * arch.heads * line * SINGLE
    if contents.head_norms:
        kept += (arch.heads + arch.kv_heads) * arch.head_size * SINGLE
    return kept


def line_tokens(editing: Editing, load: Workload) -> float:
    """Tokens of a fact's line: of all its rows and its KL row, prefixes included."""
    return editing.rows * (load.prefix + load.tokens) + KL_TOKENS


def left_of_subject(arch: Architecture, editing: Editing, load: Workload, weight: int) -> float:
    """Keys and values of the upper blocks left of the subject's last token, of one fact."""
    tokens = editing.rows * (load.prefix + load.left) + KL_TOKENS
    upper = arch.layers - editing.low_last - 1
    return tokens * upper * 2 * arch.kv_heads * arch.head_size * weight


def passing(arch: Architecture, editing: Editing, load: Workload, weight: int) -> float:
    """The bytes that come and go within a pass: gradients of one block, and of the logits."""
    tokens = segment_tokens(editing, load)
    block = tokens * (3 * arch.d_ff + 6 * arch.d) * weight
    logits = editing.rows * load.answer * arch.vocabulary * (weight + SINGLE)
    return block + logits + 2 * SINGLE * arch.vocabulary
