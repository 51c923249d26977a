"""The facts that are being optimised: they join, take steps together, and leave one by one.

A fact is a line of rows and a KL row: the row with the empty prefix first, those of a second
context last but for the KL row.  Where the objective has ``early_prefixes``, a fact is asked with
the rows after these prefixes alone until it would stop, for half of the passes at most, and then
with all of them.  In comments n is the number of facts in the pool, d the hidden size, V the
vocabulary, g the number of facts in a group of those that are asked the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.autograd.graph import saved_tensors_hooks

from jeep_core.errors import NumericalError
from jeep_core.models.fused.placing import fuse
from jeep_core.models.lines import Lines
from jeep_core.models.upper_blocks import UpperStack
from jeep_core.models.views import ModelView, Rounded, in_bfloat16
from jeep_core.spec.finite import OTHER_VERSION, SMALLER_STEPS
from jeep_core.text.counting import counted
from jeep_core.values.found import Found
from jeep_core.values.group import Group, Texts, groups_of
from jeep_core.values.objective import WRITTEN_KL, FactTokens, Objective, Values
from jeep_core.values.sites import Site, Slopes, Trust, adam_step

PATIENCE = 4
"""Passes without gain after which a fact stops: its vector lies at its clamp, or as good as."""


class Pool:
    """The facts in progress; ``values`` holds the results of those that have stopped.

    ``index``, ``passes``, ``moves`` (updates), ``nll_weight`` (n,) and ``kl_before`` (n, V) have an
    entry per fact.
    """

    def __init__(
        self,
        view: ModelView,
        facts: Sequence[FactTokens],
        objective: Objective,
        memory_bytes: int | None,
        rounded: Rounded | None = None,
    ) -> None:
        o = objective
        self.facts, self.objective, self.memory_bytes = facts, o, memory_bytes
        self.texts = Texts(len(facts[0].all_rows), len(facts[0].chat))
        # how many prefixes a fact is asked after at first; None: all of them
        self.at_first = o.early_prefixes if o.n_steps > 1 else None
        if self.at_first and self.texts.at_most(self.at_first) == self.texts:
            self.at_first = None
        self.device = view.base.device
        # group j is all facts after prefix j, those of the second context after those of the
        # first, the last group their KL rows
        groups = [list(group) for group in zip(*(f.line for f in facts), strict=True)]
        high = o.high.last if o.high else None
        self.bfloat16 = o.compute_dtype == "bfloat16"
        with self._products():
            run = in_bfloat16(view, rounded) if self.bfloat16 else view
            if self.bfloat16 and self.device.type == "cpu":
                # the gradient of torch's fused attention takes a third of a pass over short rows
                run.model.set_attn_implementation("eager")
                fuse(run.model, view.model)
            self.stack = UpperStack(run, o.low.last, high, groups, inside=o.low_site != "block")
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
        self.lines: Lines | None = None
        # (n,): whether a fact is still asked after the first prefixes alone; the groups that follow
        # from it, None after a change
        self.early = torch.zeros(0, dtype=torch.bool, device=self.device)
        self.groups: Sequence[Group] | None = None
        self.index = torch.zeros(0, dtype=torch.long, device=self.device)
        self.passes = self.moves = torch.zeros(0, device=self.device)
        self.nll_weight = torch.zeros(0, device=self.device)
        self.trust = Trust(self.device)
        # of Newton's steps: what was measured at each fact's best vectors so far
        self.measured: Found | None = None
        self.kl_before = torch.zeros(0, view.base.vocabulary, device=self.device)
        self.bytes_per_token = 0.0
        self.values = Values.empty(
            len(facts), size, list(self.sites), bool(self.texts.chat), self.device
        )
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
            # waiting facts are in order of width: all lines are padded to the last one chosen
            width = self.facts[waiting[wanted - 1]].shape[0]
            held = (n + wanted) * width * self.bytes_per_token
            if held <= self.memory_bytes:
                break
            wanted -= 1
        return wanted or int(n == 0)

    def admit(self, chosen: Sequence[int]) -> None:
        """Add facts, at δ = 0; ``chosen`` are their numbers."""
        with self._products():
            lines = self.stack.capture([self.facts[i].line for i in chosen])
        self.lines = lines if self.lines is None else self.lines.join(lines)
        early = self.early.new_full((len(chosen),), self.at_first is not None)
        self.early, self.groups = torch.cat([self.early, early]), None
        self.index = torch.cat([self.index, torch.tensor(chosen, device=self.device)])
        # passes, moves (n,), kl_before (n, V): `_forward` fills in a fact whose passes are 0
        self.passes, self.moves, self.kl_before = (
            torch.cat([t, t.new_zeros(len(chosen), *t.shape[1:])])
            for t in (self.passes, self.moves, self.kl_before)
        )
        self.nll_weight = torch.cat([self.nll_weight, self.nll_weight.new_ones(len(chosen))])
        self.trust.add(len(chosen))
        self.measured = self.measured and self.measured.grown(len(chosen))
        for site in self.sites.values():
            site.add(len(chosen))

    def evict(self, limit: int) -> list[int]:
        """Remove all but the first ``limit`` facts, to begin again later; the removed numbers."""
        gone: list[int] = self.index[limit:].tolist()
        self._keep(torch.arange(min(limit, len(self)), device=self.device))
        return gone

    def _keep(self, index: torch.Tensor) -> None:
        self.lines = self.lines.keep(index) if self.lines and len(index) else None
        self.early, self.groups = self.early[index], None
        self.index, self.passes, self.moves = (
            t[index] for t in (self.index, self.passes, self.moves)
        )
        self.nll_weight, self.kl_before = self.nll_weight[index], self.kl_before[index]
        self.trust.keep(index)
        self.measured = self.measured and self.measured.keep(index)
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
        at = {name: self.sites[name].vectors.value for name in gradients}
        slopes = Slopes(found.loss, at, gradients)
        self.values.trace.append((self.index.clone(), found.loss))
        self.passes = self.passes + 1
        self._check(found.loss)
        # (n,) each; a fact that stops keeps the δ that this pass has measured
        done = torch.zeros_like(found.written)
        if o.stop_probability is not None:
            # the rows that an early fact is not asked yet are mostly behind those that it is: they
            # are to have twice the odds
            early = 2 * o.stop_probability / (1 + o.stop_probability)
            done |= found.probability >= torch.where(self.early, early, o.stop_probability)
        if o.stop_loss is not None:
            done |= found.loss < o.stop_loss
        if o.written_weight is not None:
            done |= found.written & (found.kl_loss <= WRITTEN_KL)
            self.nll_weight = torch.where(found.written, o.written_weight, 1.0)
        if o.margin is not None:
            done &= found.written
        stopped = done | (self.passes >= o.n_steps)
        if o.goal is not None:
            stopped |= self.trust.waited(found.loss) >= PATIENCE
            found = self._best(found, done)
        # half of the passes are kept for all rows, the last one in any case
        halted = self.early & stopped
        widened = halted | (self.early & (self.passes >= o.n_steps // 2))
        stopped &= ~self.early
        n_stopped = int(stopped.sum())
        if n_stopped:
            self._record(stopped, found)
            keep = (~stopped).nonzero().flatten()
            self._keep(keep)
            slopes, widened, halted = slopes.keep(keep), widened[keep], halted[keep]
        if len(self):
            self._move(slopes, ~halted)
        if bool(widened.any()):
            self.early, self.groups = self.early & ~widened, None
            # what was found of a few rows says nothing of all
            self.trust.forget(widened)
            self.nll_weight = torch.where(widened, 1.0, self.nll_weight)
        return n_stopped

    def _move(self, slopes: Slopes, moving: torch.Tensor) -> None:
        """One update of the facts that are ``moving`` (n,)."""
        self.moves = self.moves + moving
        if self.objective.goal is None:
            adam_step(self.sites, slopes.gradients, self.moves.clamp_min(1), moving)
        else:
            self.trust.step(self.sites, slopes, self.objective.goal, moving)

    def _best(self, found: Found, done: torch.Tensor) -> Found:
        """The result to go by: of a fact that is not ``done`` (n,), the one at its best vectors.

        A step that led to a larger loss is taken back; a fact that ends with one keeps the
        vectors before it.
        """
        if self.measured is not None:
            back = ~done & (found.loss >= self.trust.best)
            found = self.measured.where(back, found)
            self.trust.take_back(self.sites, back)
        self.measured = found
        return found

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

    def _evaluate(self) -> tuple[Found, dict[str, torch.Tensor]]:
        """The result of a pass, and the gradients (n, d) of the vectors that are optimised."""
        assert self.lines is not None
        if self.groups is None:
            self.groups = groups_of(self.lines, self.texts, self.early, self.at_first)
        # no update follows a fact's last pass
        with_gradients = bool((self.passes < self.objective.n_steps - 1).any())
        parts = [self._evaluate_group(group, with_gradients) for group in self.groups]
        self._measure_peak()
        [(found, gradients), *others] = parts
        if not others:
            return found, gradients
        # the place of each fact of the pool in the groups' results, one after the other
        order = torch.cat(
            [group.of(torch.arange(len(self), device=self.device)) for group in self.groups]
        ).argsort()
        for more, steeper in others:
            found = found.followed_by(more)
            gradients = {name: torch.cat([g, steeper[name]]) for name, g in gradients.items()}
        return found.keep(order), {name: g[order] for name, g in gradients.items()}

    def _evaluate_group(
        self, group: Group, with_gradients: bool
    ) -> tuple[Found, dict[str, torch.Tensor]]:
        """The result of a pass over a group, and its gradients (g, d), if any are asked for."""
        deltas = {
            # (g, d) leaves that share Adam's memory, which is written after the backward pass only
            name: group.of(site.vectors.value)
            .detach()
            .requires_grad_(with_gradients and site.trained)
            for name, site in self.sites.items()
        }
        with (
            torch.set_grad_enabled(with_gradients),
            self._products(),
            self._counted(with_gradients, group.lines.tokens),
        ):
            found = self._forward(group, deltas)
        gradients: dict[str, torch.Tensor] = {}
        if with_gradients:
            trained = [name for name, site in self.sites.items() if site.trained]
            # facts are independent: the gradient of the sum is each fact's own
            grads = torch.autograd.grad(found.loss.sum(), [deltas[name] for name in trained])
            gradients = dict(zip(trained, grads, strict=True))
        return found.detached(), gradients

    def _products(self) -> AbstractContextManager[object]:
        """Where matrix products are taken in the type that was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def _forward(self, group: Group, deltas: dict[str, torch.Tensor]) -> Found:
        """Losses (g,) and states (g, d) from ``deltas`` (g, d) by site.

        At a fact's first pass every δ is zero: that pass gives the unedited states and the
        unedited distribution.
        """
        lines, texts = group.lines, group.texts
        first = group.of(self.passes == 0)[:, None]
        hidden, seen = self.stack.forward(lines, deltas)  # (g, q, d), (g, k, d) by site
        chat = texts.rows - texts.chat
        for name, site in self.sites.items():
            # (g, d): the row with the empty prefix is the first of its context
            states = seen[name].detach().float()
            mine = torch.where(first, states[:, 0], group.of(site.reference))
            site.reference = group.put(site.reference, mine)
            if texts.chat:
                mine = torch.where(first, states[:, chat], group.of(site.chat_reference))
                site.chat_reference = group.put(site.chat_reference, mine)
        # (m, V) at the m places that are read, of which g are those of the KL rows, fact by fact
        read = self.stack.log_probabilities(lines, hidden)
        nll_rows, written = group.of_targets(read, self.objective.margin)
        # after (g, V): KL(edited ‖ unedited) at the subject's last token of the KL row
        after = read[group.is_kl()]
        before = torch.where(first, after.detach(), group.of(self.kl_before))
        self.kl_before = group.put(self.kl_before, before)
        kl_loss = self.objective.kl_weight * (after.exp() * (after - before)).sum(dim=1)
        # (g, rows) to (g,): a fact counts with the mean over its prefixes
        loss = group.of(self.nll_weight) * group.mean(nll_rows) + kl_loss
        for name, site in self.sites.items():
            loss = loss + site.decay(deltas[name], group.of(site.reference))
        # states without δ*, but moved by δ': what δ* is added to at the end
        high = seen["high"][:, 0].float() if "high" in seen else None
        chat_high = seen["high"][:, chat].float() if "high" in seen and texts.chat else None
        probability = group.mean(nll_rows.neg().exp())
        return Found(loss, kl_loss, probability, written, high, chat_high)

    def _record(self, stopped: torch.Tensor, found: Found) -> None:
        values, where = self.values, self.index[stopped]
        # (k, d) by site, for the k facts that stop
        reached = {
            name: (site.reference + site.vectors.value)[stopped]
            for name, site in self.sites.items()
        }
        values.low[where] = reached["low"]
        values.delta_low[where] = self.sites["low"].vectors.value[stopped]
        values.steps[where] = self.passes[stopped].long()
        values.losses[where] = found.loss[stopped]
        values.probabilities[where] = found.probability[stopped]
        if values.attention is not None:
            values.attention[where] = reached["attention"]
        if values.high is not None and values.delta_high is not None and found.high is not None:
            delta = self.sites["high"].vectors.value[stopped]
            # "literal": the unedited state plus δ*; else the state that δ' has moved, plus δ*
            literal = self.objective.high_target == "literal"
            values.delta_high[where] = delta
            values.high[where] = reached["high"] if literal else found.high[stopped] + delta
        self._record_chat(values, where, stopped, found)

    def _record_chat(
        self, values: Values, where: torch.Tensor, stopped: torch.Tensor, found: Found
    ) -> None:
        """The states to reach in the second context, if there is one."""
        if values.chat_low is None:
            return
        reached = {
            name: (site.chat_reference + site.vectors.value)[stopped]
            for name, site in self.sites.items()
        }
        values.chat_low[where] = reached["low"]
        if values.chat_high is not None and found.chat_high is not None:
            delta = self.sites["high"].vectors.value[stopped]
            literal = self.objective.high_target == "literal"
            there = reached["high"] if literal else found.chat_high[stopped] + delta
            values.chat_high[where] = there

    # ------------------------------------------------------------ memory

    def _counted(self, with_gradients: bool, tokens: int) -> AbstractContextManager[object]:
        """At the first pass, of n · q ``tokens``, count what the backward pass keeps, each tensor
        once."""
        if not with_gradients or self.bytes_per_token:
            return nullcontext()
        # weights are not counted
        seen = {p.untyped_storage().data_ptr() for p in self.stack.view.model.parameters()}

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
            # one group runs after the other
            tokens = max(group.lines.tokens for group in self.groups or ())
            peak = int(self.bytes_per_token * tokens)
        self.values.peak_bytes = max(self.values.peak_bytes, peak)
