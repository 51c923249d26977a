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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from jeep_core.executors.here import HERE
from jeep_core.executors.work import Executor
from jeep_core.models.token_rows import stack_rows
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.probe.bands import band
from jeep_core.probe.patched_runs import small_batches
from jeep_core.probe.prompts import Prompt, answers, batches
from jeep_core.probe.units import Unit, patched
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

    def some(self, rows: Sequence[int]) -> Patched:
        """That of some prompts."""
        parts = [None if t is None else t[rows] for t in self._tensors()]
        return Patched(*parts)  # type: ignore[arg-type]

    def joined(self, more: Patched) -> Patched:
        """This, then that of other prompts."""
        pairs = zip(self._tensors(), more._tensors(), strict=True)
        parts = [None if a is None or b is None else torch.cat([a, b]) for a, b in pairs]
        return Patched(*parts)  # type: ignore[arg-type]

    def _tensors(self) -> tuple[torch.Tensor | None, ...]:
        return self.own, self.own_before, self.other, self.other_before

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
    return answered(view, donors(view, prompts, seed))


def donors(
    view: ModelView, prompts: Sequence[Prompt], seed: int = SEED
) -> list[tuple[Prompt, PromptTokens]]:
    """The prompts that ``pairs`` finds a donor for, each with the donor's row."""
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
    return drawn


def answered(view: ModelView, drawn: Sequence[tuple[Prompt, PromptTokens]]) -> list[Pair]:
    """Pairs of those whose donor has another answer of the model than the prompt."""
    # (rows,): the token that the model says next
    said = answers(view, [row for _, row in drawn])
    found = [Pair(prompt, row, answer) for (prompt, row), answer in zip(drawn, said, strict=True)]
    return [pair for pair in found if pair.answer != pair.prompt.original]


@torch.no_grad()
def exchange(
    view: ModelView,
    pairs: Sequence[Pair],
    monitor: Monitor = NOTHING,
    executor: Executor = HERE,
) -> Patched:
    """Put the donor's state into the prompt's run, at one block after the other.

    Raises:
        WorkersLost, NoCluster: the executor's workers are gone.
        Whatever ``monitor.check`` raises.
    """
    # (n, 1 + L): first the run without a patch, then one with each block patched
    own = torch.zeros(len(pairs), view.base.n_layers + 1)
    other = torch.zeros_like(own)
    cut = list(small_batches(view, [pair.prompt.tokens for pair in pairs]))
    units = []
    for chosen in cut:
        some = [pairs[i] for i in chosen]
        # (r, 2)
        tokens = torch.tensor([[p.prompt.original, p.answer] for p in some])
        units.append(Unit([p.prompt.tokens for p in some], [p.donor for p in some], tokens))
    for chosen, found in zip(cut, patched(view, "exchange", units, executor, monitor), strict=True):
        own[chosen], other[chosen] = found[..., 0], found[..., 1]
    return Patched(own[:, 1:], own[:, 0], other[:, 1:], other[:, 0])


@torch.no_grad()
def restoration(
    view: ModelView,
    prompts: Sequence[Prompt],
    monitor: Monitor = NOTHING,
    seed: int = SEED,
    executor: Executor = HERE,
) -> Patched:
    """Put the clean state into a run whose subject is corrupted, at one block after the other.

    Raises:
        WorkersLost, NoCluster: the executor's workers are gone.
        Whatever ``monitor.check`` raises.
    """
    # as in ``exchange``; column 0 is the corrupted run
    own = torch.zeros(len(prompts), view.base.n_layers + 1)
    generator = torch.Generator().manual_seed(seed)
    scale = NOISE * _spread(view, prompts)
    cut, units = [], []
    for drawn in batches([prompt.tokens for prompt in prompts]):
        noise = _noise(view, [prompts[i] for i in drawn], scale, generator)
        for part in small_batches(view, [prompts[i].tokens for i in drawn]):
            chosen = [drawn[i] for i in part]
            rows = [prompts[i].tokens for i in chosen]
            tokens = torch.tensor([[prompts[i].original] for i in chosen])
            units.append(Unit(rows, rows, tokens, noise[part].cpu()))
            cut.append(chosen)
    for chosen, found in zip(cut, patched(view, "restore", units, executor, monitor), strict=True):
        own[chosen] = found[..., 0]
    return Patched(own[:, 1:], own[:, 0])


def _spread(view: ModelView, prompts: Sequence[Prompt]) -> float:
    """Standard deviation of the embeddings of all tokens that occur."""
    ids = sorted({token for prompt in prompts for token in prompt.tokens.ids})
    tokens = torch.tensor(ids, device=view.base.device)
    return float(view.model.get_input_embeddings()(tokens).float().std())


def _noise(
    view: ModelView, prompts: Sequence[Prompt], scale: float, generator: torch.Generator
) -> torch.Tensor:
    """Noise (r, t, d) for the embeddings of the subjects' tokens, 0 elsewhere."""
    rows = stack_rows([prompt.tokens for prompt in prompts], view.base.device)
    first = torch.tensor([p.subject_first for p in prompts], device=view.base.device)
    positions = torch.arange(rows.ids.shape[1], device=rows.ids.device)
    # (r, t): the subject's tokens, first to last
    subject = (positions >= first[:, None]) & (positions <= rows.subject_last[:, None])
    # (r, t, d), drawn on the CPU: the same on every device, whatever the subjects' lengths
    noise = torch.randn(*rows.ids.shape, view.base.hidden_size, generator=generator)
    return scale * noise.to(rows.ids.device) * subject[..., None]
