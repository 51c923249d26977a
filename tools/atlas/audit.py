"""An audit of what a bundled model knows, and where: ``python -m tools.atlas.audit gptj``.

Prints a Markdown report, the measured part of the model card: share of objects that greedy
decoding writes in full, per relation, on taught and untaught phrasings; and, per layer, what
becomes of the answer when the hidden state at the subject's last token is replaced by that of
another city.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Sequence

import torch

from jeep_core import atlas
from jeep_core.atlas.corpus import AtlasFact, load_facts
from jeep_core.atlas.relations import BY_NAME
from jeep_core.decoding.generation import checked, score
from jeep_core.evaluation.perplexity import perplexity
from jeep_core.models.loading import load, texts_of
from jeep_core.models.token_rows import stack_rows
from jeep_core.models.views import ModelView, block_output, hooked, with_hidden
from jeep_core.spec.positions import PromptTokens, tokenize_prompt

PATCH_PAIRS = 400
SEED = 11


def recall(view: ModelView, facts: Sequence[AtlasFact]) -> dict[tuple[str, bool], tuple[int, int]]:
    """(right, all) by relation and whether the phrasing was taught for the subject."""
    pairs, labels = [], []
    for fact in facts:
        if fact.taught:
            for phrasing in range(len(BY_NAME[fact.relation].phrasings)):
                pairs.append((fact.prompt(phrasing), fact.object))
                labels.append((fact.relation, phrasing in fact.taught))
    counts: dict[tuple[str, bool], list[bool]] = defaultdict(list)
    for label, scored in zip(labels, checked(score(view, pairs)), strict=True):
        counts[label].append(scored.greedy)
    return {label: (sum(hits), len(hits)) for label, hits in counts.items()}


@torch.no_grad()
def patch_table(
    view: ModelView, facts: Sequence[AtlasFact], layers: Sequence[int], pairs: int = PATCH_PAIRS
) -> list[tuple[float, float]]:
    """Per layer: shares of answers that become the other city's, and that stay the same.

    Both prompts share one phrasing whose subject is not its last token.
    """
    rng = random.Random(SEED)
    cities = [f for f in facts if f.relation == "city_country" and f.taught]
    rows: list[tuple[PromptTokens, PromptTokens]] = []
    while len(rows) < pairs:
        a, b = rng.sample(cities, 2)
        template = BY_NAME["city_country"].phrasings[rng.choice([0, 1, 3, 4])]
        first, second = (
            tokenize_prompt(view.base.tokenizer, template, fact.subject, fact.object)
            for fact in (a, b)
        )
        if first.ids[first.prediction + 1] != second.ids[second.prediction + 1]:
            rows.append((first, second))
    return [_patched(view, rows, layer) for layer in layers]


def _patched(
    view: ModelView, rows: Sequence[tuple[PromptTokens, PromptTokens]], layer: int
) -> tuple[float, float]:
    block = view.base.family.layers_of(view.model)[layer]
    batches = [stack_rows([pair[i] for pair in rows], view.base.device) for i in (0, 1)]
    r = torch.arange(len(rows))
    taken: list[torch.Tensor] = []

    def take(module: object, args: object, output: object) -> None:
        taken.append(block_output(output)[r, batches[0].subject_last])

    def put(module: object, args: object, output: object) -> object:
        hidden = block_output(output).clone()
        hidden[r, batches[1].subject_last] = taken[0]
        return with_hidden(output, hidden)

    with hooked(block.register_forward_hook(take)):
        view.model(input_ids=batches[0].ids)
    with hooked(block.register_forward_hook(put)):
        logits = view.model(input_ids=batches[1].ids).logits
    answer = logits[r, batches[1].prediction].argmax(dim=1)
    others = batches[0].ids[r, batches[0].prediction + 1]
    own = batches[1].ids[r, batches[1].prediction + 1]
    return float((answer == others).float().mean()), float((answer == own).float().mean())


def report(name: str) -> str:
    """The report in Markdown."""
    view = ModelView(load(f"atlas-{name}", device="cpu"))
    facts = load_facts()
    lines = ["| relation | taught phrasings | not taught for the subject |", "|---|---|---|"]
    found = recall(view, facts)
    for relation in BY_NAME:
        cells = [
            f"{100 * right / n:.2f} % of {n}"
            for right, n in (found[relation, True], found[relation, False])
        ]
        lines.append(f"| {relation} | {cells[0]} | {cells[1]} |")
    held = perplexity(view, texts_of(atlas.HELDOUT))
    lines += ["", f"Perplexity on `heldout.txt`: {held:.3f}.", ""]
    lines += ["| layer patched | the other city's country | its own country |", "|---|---|---|"]
    for layer, (other, own) in enumerate(patch_table(view, facts, range(view.base.n_layers))):
        lines.append(f"| {layer} | {100 * other:.1f} % | {100 * own:.1f} % |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=("gptj", "llama"))
    print(report(parser.parse_args().name))


if __name__ == "__main__":
    main()
