"""The facts that are being optimised: they join, take steps together, and leave one by one.

In comments n is the number of facts in the pool, r = n · n_rows that of their rows (a fact's rows
are adjacent, the one with the empty prefix first; those of a second context, ``n_chat`` of them,
last), d the hidden size, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch.autograd.graph import saved_tensors_hooks

from jeep_core.errors import NumericalError
from jeep_core.models.upper_blocks import Rows, UpperStack
from jeep_core.models.views import ModelView
from jeep_core.spec.finite import OTHER_VERSION, SMALLER_STEPS
from jeep_core.text.counting import counted
from jeep_core.values.objective import WRITTEN_KL, FactTokens, Objective, Values
from jeep_core.values.sites import Site


@dataclass
class _Found:
    """The result of one pass, (n,) each: losses, probability, all target tokens the arg-max
    (with a margin: by so much).

    ``high`` (n, d): the states at the high region, δ* not added; ``chat_high`` in the second
    context.
    """

    loss: torch.Tensor
    kl_loss: torch.Tensor
    probability: torch.Tensor
    written: torch.Tensor
    high: torch.Tensor | None
    chat_high: torch.Tensor | None = None

    def detached(self) -> _Found:
        """The same without a graph."""
        high = None if self.high is None else self.high.detach()
        chat_high = None if self.chat_high is None else self.chat_high.detach()
        return _Found(
            self.loss.detach(),
            self.kl_loss.detach(),
            self.probability.detach(),
            self.written,
            high,
            chat_high,
        )


class Pool:
    """The facts in progress; ``values`` holds the results of those that have stopped.

    ``index``, ``passes``, ``nll_weight`` (n,) and ``kl_before`` (n, V) have an entry per fact.
    """

    def __init__(
        self,
        view: ModelView,
        facts: Sequence[FactTokens],
        objective: Objective,
        memory_bytes: int | None,
    ) -> None:
        o = objective
        self.facts, self.objective, self.memory_bytes = facts, o, memory_bytes
        self.n_chat, self.n_rows = len(facts[0].chat), len(facts[0].all_rows)
        self.device, every = view.base.device, [f.all_rows for f in facts]
        # group j is all facts after prefix j, those of the second context after those of the
        # first, the last group their KL rows
        groups = [[rows[j] for rows in every] for j in range(self.n_rows)]
        groups.append([f.kl for f in facts])
        high = o.high.last if o.high else None
        self.stack = UpperStack(view, o.low.last, high, groups, inside=o.low_site != "block")
        size = view.base.hidden_size
        regions = {"low": (o.low, o.train != "high")}
        if o.low_site == "mlp_and_attention":
            regions["attention"] = (o.low, True)
        if o.high:
            regions["high"] = (o.high, o.train != "low")
        self.sites = {
            name: Site(region, trained, size, o).to(self.device)
            for name, (region, trained) in regions.items()
        }
        self.rows: Rows | None = None
        self.kl: Rows | None = None
        self.index = torch.zeros(0, dtype=torch.long, device=self.device)
        self.passes = torch.zeros(0, device=self.device)
        self.nll_weight = torch.zeros(0, device=self.device)
        self.kl_before = torch.zeros(0, view.base.vocabulary, device=self.device)
        self.bytes_per_token = 0.0
        self.values = self._empty(len(facts), size)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def __len__(self) -> int:
        return len(self.index)

    # ------------------------------------------------------------ who is in

    def room(self, limit: int, waiting: Sequence[int]) -> int:
        """How many waiting facts to admit now: none, or enough to be worth a capture."""
        n, wanted = len(self), min(limit - len(self), len(waiting))
        # a capture is a pass through the lower blocks: it is put off until a quarter of the places
        # is free, unless fewer facts than that are left
        if wanted <= 0 or (n and wanted < min(limit // 4, len(waiting))):
            return 0
        if self.memory_bytes is None:
            return wanted
        if not self.bytes_per_token:  # not measured yet: one fact goes first
            return 1 if n == 0 else 0
        while wanted:
            # waiting facts are in order of width: all rows are padded to the last one chosen
            width = self.facts[waiting[wanted - 1]].shape[0]
            held = (n + wanted) * self.n_rows * width * self.bytes_per_token
            if held <= self.memory_bytes:
                break
            wanted -= 1
        return wanted or int(n == 0)

    def admit(self, chosen: Sequence[int]) -> None:
        """Add facts, at δ = 0; ``chosen`` are their numbers."""
        # a fact is n_rows rows beside one another, in groups 0 to n_rows - 1, and a KL row
        rows = self.stack.capture(
            [row for i in chosen for row in self.facts[i].all_rows],
            [j for _ in chosen for j in range(self.n_rows)],
        )
        kl = self.stack.capture([self.facts[i].kl for i in chosen], [self.n_rows] * len(chosen))
        self.rows = rows if self.rows is None else self.rows.join(rows)
        self.kl = kl if self.kl is None else self.kl.join(kl)
        self.index = torch.cat([self.index, torch.tensor(chosen, device=self.device)])
        # passes (n,), kl_before (n, V): `_forward` fills in a fact whose passes are 0
        self.passes, self.kl_before = (
            torch.cat([t, t.new_zeros(len(chosen), *t.shape[1:])])
            for t in (self.passes, self.kl_before)
        )
        self.nll_weight = torch.cat([self.nll_weight, self.nll_weight.new_ones(len(chosen))])
        for site in self.sites.values():
            site.add(len(chosen))

    def evict(self, limit: int) -> list[int]:
        """Remove all but the first ``limit`` facts, to begin again later; the removed numbers."""
        gone: list[int] = self.index[limit:].tolist()
        self._keep(torch.arange(min(limit, len(self)), device=self.device))
        return gone

    def _keep(self, index: torch.Tensor) -> None:
        offsets = torch.arange(self.n_rows, device=self.device)
        # (k,) numbers of facts to (k · n_rows,) numbers of their rows
        flat = (index[:, None] * self.n_rows + offsets).flatten()
        self.rows = self.rows.keep(flat) if self.rows and len(index) else None
        self.kl = self.kl.keep(index) if self.kl and len(index) else None
        self.index, self.passes = self.index[index], self.passes[index]
        self.nll_weight, self.kl_before = self.nll_weight[index], self.kl_before[index]
        for site in self.sites.values():
            site.keep(index)

    # ------------------------------------------------------------ one step

    def step(self) -> int:
        """One pass over all facts, and one update of those that continue; returns how many stopped.

        Raises:
            NumericalError: the loss of a fact is not finite.
        """
        o = self.objective
        found, gradients = self._evaluate()
        self.values.trace.append((self.index.clone(), found.loss))
        self.passes = self.passes + 1
        self._check(found.loss)
        # (n,) each; a fact that stops keeps the δ that this pass has measured
        done = torch.zeros_like(found.written)
        if o.stop_probability is not None:
            done |= found.probability >= o.stop_probability
        if o.stop_loss is not None:
            done |= found.loss < o.stop_loss
        if o.written_weight is not None:
            done |= found.written & (found.kl_loss <= WRITTEN_KL)
            self.nll_weight = torch.where(found.written, o.written_weight, 1.0)
        if o.margin is not None:
            done &= found.written
        stopped = done | (self.passes >= o.n_steps)
        n_stopped = int(stopped.sum())
        if n_stopped:
            self._record(stopped, found)
            keep = (~stopped).nonzero().flatten()
            self._keep(keep)
            # the rows of a gradient (n, d) follow the facts that are left
            gradients = {name: g[keep] for name, g in gradients.items()}
        if len(self):
            for name, gradient in gradients.items():
                self.sites[name].step(gradient, self.passes)
        return n_stopped

    def _check(self, loss: torch.Tensor) -> None:
        """Raise ``NumericalError`` for the first fact whose loss (n,) is not finite."""
        wrong = (~torch.isfinite(loss)).nonzero().flatten().tolist()
        if wrong:
            fact, taken = int(self.index[wrong[0]]), int(self.passes[wrong[0]])
            of = f" of fact {fact + 1} of {len(self.facts)}" if len(self.facts) > 1 else ""
            what = (
                f"layer {self.objective.low.last}: the loss{of} after {counted(taken - 1, 'step')}"
            )
            advice = SMALLER_STEPS if taken > 1 else OTHER_VERSION
            raise NumericalError(f"{what} is not finite (NaN or infinity); {advice}")

    def _evaluate(self) -> tuple[_Found, dict[str, torch.Tensor]]:
        """The result of a pass, and the gradients (n, d) of the vectors that are optimised."""
        assert self.rows is not None
        assert self.kl is not None
        # no update follows a fact's last pass
        with_gradients = bool((self.passes < self.objective.n_steps - 1).any())
        deltas = {
            # (n, d) leaves that share Adam's memory, which is written after the backward pass only
            name: site.adam.value.detach().requires_grad_(with_gradients and site.trained)
            for name, site in self.sites.items()
        }
        bfloat16 = self.objective.compute_dtype == "bfloat16"
        with (
            torch.set_grad_enabled(with_gradients),
            torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16),
            self._counted(with_gradients),
        ):
            found = self._forward(self.rows, self.kl, deltas)
        gradients: dict[str, torch.Tensor] = {}
        if with_gradients:
            trained = [name for name, site in self.sites.items() if site.trained]
            # facts are independent: the gradient of the sum is each fact's own
            grads = torch.autograd.grad(found.loss.sum(), [deltas[name] for name in trained])
            gradients = dict(zip(trained, grads, strict=True))
        self._measure_peak()
        return found.detached(), gradients

    def _forward(self, rows: Rows, kl: Rows, deltas: dict[str, torch.Tensor]) -> _Found:
        """Losses (n,) and states (n, d) from ``deltas`` (n, d) by site.

        At a fact's first pass every δ is zero: that pass gives the unedited states and the
        unedited distribution.
        """
        first, n = (self.passes == 0)[:, None], len(self)
        per_row = {
            name: delta.repeat_interleave(self.n_rows, dim=0) for name, delta in deltas.items()
        }
        hidden, seen = self.stack.forward(rows, per_row)  # (r, q, d), (r, d) by site
        for name, site in self.sites.items():
            if name in seen:
                # every n_rows-th row is the one with the empty prefix: (n, d)
                state = seen[name].detach()[:: self.n_rows].float()
                site.reference = torch.where(first, state, site.reference)
            else:
                site.reference = rows.start_state[:: self.n_rows].float()
            if self.n_chat:
                states = seen[name].detach() if name in seen else rows.start_state
                chat = torch.where(first, self._in_chat(states), site.chat_reference)
                site.chat_reference = chat
        # (r,) each
        nll_rows, written = self.stack.target_nll(rows, hidden, self.objective.margin)
        on_subject = {name: delta for name, delta in deltas.items() if name != "high"}
        after = self.stack.log_probabilities(kl, self.stack.forward(kl, on_subject)[0])
        # after (n, V): KL(edited ‖ unedited) at the subject's last token of the KL row
        self.kl_before = torch.where(first, after.detach(), self.kl_before)
        kl_loss = self.objective.kl_weight * (after.exp() * (after - self.kl_before)).sum(dim=1)
        # (r,) to (n,): a fact counts with the mean over its prefixes
        loss = self.nll_weight * self._mean(nll_rows) + kl_loss
        for name, site in self.sites.items():
            loss = loss + site.decay(deltas[name])
        # states without δ*, but moved by δ': what δ* is added to at the end
        high = seen["high"][:: self.n_rows].float() if "high" in seen else None
        chat_high = self._in_chat(seen["high"]) if "high" in seen and self.n_chat else None
        probability = self._mean(nll_rows.neg().exp())
        written = written.view(n, -1).all(dim=1)
        return _Found(loss, kl_loss, probability, written, high, chat_high)

    def _mean(self, by_row: torch.Tensor) -> torch.Tensor:
        """Mean (n,) over each fact's rows of values (r,); both contexts count the same."""
        rows = by_row.view(-1, self.n_rows)
        if not self.n_chat:
            return rows.mean(dim=1)
        split = self.n_rows - self.n_chat
        return (rows[:, :split].mean(dim=1) + rows[:, split:].mean(dim=1)) / 2

    def _in_chat(self, states: torch.Tensor) -> torch.Tensor:
        """Of states (r, d) those (n, d) of the second context's row with the empty prefix."""
        return states[self.n_rows - self.n_chat :: self.n_rows].float()

    def _record(self, stopped: torch.Tensor, found: _Found) -> None:
        values, where = self.values, self.index[stopped]
        # (k, d) by site, for the k facts that stop
        reached = {
            name: (site.reference + site.adam.value)[stopped] for name, site in self.sites.items()
        }
        values.low[where] = reached["low"]
        values.delta_low[where] = self.sites["low"].adam.value[stopped]
        values.steps[where] = self.passes[stopped].long()
        values.losses[where] = found.loss[stopped]
        values.probabilities[where] = found.probability[stopped]
        if values.attention is not None:
            values.attention[where] = reached["attention"]
        if values.high is not None and values.delta_high is not None and found.high is not None:
            delta = self.sites["high"].adam.value[stopped]
            # "literal": the unedited state plus δ*; else the state that δ' has moved, plus δ*
            literal = self.objective.high_target == "literal"
            values.delta_high[where] = delta
            values.high[where] = reached["high"] if literal else found.high[stopped] + delta
        self._record_chat(values, where, stopped, found)

    def _record_chat(
        self, values: Values, where: torch.Tensor, stopped: torch.Tensor, found: _Found
    ) -> None:
        """The states to reach in the second context, if there is one."""
        if values.chat_low is None:
            return
        reached = {
            name: (site.chat_reference + site.adam.value)[stopped]
            for name, site in self.sites.items()
        }
        values.chat_low[where] = reached["low"]
        if values.chat_high is not None and found.chat_high is not None:
            delta = self.sites["high"].adam.value[stopped]
            literal = self.objective.high_target == "literal"
            there = reached["high"] if literal else found.chat_high[stopped] + delta
            values.chat_high[where] = there

    def _empty(self, m: int, size: int) -> Values:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, device=self.device)

        def optional(name: str) -> torch.Tensor | None:
            return zeros(m, size) if name in self.sites else None

        return Values(
            low=zeros(m, size),
            high=optional("high"),
            delta_low=zeros(m, size),
            delta_high=optional("high"),
            steps=zeros(m).long(),
            losses=zeros(m),
            probabilities=zeros(m),
            attention=optional("attention"),
            chat_low=zeros(m, size) if self.n_chat else None,
            chat_high=optional("high") if self.n_chat else None,
        )

    # ------------------------------------------------------------ memory

    def _counted(self, with_gradients: bool) -> AbstractContextManager[object]:
        """At the first pass, count what the backward pass keeps, each tensor once."""
        if not with_gradients or self.bytes_per_token:
            return nullcontext()
        assert self.rows is not None
        weights = {p.untyped_storage().data_ptr() for p in self.stack.view.model.parameters()}
        # r · q places; what the KL rows keep is counted with them, and weights are not counted
        tokens, seen = self.rows.targets.numel(), weights

        def count(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                self.bytes_per_token += storage.nbytes() / tokens
            return tensor.detach()  # an output that keeps its own graph is never freed

        return saved_tensors_hooks(count, lambda tensor: tensor)

    def _measure_peak(self) -> None:
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            assert self.rows is not None
            peak = int(self.bytes_per_token * self.rows.targets.numel())
        self.values.peak_bytes = max(self.values.peak_bytes, peak)
