"""State patching: what the state at the subject's last token decides, layer by layer.

Both ways put one state, the output of block l at the subject's last token, into another run:

- *exchange*: the state of the same sentence about another subject.  Where the answer goes on
  depending on that state, the own answer becomes less probable and the other subject's more; it
  stops doing so once attention has read the state.
- *restoration* (causal tracing, Meng et al. 2022a): the run has noise of three standard
  deviations of the embeddings on all tokens of its subject, and gets back the clean state.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from jeep_core.models.token_rows import TokenRows, stack_rows
from jeep_core.models.views import ModelView, block_output, hooked, with_hidden
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.probe.bands import band
from jeep_core.probe.prompts import Prompt, answers, batches
from jeep_core.probe.states import captured, run
from jeep_core.spec.finite import OTHER_VERSION, check_tensor
from jeep_core.spec.positions import PromptTokens, TokenizationError, tokenize_prompt

SEED = 0
NOISE = 3.0


@dataclass(frozen=True)
class Pair:
    """A prompt and the same sentence about another subject; ``answer`` is the model's to it."""

    prompt: Prompt
    donor: PromptTokens
    answer: int


@dataclass(frozen=True)
class Patched:
    """Probabilities (n, L) with the patch at each block, and (n,) without it.

    ``own``: of the original answer, ``other``: of the donor's.  In a restoration ``own_before``
    is that of the corrupted run, and there is no other answer.
    """

    own: torch.Tensor
    own_before: torch.Tensor
    other: torch.Tensor | None = None
    other_before: torch.Tensor | None = None

    @property
    def effect(self) -> torch.Tensor:
        """By how much the patch moves the original answer (n, L): down in an exchange."""
        moved = self.own - self.own_before[:, None]
        return -moved if self.other is not None else moved

    @property
    def carried(self) -> torch.Tensor:
        """By how much an exchange makes the donor's answer more probable (n, L)."""
        assert self.other is not None
        assert self.other_before is not None
        return self.other - self.other_before[:, None]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        found = {
            "prompts": len(self.own),
            "original_before": float(self.own_before.mean()),
            "original": band(self.own).record(),
            "effect": band(self.effect).record(),
        }
        if self.other is not None:
            found |= {"donor": band(self.other).record(), "carried": band(self.carried).record()}
        return found


def pairs(view: ModelView, prompts: Sequence[Prompt], seed: int = SEED) -> list[Pair]:
    """A donor for every prompt, drawn from those of the same template with another answer.

    Where there is none, any other subject is drawn.  Left out are prompts to which both
    subjects have the same answer.
    """
    rng = random.Random(seed)
    by_template: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        by_template[prompt.fact.prompt].append(prompt)
    drawn = []
    for prompt in prompts:
        # prompts of the same template first, then all
        for pool in (by_template[prompt.fact.prompt], prompts):
            others = [
                p
                for p in pool
                if p.original != prompt.original and p.fact.subject != prompt.fact.subject
            ]
            if others:
                subject = rng.choice(others).fact.subject
                try:
                    row = tokenize_prompt(view.base.tokenizer, prompt.fact.prompt, subject)
                except TokenizationError:
                    break
                if len(row.ids) <= view.base.max_positions:
                    drawn.append((prompt, row))
                break
    # (rows,): the token that the model says next
    said = answers(view, [row for _, row in drawn])
    found = [Pair(prompt, row, answer) for (prompt, row), answer in zip(drawn, said, strict=True)]
    return [pair for pair in found if pair.answer != pair.prompt.original]


