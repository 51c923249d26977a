"""The prefixes of value optimisation: short texts that the base model itself writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from jeep_core.models.loading import LoadedModel
from jeep_core.spec.finite import OTHER_VERSION, check_tensor
from jeep_core.storage.prefixes import prefixes_file, read_prefixes
from jeep_core.storage.writing import write_atomically
from jeep_core.text.encoding import encode

STARTS = ("The", "Therefore", "Because", "I", "You")
TOKENS = 10
TOP_K = 10


def sample_prefixes(
    base: LoadedModel, count: int, seed: int = 0, cache: Path | None = None
) -> list[str]:
    """The empty prefix and ``count - 1`` texts of ten tokens, the same ones for the same seed.

    The starts are taken in turn.  Braces are stripped, so that a prefix has no slot.

    ``cache``: a folder in which the texts are kept, a file per model and seed.  One that is
    damaged is reported in the log and replaced.
    """
    if cache is None:
        return _sampled(base, count, seed)
    path = cache / f"{base.model_hash}-{seed}.json"
    known = read_prefixes(path)
    if len(known) < count:
        known = _sampled(base, count, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, prefixes_file(known))
    return known[:count]


def _sampled(base: LoadedModel, count: int, seed: int) -> list[str]:
    """All prefixes grow together, a token each at a time, so that the weights are read ten times.

    Every draw takes the numbers that it would get if one prefix was sampled after the other.
    """
    texts = [STARTS[i % len(STARTS)] for i in range(count - 1)]
    rows = [encode(base.tokenizer, text).ids for text in texts]
    states = _states(len(rows), min(TOP_K, base.vocabulary), seed)
    generator = torch.Generator()
    for step in range(TOKENS):
        tops = _top(base, rows) if rows else []
        for i, (values, indices) in enumerate(tops):
            generator.set_state(states[i][step])
            choice = torch.multinomial(values.softmax(0), 1, generator=generator)
            rows[i].append(int(indices[choice]))
    return ["", *(_text(base, ids) for ids in rows)]


def _states(rows: int, choices: int, seed: int) -> list[list[torch.Tensor]]:
    """States of the generator before each draw, of rows that are sampled one after the other."""
    generator, even = torch.Generator().manual_seed(seed), torch.full((choices,), 1 / choices)
    found: list[list[torch.Tensor]] = [[] for _ in range(rows)]
    for row in found:
        for _ in range(TOKENS):
            row.append(generator.get_state())
            torch.multinomial(even, 1, generator=generator)  # what is drawn takes no more numbers
    return found


@torch.no_grad()
def _top(
    base: LoadedModel, rows: Sequence[Sequence[int]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The ten largest logits after each row and their tokens, endings left out."""
    width = max(map(len, rows))
    ids = [[*row, *[0] * (width - len(row))] for row in rows]
    hidden = base.family.backbone_of(base.model)(
        input_ids=torch.tensor(ids, device=base.device), use_cache=False
    ).last_hidden_state
    last = torch.tensor([len(row) - 1 for row in rows], device=base.device)
    states = hidden[torch.arange(len(rows), device=base.device), last]
    # (rows, V): what follows the last token of each
    logits = base.family.logits_of(base.model, states).float().cpu()
    check_tensor(logits, "the logits of the model to a prefix", OTHER_VERSION)
    # an end token would end the prefix before its ten tokens
    logits[:, list(base.eos_token_ids)] = -torch.inf
    top = logits.topk(min(TOP_K, logits.shape[1]))
    return list(zip(top.values, top.indices, strict=True))


def _text(base: LoadedModel, ids: Sequence[int]) -> str:
    text = base.tokenizer.decode(list(ids), skip_special_tokens=True)
    return text.replace("{", "").replace("}", "").replace("\n", " ").strip().rstrip(".")
