"""The yardstick: the evidence of the contrast probe, with nothing reused.

Every exchange and every restoration runs whole rows through the whole model, once for every block
and once for none; every state is read through the head, also where two sites are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from jeep_core.models.token_rows import TokenRows, stack_rows
from jeep_core.models.views import ModelView, block_output, hooked, with_hidden
from jeep_core.probe.patching import NOISE, SEED, Pair, Patched
from jeep_core.probe.prompts import Prompt, batches
from jeep_core.probe.readings import ANSWERS, LENSES, Readings
from jeep_core.probe.states import POSITIONS, SITES, captured, run

LOGITS_TOGETHER = 2**24


@torch.no_grad()
def read_plain(view: ModelView, prompts: Sequence[Prompt]) -> Readings:
    """Both answers in every state of every prompt, as ``jeep_core.probe.readings.read``."""
    size = 1 + 3 * view.base.n_layers
    probability = torch.zeros(len(prompts), len(LENSES), len(ANSWERS), len(POSITIONS), size)
    rank = torch.zeros_like(probability)
    for chosen in batches([prompt.tokens for prompt in prompts]):
        batch = stack_rows([prompts[i].tokens for i in chosen], view.base.device)
        with captured(view, batch) as found:
            run(view, batch)
        sites = [found.embedding[:, :, None], *(found.site(site) for site in SITES)]
        states = torch.cat(sites, dim=2)
        tokens = torch.tensor([[prompts[i].original, prompts[i].target] for i in chosen])
        for lens, _ in enumerate(LENSES):
            normed = states if lens else view.base.family.final_norm_of(view.model)(states)
            p, r = _answers(view, normed, tokens.to(states.device))
            probability[chosen, lens], rank[chosen, lens] = p.cpu(), r.cpu()
    return Readings(probability, rank, None)


def _answers(
    view: ModelView, states: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probability and rank (r, answers, 2, S) of ``tokens`` (r, answers) in states (r, 2, S, d)."""
    r, positions, size, _ = states.shape
    per_row = tokens[:, None, None].expand(r, positions, size, tokens.shape[1]).flatten(0, 2)
    flat, found = states.flatten(0, 2), []
    step = max(1, LOGITS_TOGETHER // view.base.vocabulary)
    for start in range(0, len(flat), step):
        place = slice(start, start + step)
        logits = view.base.family.logits_of(view.model, flat[place]).float()
        own = logits.gather(1, per_row[place])
        p = (own - logits.logsumexp(dim=1, keepdim=True)).exp()
        above = [(logits > own[:, i, None]).sum(dim=1) for i in range(own.shape[1])]
        found.append(torch.stack([p, torch.stack(above, dim=1).float()]))
    both = torch.cat(found, dim=1).view(2, r, positions, size, -1).permute(0, 1, 4, 2, 3)
    return both[0], both[1]


@torch.no_grad()
def exchange_plain(view: ModelView, pairs: Sequence[Pair]) -> Patched:
    """The donor's state at one block after the other, as ``jeep_core.probe.patching.exchange``."""
    own = torch.zeros(len(pairs), view.base.n_layers + 1)
    other = torch.zeros_like(own)
    for chosen in batches([pair.prompt.tokens for pair in pairs]):
        some = [pairs[i] for i in chosen]
        rows = stack_rows([pair.prompt.tokens for pair in some], view.base.device)
        states = _subject_states(view, stack_rows([p.donor for p in some], view.base.device))
        tokens = torch.tensor([[p.prompt.original, p.answer] for p in some])
        found = torch.stack(
            [_probabilities(view, rows, tokens, layer, states) for layer in range(-1, len(states))]
        )
        own[chosen], other[chosen] = found[..., 0].T, found[..., 1].T
    return Patched(own[:, 1:], own[:, 0], other[:, 1:], other[:, 0])


@torch.no_grad()
def restoration_plain(view: ModelView, prompts: Sequence[Prompt], seed: int = SEED) -> Patched:
    """The clean state in a corrupted run, as ``jeep_core.probe.patching.restoration``."""
    own = torch.zeros(len(prompts), view.base.n_layers + 1)
    generator = torch.Generator().manual_seed(seed)
    ids = sorted({token for prompt in prompts for token in prompt.tokens.ids})
    embedded = view.model.get_input_embeddings()(torch.tensor(ids, device=view.base.device))
    scale = NOISE * float(embedded.float().std())
    for chosen in batches([prompt.tokens for prompt in prompts]):
        some = [prompts[i] for i in chosen]
        rows = stack_rows([prompt.tokens for prompt in some], view.base.device)
        states = _subject_states(view, rows)
        tokens = torch.tensor([[prompt.original] for prompt in some])
        first = torch.tensor([p.subject_first for p in some], device=view.base.device)
        with _noise(view, rows, first, scale, generator):
            found = [_probabilities(view, rows, tokens, i, states) for i in range(-1, len(states))]
        own[chosen] = torch.stack(found)[..., 0].T
    return Patched(own[:, 1:], own[:, 0])


def _subject_states(view: ModelView, rows: TokenRows) -> dict[int, torch.Tensor]:
    """Outputs of every block at the subject's last token (r, d)."""
    with captured(view, rows) as states:
        run(view, rows)
    return {layer: output[:, 0] for layer, output in states.outputs.items()}


def _probabilities(
    view: ModelView,
    rows: TokenRows,
    tokens: torch.Tensor,
    layer: int,
    states: dict[int, torch.Tensor],
) -> torch.Tensor:
    """P of ``tokens`` (r, k) as the next one, with block ``layer`` patched; -1: no block."""
    r = torch.arange(len(tokens), device=rows.ids.device)

    def put(module: Any, args: Any, output: Any) -> Any:
        hidden = block_output(output).clone()
        hidden[r, rows.subject_last] = states[layer]
        return with_hidden(output, hidden)

    block = view.base.family.layers_of(view.model)[max(layer, 0)]
    with nullcontext() if layer < 0 else hooked(block.register_forward_hook(put)):
        logits = view.base.family.logits_of(view.model, run(view, rows)).float().cpu()
    return logits.softmax(dim=1).gather(1, tokens)


@contextmanager
def _noise(
    view: ModelView,
    rows: TokenRows,
    first: torch.Tensor,
    scale: float,
    generator: torch.Generator,
) -> Iterator[None]:
    """Noise on the embeddings of the subject's tokens, the same in every run inside."""
    positions = torch.arange(rows.ids.shape[1], device=rows.ids.device)
    subject = (positions >= first[:, None]) & (positions <= rows.subject_last[:, None])
    noise = torch.randn(*rows.ids.shape, view.base.hidden_size, generator=generator)
    noise = scale * noise.to(rows.ids.device) * subject[..., None]

    def add(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return (output.float() + noise).to(output.dtype)

    with hooked(view.model.get_input_embeddings().register_forward_hook(add)):
        yield