@torch.no_grad()
def exchange(
    view: ModelView,
    pairs: Sequence[Pair],
    monitor: Monitor = NOTHING,
) -> Patched:
    """Put the donor's state into the prompt's run, at one block after the other.

    Raises:
        Whatever ``monitor.check`` raises.
    """
    # (n, 1 + L): first the run without a patch, then one with each block patched
    own = torch.zeros(len(pairs), view.base.n_layers + 1)
    other = torch.zeros_like(own)
    done = 0
    for chosen in batches([pair.prompt.tokens for pair in pairs]):
        monitor.check()
        some = [pairs[i] for i in chosen]
        rows = stack_rows([pair.prompt.tokens for pair in some], view.base.device)
        states = _subject_states(view, stack_rows([p.donor for p in some], view.base.device))
        # (r, 2)
        tokens = torch.tensor([[p.prompt.original, p.answer] for p in some])
        # (1 + L, r, 2)
        found = torch.stack(
            [_probabilities(view, rows, tokens, layer, states) for layer in range(-1, len(states))]
        )
        own[chosen], other[chosen] = found[..., 0].T, found[..., 1].T
        done += len(chosen)
        monitor.report("exchange", done, len(pairs))
    return Patched(own[:, 1:], own[:, 0], other[:, 1:], other[:, 0])


@torch.no_grad()
def restoration(
    view: ModelView,
    prompts: Sequence[Prompt],
    monitor: Monitor = NOTHING,
    seed: int = SEED,
) -> Patched:
    """Put the clean state into a run whose subject is corrupted, at one block after the other.

    Raises:
        Whatever ``monitor.check`` raises.
    """
    # as in ``exchange``; column 0 is the corrupted run
    own = torch.zeros(len(prompts), view.base.n_layers + 1)
    generator = torch.Generator().manual_seed(seed)
    scale = NOISE * _spread(view, prompts)
    done = 0
    for chosen in batches([prompt.tokens for prompt in prompts]):
        monitor.check()
        some = [prompts[i] for i in chosen]
        rows = stack_rows([prompt.tokens for prompt in some], view.base.device)
        states = _subject_states(view, rows)
        tokens = torch.tensor([[prompt.original] for prompt in some])
        first = torch.tensor([p.subject_first for p in some], device=view.base.device)
        with _noise(view, rows, first, scale, generator):
            found = [_probabilities(view, rows, tokens, i, states) for i in range(-1, len(states))]
        # (1 + L, r, 1) to (r, 1 + L)
        own[chosen] = torch.stack(found)[..., 0].T
        done += len(chosen)
        monitor.report("restore", done, len(prompts))
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
        # (r, d) put into a copy of (r, t, d): the block's own output may be kept elsewhere
        hidden[r, rows.subject_last] = states[layer]
        return with_hidden(output, hidden)

    block = view.base.family.layers_of(view.model)[max(layer, 0)]
    with nullcontext() if layer < 0 else hooked(block.register_forward_hook(put)):
        logits = view.base.family.logits_of(view.model, run(view, rows)).float().cpu()
    # (r, k)
    found = logits.softmax(dim=1).gather(1, tokens)
    where = "before the patch" if layer < 0 else f"with layer {layer} patched"
    check_tensor(found, f"the probability of an answer {where}", OTHER_VERSION)
    return found


def _spread(view: ModelView, prompts: Sequence[Prompt]) -> float:
    """Standard deviation of the embeddings of all tokens that occur."""
    ids = sorted({token for prompt in prompts for token in prompt.tokens.ids})
    tokens = torch.tensor(ids, device=view.base.device)
    return float(view.model.get_input_embeddings()(tokens).float().std())


@contextmanager
def _noise(
    view: ModelView,
    rows: TokenRows,
    first: torch.Tensor,
    scale: float,
    generator: torch.Generator,
) -> Iterator[None]:
    """Noise on the embeddings of the subject's tokens, the same in every run inside."""
    embedding = view.model.get_input_embeddings()
    positions = torch.arange(rows.ids.shape[1], device=rows.ids.device)
    # (r, t): the subject's tokens, first to last
    subject = (positions >= first[:, None]) & (positions <= rows.subject_last[:, None])
    # (r, t, d), drawn on the CPU: the same on every device, whatever the subjects' lengths
    noise = torch.randn(*rows.ids.shape, view.base.hidden_size, generator=generator)
    noise = scale * noise.to(rows.ids.device) * subject[..., None]

    def add(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return (output.float() + noise).to(output.dtype)

    with hooked(embedding.register_forward_hook(add)):
        yield
