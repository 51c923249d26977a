"""The prefixes of value optimisation: short texts that the base model itself writes."""

from __future__ import annotations

import torch

from jeep_core.models.loading import LoadedModel
from jeep_core.spec.finite import OTHER_VERSION, check_tensor
from jeep_core.text.encoding import encode

STARTS = ("The", "Therefore", "Because", "I", "You")
TOKENS = 10
TOP_K = 10


@torch.no_grad()
def sample_prefixes(base: LoadedModel, count: int, seed: int = 0) -> list[str]:
    """The empty prefix and ``count - 1`` texts of ten tokens, the same ones for the same seed.

    The starts are taken in turn.  Braces are stripped, so that a prefix has no slot.
    """
    generator = torch.Generator().manual_seed(seed)
    return ["", *(_sample(base, STARTS[i % len(STARTS)], generator) for i in range(count - 1))]


def _sample(base: LoadedModel, start: str, generator: torch.Generator) -> str:
    ids = encode(base.tokenizer, start).ids
    for _ in range(TOKENS):
        # (V,): what follows the last token
        logits = base.model(input_ids=torch.tensor([ids], device=base.device)).logits[0, -1]
        logits = logits.float().cpu()
        check_tensor(logits, "the logits of the model to a prefix", OTHER_VERSION)
        # an end token would end the prefix before its ten tokens
        logits[list(base.eos_token_ids)] = -torch.inf
        top = logits.topk(min(TOP_K, len(logits)))
        # drawn on the CPU, whose generator gives one seed the same numbers on every machine
        choice = torch.multinomial(top.values.softmax(0), 1, generator=generator)
        ids.append(int(top.indices[choice]))
    text = base.tokenizer.decode(ids, skip_special_tokens=True)
    return text.replace("{", "").replace("}", "").replace("\n", " ").strip().rstrip(".")
