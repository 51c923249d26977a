"""Value optimisation: the hidden states that make the model say the new answers.

Paper eq. 8, 11 and 12.  For every fact a δ' is added to the output of the low region's last
block at the subject's last token, and for JEEP a δ* to the output of the high region's last
block at the prediction position; both are found together by Adam.

What no δ can change is computed once: hidden states at the low region's last block, and keys
and values of all later blocks left of the subject's last token.  A step runs the later blocks
from the subject's last token on, and the head only where a target or the KL term is read.
Facts of a batch are independent; finished ones leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch.nn import functional as F

from jeep_core.errors import Cancelled
from jeep_core.hparams import Region
from jeep_core.positions import PromptTokens
from jeep_core.upper import Rows, UpperStack, stack_rows
from jeep_core.views import ModelView

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FactTokens:
    """The rows of one fact: one per prefix, the empty one first, and the KL row."""

    rows: Sequence[PromptTokens]
    kl: PromptTokens

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens from subject-last on, and tokens in all: facts alike make full batches."""
        longest = max(self.rows, key=lambda row: len(row.ids))
        return len(longest.ids) - longest.subject_last, len(longest.ids)


@dataclass(frozen=True)
class Objective:
    """What is minimised and when a fact is done.

    A fact stops when its mean target probability reaches ``stop_probability``, or its whole
    loss falls below ``stop_loss``, whichever is given.
    """

    low: Region
    high: Region | None
    n_steps: int
    learning_rate: float
    kl_weight: float
    stop_probability: float | None = None
    stop_loss: float | None = None
    high_target: Literal["at_optimum", "literal"] = "at_optimum"


@dataclass
class Values:
    """Targets of the closed-form update and how they were reached, in the order of the facts.

    ``low``, ``high``: (m, d) hidden states to reach.  ``delta_low``, ``delta_high``: (m, d).
    ``steps``, ``losses``, ``probabilities``: (m,), of each fact's last forward pass.
    """

    low: torch.Tensor
    high: torch.Tensor | None
    delta_low: torch.Tensor
    delta_high: torch.Tensor | None
    steps: torch.Tensor
    losses: torch.Tensor
    probabilities: torch.Tensor
    trace: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list, repr=False)

    def select(self, index: Sequence[int]) -> Values:
        """The values of these facts."""
        names = [f.name for f in fields(self) if f.name != "trace"]
        parts: dict[str, Any] = {name: getattr(self, name) for name in names}
        chosen = list(index)
        cut: dict[str, Any] = {n: None if t is None else t[chosen] for n, t in parts.items()}
        return Values(**cut)


