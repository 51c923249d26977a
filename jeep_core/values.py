"""Value optimisation: the hidden states that make the model say the new answers.

Paper eq. 8, 11 and 12.  For every fact a δ' is added to the output of the low region's last
block at the subject's last token, and for JEEP a δ* to the output of the high region's last
block at the prediction position; both are found together by Adam.

What no δ can change is computed once: hidden states at the low region's last block, and keys
and values of all later blocks left of the subject's last token.  A step runs the later blocks
from the subject's last token on, and the head only where a target or the KL term is read.
Facts are independent: finished ones leave the pool, waiting ones of like length take their
place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch.autograd.graph import saved_tensors_hooks

from jeep_core.errors import Cancelled
from jeep_core.hparams import Region
from jeep_core.positions import PromptTokens
from jeep_core.upper import Rows, UpperStack
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
        """Tokens from subject-last on, and tokens in all: facts alike share a batch."""
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
    compute_dtype: Literal["model", "bfloat16"] = "model"


@dataclass
class Values:
    """Targets of the closed-form update and how they were reached, in the order of the facts.

    ``low``, ``high``: (m, d) hidden states to reach.  ``delta_low``, ``delta_high``: (m, d).
    ``steps``, ``losses``, ``probabilities``: (m,), of each fact's last forward pass.
    ``peak_bytes``: most memory held at once, measured on CUDA, else counted from what the
    backward pass keeps.  ``trace``: per pass the facts in it and their losses.
    """

    low: torch.Tensor
    high: torch.Tensor | None
    delta_low: torch.Tensor
    delta_high: torch.Tensor | None
    steps: torch.Tensor
    losses: torch.Tensor
    probabilities: torch.Tensor
    peak_bytes: int = 0
    trace: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list, repr=False)

    def select(self, index: Sequence[int]) -> Values:
        """The values of these facts."""
        chosen = list(index)
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        cut = {n: t[chosen] for n, t in parts.items() if isinstance(t, torch.Tensor)}
        return Values(**{**parts, **cut, "trace": []})


def optimise(
    view: ModelView,
    facts: Sequence[FactTokens],
    objective: Objective,
    *,
    batch_facts: int | None = None,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Values:
    """Optimise the value vectors of all facts.

    At most ``batch_facts`` (default: 32, on CUDA 256) are optimised together, fewer if they
    would hold more than ``memory_bytes`` or do not fit into the device's memory.

    Raises:
        Cancelled: ``should_stop`` answered True; it is asked before every step.
        torch.OutOfMemoryError: a single fact does not fit.
    """
    limit = batch_facts or (256 if view.base.device.type == "cuda" else 32)
    waiting = deque(sorted(range(len(facts)), key=lambda i: facts[i].shape))
    pool = _Pool(view, facts, objective, memory_bytes)
    while waiting or len(pool):
        if should_stop and should_stop():
            raise Cancelled("cancelled while optimising values")
        free = pool.room(limit, waiting)
        chosen = [waiting.popleft() for _ in range(free)]
        try:
            if chosen:
                pool.admit(chosen)
                chosen = []
            finished = pool.step()
        except torch.OutOfMemoryError:
            together = len(pool) + len(chosen)
            if together == 1:
                raise
            limit = together // 2
            waiting.extendleft(reversed([*pool.evict(limit), *chosen]))
            continue
        if finished and progress:
            progress("optimise", len(facts) - len(waiting) - len(pool), len(facts))
    return pool.values


class _Adam:
    """Adam over one (n, d) tensor whose rows come and go."""

    def __init__(self, size: int, rate: float, device: torch.device) -> None:
        self.rate = rate
        self.value = self.first = self.second = torch.zeros(0, size, device=device)

    def add(self, rows: int) -> None:
        """New rows, at zero."""
        new = self.value.new_zeros(rows, self.value.shape[1])
        self.value, self.first, self.second = (
            torch.cat([t, new]) for t in (self.value, self.first, self.second)
        )

    def step(self, gradient: torch.Tensor, count: torch.Tensor, limit: torch.Tensor) -> None:
        """Update number ``count`` (n,), then projection of every row onto ‖row‖ ≤ limit (n,)."""
        b1, b2 = ADAM_BETAS
        self.first.mul_(b1).add_(gradient, alpha=1 - b1)
        self.second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        scale = (self.rate / (1 - b1**count))[:, None]
        corrected = self.second.div((1 - b2**count)[:, None]).sqrt_().add_(ADAM_EPSILON)
        self.value.sub_(self.first / corrected * scale)
        norm = self.value.norm(dim=1)
        self.value.mul_((limit / norm.clamp_min(1e-30)).clamp(max=1.0)[:, None])

    def keep(self, index: torch.Tensor) -> None:
        """Drop all rows but these."""
        self.value, self.first, self.second = (
            t[index] for t in (self.value, self.first, self.second)
        )


class _Pool:
    """The facts under way.  ``values`` holds what the others have reached."""

    def __init__(
        self,
        view: ModelView,
        facts: Sequence[FactTokens],
        objective: Objective,
        memory_bytes: int | None,
    ) -> None:
        self.facts, self.objective, self.memory_bytes = facts, objective, memory_bytes
        self.device, self.n_rows = view.base.device, len(facts[0].rows)
        groups = [[f.rows[j] for f in facts] for j in range(self.n_rows)]
        high = objective.high.last if objective.high else None
        self.stack = UpperStack(view, objective.low.last, high, [*groups, [f.kl for f in facts]])
        size, rate = view.base.hidden_size, objective.learning_rate
        self.rows: Rows | None = None
        self.kl: Rows | None = None
        self.index = torch.zeros(0, dtype=torch.long, device=self.device)
        self.passes = torch.zeros(0, device=self.device)
        self.low = _Adam(size, rate, self.device)
        self.high = _Adam(size, rate, self.device) if high is not None else None
        self.h_high = torch.zeros(0, size, device=self.device)
        self.kl_before = torch.zeros(0, view.base.vocabulary, device=self.device)
        self.bytes_per_token = 0.0
        self.values = self._empty(len(facts), size)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def __len__(self) -> int:
        return len(self.index)

    # ------------------------------------------------------------ who is in

    def room(self, limit: int, waiting: Sequence[int]) -> int:
        """How many of the waiting facts to admit now: none, or enough to be worth it."""
        n, wanted = len(self), min(limit - len(self), len(waiting))
        if wanted <= 0 or (n and wanted < min(limit // 4, len(waiting))):
            return 0
        if self.memory_bytes is None:
            return wanted
        if not self.bytes_per_token:
            return 1 if n == 0 else 0
        while wanted:
            width = self.facts[waiting[wanted - 1]].shape[0]
            held = (n + wanted) * self.n_rows * width * self.bytes_per_token
            if held <= self.memory_bytes:
                break
            wanted -= 1
        return wanted or int(n == 0)

    def admit(self, chosen: Sequence[int]) -> None:
        """Take facts in, at δ = 0."""
        rows = self.stack.capture(
            [row for i in chosen for row in self.facts[i].rows],
            [j for _ in chosen for j in range(self.n_rows)],
        )
        kl = self.stack.capture([self.facts[i].kl for i in chosen], [self.n_rows] * len(chosen))
        self.rows = rows if self.rows is None else self.rows.join(rows)
        self.kl = kl if self.kl is None else self.kl.join(kl)
        self.index = torch.cat([self.index, torch.tensor(chosen, device=self.device)])
        self.passes, self.h_high, self.kl_before = (
            torch.cat([t, t.new_zeros(len(chosen), *t.shape[1:])])
            for t in (self.passes, self.h_high, self.kl_before)
        )
        for adam in (self.low, self.high):
            if adam:
                adam.add(len(chosen))

    def evict(self, limit: int) -> list[int]:
        """Let all but the first ``limit`` facts go, to begin anew later."""
        gone: list[int] = self.index[limit:].tolist()
        self._keep(torch.arange(min(limit, len(self)), device=self.device))
        return gone

    def _keep(self, index: torch.Tensor) -> None:
        offsets = torch.arange(self.n_rows, device=self.device)
        flat = (index[:, None] * self.n_rows + offsets).flatten()
        self.rows = self.rows.keep(flat) if self.rows and len(index) else None
        self.kl = self.kl.keep(index) if self.kl and len(index) else None
        self.index, self.passes = self.index[index], self.passes[index]
        self.h_high, self.kl_before = self.h_high[index], self.kl_before[index]
        for adam in (self.low, self.high):
            if adam:
                adam.keep(index)

    # ------------------------------------------------------------ one step

    def step(self) -> int:
        """One pass over all facts, and one update of those that go on; how many have stopped."""
        o = self.objective
        loss, probability, state, gradients = self._evaluate()
        self.values.trace.append((self.index.clone(), loss))
        self.passes = self.passes + 1
        stopped = ~torch.isfinite(loss) | (self.passes >= o.n_steps)
        if o.stop_probability is not None:
            stopped |= probability >= o.stop_probability
        if o.stop_loss is not None:
            stopped |= loss < o.stop_loss
        n_stopped = int(stopped.sum())
        if n_stopped:
            self._record(stopped, loss, probability, state)
            keep = (~stopped).nonzero().flatten()
            self._keep(keep)
            gradients = [g[keep] for g in gradients]
        if len(self):
            self._update(gradients)
        return n_stopped

    def _evaluate(self) -> tuple[Any, Any, Any, list[torch.Tensor]]:
        """Loss (n,), probability (n,), state at the high site (n, d), gradients of the deltas."""
        assert self.rows is not None
        assert self.kl is not None
        with_gradients = bool((self.passes < self.objective.n_steps - 1).any())
        deltas = [
            a.value.detach().requires_grad_(with_gradients) for a in (self.low, self.high) if a
        ]
        bfloat16 = self.objective.compute_dtype == "bfloat16"
        with (
            torch.set_grad_enabled(with_gradients),
            torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16),
            self._counted(with_gradients),
        ):
            loss, nll_rows, state = self._loss(self.rows, self.kl, *deltas)
        gradients = list(torch.autograd.grad(loss.sum(), deltas)) if with_gradients else []
        probability = nll_rows.detach().neg().exp().view(len(self), self.n_rows).mean(dim=1)
        self._measure_peak()
        return loss.detach(), probability, state, gradients

    def _loss(
        self, rows: Rows, kl: Rows, low: torch.Tensor, high: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss (n,), negative log-likelihood per row, state at the high site (n, d).

        At a fact's first pass δ is zero: that pass gives the unedited state and distribution.
        """
        o, first = self.objective, self.passes == 0

        def per_row(delta: torch.Tensor | None) -> torch.Tensor | None:
            return None if delta is None else delta.repeat_interleave(self.n_rows, dim=0)

        hidden, state_rows = self.stack.forward(rows, per_row(low), per_row(high))
        nll_rows = self.stack.target_nll(rows, hidden)
        after = self.stack.log_probabilities(kl, self.stack.forward(kl, low, None)[0])
        self.kl_before = torch.where(first[:, None], after.detach(), self.kl_before)
        kl_loss = (after.exp() * (after - self.kl_before)).sum(dim=1)
        loss = nll_rows.view(len(self), self.n_rows).mean(dim=1) + o.kl_weight * kl_loss
        loss = loss + _decay(o.low, low, self._h_low())
        state = self.h_high
        if o.high is not None and high is not None and state_rows is not None:
            state = state_rows.detach()[:: self.n_rows].float()
            self.h_high = torch.where(first[:, None], state, self.h_high)
            loss = loss + _decay(o.high, high, self.h_high)
        return loss, nll_rows, state

    def _h_low(self) -> torch.Tensor:
        assert self.rows is not None
        return self.rows.start_state[:: self.n_rows].float()

    def _update(self, gradients: list[torch.Tensor]) -> None:
        o = self.objective
        self.low.step(gradients[0], self.passes, o.low.clamp * self._h_low().norm(dim=1))
        if self.high and o.high:
            limit = o.high.clamp * self.h_high.norm(dim=1)
            self.high.step(gradients[1], self.passes, limit)

    def _record(
        self,
        stopped: torch.Tensor,
        loss: torch.Tensor,
        probability: torch.Tensor,
        state: torch.Tensor,
    ) -> None:
        values, where = self.values, self.index[stopped]
        values.delta_low[where] = self.low.value[stopped]
        values.low[where] = (self._h_low() + self.low.value)[stopped]
        values.steps[where] = self.passes[stopped].long()
        values.losses[where] = loss[stopped]
        values.probabilities[where] = probability[stopped]
        if self.high is not None and values.high is not None and values.delta_high is not None:
            start = self.h_high if self.objective.high_target == "literal" else state
            values.delta_high[where] = self.high.value[stopped]
            values.high[where] = (start + self.high.value)[stopped]

    def _empty(self, m: int, size: int) -> Values:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, device=self.device)

        high, delta_high = (zeros(m, size), zeros(m, size)) if self.high else (None, None)
        steps = zeros(m).long()
        return Values(zeros(m, size), high, zeros(m, size), delta_high, steps, zeros(m), zeros(m))

    # ------------------------------------------------------------ memory

    def _counted(self, with_gradients: bool) -> AbstractContextManager[object]:
        """At the first pass, count what the backward pass keeps, each tensor once."""
        if not with_gradients or self.bytes_per_token:
            return nullcontext()
        assert self.rows is not None
        weights = {p.untyped_storage().data_ptr() for p in self.stack.view.model.parameters()}
        tokens, seen = self.rows.targets.numel(), weights

        def count(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                self.bytes_per_token += storage.nbytes() / tokens
            return tensor

        return saved_tensors_hooks(count, lambda tensor: tensor)

    def _measure_peak(self) -> None:
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            assert self.rows is not None
            peak = int(self.bytes_per_token * self.rows.targets.numel())
        self.values.peak_bytes = max(self.values.peak_bytes, peak)


def _decay(region: Region, delta: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    # torch gives 0 for the gradient of a norm at 0, where optimisation starts.
    decay: torch.Tensor = delta.norm(dim=1) / state.norm(dim=1).square()
    return region.weight_decay * decay


__all__ = ["FactTokens", "Objective", "Values", "optimise"]