def optimise(
    view: ModelView,
    facts: Sequence[FactTokens],
    objective: Objective,
    *,
    batch_facts: int = 32,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Values:
    """Optimise the value vectors of all facts.

    ``batch_facts`` bounds memory: that many facts are optimised together, fewer if they do not
    fit into the device's memory.

    Raises:
        Cancelled: ``should_stop`` answered True; it is asked before every step.
    """
    order = sorted(range(len(facts)), key=lambda i: facts[i].shape)
    waiting = [order[i : i + batch_facts] for i in range(0, len(order), batch_facts)]
    parts: list[tuple[list[int], Values]] = []
    done = 0
    while waiting:
        chosen = waiting.pop(0)

        def report(finished: int, before: int = done) -> None:
            if progress:
                progress("optimise", before + finished, len(facts))

        try:
            batch = _Batch(view, [facts[i] for i in chosen], objective)
            values = batch.run(report, should_stop)
        except torch.OutOfMemoryError:
            if len(chosen) == 1:
                raise
            half = len(chosen) // 2
            waiting[:0] = [chosen[:half], chosen[half:]]
            continue
        parts.append((chosen, values))
        done += len(chosen)
    return _reordered(parts)


def _reordered(parts: list[tuple[list[int], Values]]) -> Values:
    index = torch.tensor([i for chosen, _ in parts for i in chosen])
    back = torch.argsort(index)

    def joined(name: str) -> Any:
        pieces = [getattr(values, name) for _, values in parts]
        return None if pieces[0] is None else torch.cat(pieces)[back.to(pieces[0].device)]

    names = ("low", "high", "delta_low", "delta_high", "steps", "losses", "probabilities")
    trace = parts[0][1].trace if len(parts) == 1 else []
    return Values(**{name: joined(name) for name in names}, trace=trace)


class _Adam:
    """Adam over one (n, d) tensor whose rows may leave."""

    def __init__(self, shape: torch.Size, rate: float, device: torch.device) -> None:
        self.value = torch.zeros(shape, device=device)
        self.first = torch.zeros(shape, device=device)
        self.second = torch.zeros(shape, device=device)
        self.rate, self.step_count = rate, 0

    def step(self, gradient: torch.Tensor, limit: torch.Tensor) -> None:
        """One update, then projection of every row onto ‖row‖ ≤ limit (n,)."""
        self.step_count += 1
        b1, b2 = ADAM_BETAS
        self.first.mul_(b1).add_(gradient, alpha=1 - b1)
        self.second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        corrected = self.second.div(1 - b2**self.step_count).sqrt_().add_(ADAM_EPSILON)
        self.value.sub_(self.first / corrected * (self.rate / (1 - b1**self.step_count)))
        norm = self.value.norm(dim=1)
        self.value.mul_((limit / norm.clamp_min(1e-30)).clamp(max=1.0)[:, None])

    def keep(self, index: torch.Tensor) -> None:
        """Drop all rows but these."""
        self.value, self.first, self.second = (
            t[index] for t in (self.value, self.first, self.second)
        )


class _Batch:
    """A batch of facts on its way to the optimum."""

    def __init__(self, view: ModelView, facts: Sequence[FactTokens], objective: Objective) -> None:
        self.objective = objective
        self.n_rows = len(facts[0].rows)
        device = view.base.device
        high = objective.high.last if objective.high else None
        stack = UpperStack(view, objective.low.last, high)
        with torch.no_grad():
            self.rows = stack.capture(stack_rows([r for f in facts for r in f.rows], device))
            self.kl = stack.capture(stack_rows([f.kl for f in facts], device))
            kl_logits, _ = stack.forward(self.kl, None, None)
            self.kl_before = F.log_softmax(stack.head(kl_logits[:, 0]).float(), dim=-1)
        self.stack = stack
        first = slice(None, None, self.n_rows)
        self.h_low = self.rows.start_state[first].float()
        self.h_high = self.rows.high_state[first].float() if high is not None else None
        shape, rate = self.h_low.shape, objective.learning_rate
        self.low = _Adam(shape, rate, device)
        self.high = _Adam(shape, rate, device) if self.h_high is not None else None
        self.index = torch.arange(len(facts), device=device)

    def run(self, report: Callable[[int], None], should_stop: Callable[[], bool] | None) -> Values:
        """Step until every fact has stopped or the steps are used up."""
        m, o = len(self.index), self.objective
        values = self._empty(m)
        for step in range(o.n_steps):
            if should_stop and should_stop():
                raise Cancelled("cancelled while optimising values")
            loss, probability, state, gradients = self._evaluate(step < o.n_steps - 1)
            values.trace.append((self.index.clone(), loss))
            stopped = torch.zeros_like(loss, dtype=torch.bool)
            if o.stop_probability is not None:
                stopped |= probability >= o.stop_probability
            if o.stop_loss is not None:
                stopped |= loss < o.stop_loss
            stopped |= ~torch.isfinite(loss)
            if step == o.n_steps - 1:
                stopped[:] = True
            self._record(values, stopped, step + 1, loss, probability, state)
            if bool(stopped.any()):
                gradients = self._leave(~stopped, gradients)
                report(m - len(self.index))
            if len(self.index) == 0:
                break
            self._update(gradients)
        return values

    def _evaluate(self, with_gradients: bool) -> tuple[Any, Any, Any, list[torch.Tensor]]:
        """Loss (n,), probability (n,), state at the high site (n, d), gradients of the deltas."""
        o, n = self.objective, len(self.index)
        deltas = [a.value.requires_grad_(with_gradients) for a in (self.low, self.high) if a]
        low, high = self.low.value, self.high.value if self.high else None

        def per_row(delta: torch.Tensor | None) -> torch.Tensor | None:
            return None if delta is None else delta.repeat_interleave(self.n_rows, dim=0)

        with torch.set_grad_enabled(with_gradients):
            hidden, state = self.stack.forward(self.rows, per_row(low), per_row(high))
            nll_rows = self.stack.target_nll(self.rows, hidden)
            nll = nll_rows.view(n, self.n_rows).mean(dim=1)
            kl_hidden, _ = self.stack.forward(self.kl, low, None)
            after = F.log_softmax(self.stack.head(kl_hidden[:, 0]).float(), dim=-1)
            kl = (after.exp() * (after - self.kl_before)).sum(dim=1)
            loss = nll + o.kl_weight * kl + self._decay(o.low, low, self.h_low)
            if o.high is not None and high is not None and self.h_high is not None:
                loss = loss + self._decay(o.high, high, self.h_high)
            gradients = list(torch.autograd.grad(loss.sum(), deltas)) if with_gradients else []
        for delta in deltas:
            delta.requires_grad_(False)
        probability = nll_rows.detach().neg().exp().view(n, self.n_rows).mean(dim=1)
        empty = None if state is None else state.detach()[:: self.n_rows].float()
        return loss.detach(), probability, empty, gradients

    @staticmethod
    def _decay(region: Region, delta: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        # torch gives 0 for the gradient of a norm at 0, where optimisation starts.
        decay: torch.Tensor = delta.norm(dim=1) / state.norm(dim=1).square()
        return region.weight_decay * decay

    def _update(self, gradients: list[torch.Tensor]) -> None:
        o = self.objective
        self.low.step(gradients[0], o.low.clamp * self.h_low.norm(dim=1))
        if self.high and o.high and self.h_high is not None:
            self.high.step(gradients[1], o.high.clamp * self.h_high.norm(dim=1))

    def _leave(self, going_on: torch.Tensor, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        """Drop stopped facts from everything; returns the gradients of the others."""
        keep = going_on.nonzero().flatten()
        if len(keep):
            offsets = torch.arange(self.n_rows, device=keep.device)
            self.rows = self.rows.keep((keep[:, None] * self.n_rows + offsets).flatten())
            self.kl = self.kl.keep(keep)
        self.kl_before, self.h_low = self.kl_before[keep], self.h_low[keep]
        self.h_high = None if self.h_high is None else self.h_high[keep]
        for adam in (self.low, self.high):
            if adam:
                adam.keep(keep)
        self.index = self.index[keep]
        return [g[keep] for g in gradients]

    def _empty(self, m: int) -> Values:
        zeros = torch.zeros_like(self.h_low)
        high = None if self.h_high is None else zeros.clone()
        delta_high = None if self.h_high is None else zeros.clone()
        line = torch.zeros(m, device=zeros.device)
        steps = torch.zeros(m, dtype=torch.long, device=zeros.device)
        return Values(zeros.clone(), high, zeros, delta_high, steps, line.clone(), line.clone())

    def _record(
        self,
        values: Values,
        stopped: torch.Tensor,
        steps: int,
        loss: torch.Tensor,
        probability: torch.Tensor,
        state: torch.Tensor | None,
    ) -> None:
        where = self.index[stopped]
        values.delta_low[where] = self.low.value[stopped]
        values.low[where] = self.h_low[stopped] + self.low.value[stopped]
        values.steps[where] = steps
        values.losses[where] = loss[stopped]
        values.probabilities[where] = probability[stopped]
        if self.high is not None and values.high is not None and values.delta_high is not None:
            literal = self.objective.high_target == "literal"
            start = self.h_high if literal else state
            assert start is not None
            values.delta_high[where] = self.high.value[stopped]
            values.high[where] = start[stopped] + self.high.value[stopped]


__all__ = ["FactTokens", "Objective", "Rows", "Values", "optimise"]
