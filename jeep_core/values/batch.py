"""The facts that are being optimised: they join, take steps together, and leave one by one.

A fact is a line of rows and a KL row: the row with the empty prefix first, those of a second
context last but for the KL row.  Where the objective has ``early_prefixes``, a fact is asked with
the rows after these prefixes alone until it would stop, for half of the passes at most, and then
with all of them.  In comments n is the number of facts in a stage, d the hidden size, V the
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.autograd.graph import saved_tensors_hooks

from jeep_core.errors import NumericalError
from jeep_core.models.fused.twin import Twin
from jeep_core.models.placement.moving import bfloat16_products
from jeep_core.models.upper_blocks import UpperStack
from jeep_core.models.views import ModelView
from jeep_core.spec.finite import OTHER_VERSION, SMALLER_STEPS
from jeep_core.text.counting import counted
from jeep_core.values.asked import Texts
from jeep_core.values.found import Found
from jeep_core.values.objective import FactTokens, Objective, Values
from jeep_core.values.stage import Stage


class Pool:
    """The facts in progress; ``values`` holds the results of those that have stopped.

    ``early`` are those that are asked after a few prefixes, if the objective has such, ``last``
    those that are asked all texts.
    """

    def __init__(
        self,
        view: ModelView,
        facts: Sequence[FactTokens],
        objective: Objective,
        memory_bytes: int | None,
        twin: Twin | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        o = objective
        self.facts, self.objective, self.memory_bytes = facts, o, memory_bytes
        # how an error names each fact, as the caller counts them
        self.names = names or [""] * len(facts)
        self.device, self._devices = view.base.device, view.base.devices
        # group j is all facts after prefix j, those of the second context after those of the
        # first, the last group their KL rows
        groups = [list(group) for group in zip(*(f.line for f in facts), strict=True)]
        high = o.high.last if o.high else None
        self.bfloat16 = o.compute_dtype == "bfloat16"
        if self.bfloat16:
            view = (twin or Twin(view)).now()
        with self._products():
            self.stack = UpperStack(view, o.low.last, high, groups, inside=o.low_site != "block")
        texts = Texts(len(facts[0].all_rows), len(facts[0].chat))
        # how many prefixes a fact is asked after at first; None: all of them
        first = o.early_prefixes if o.n_steps > 1 else None
        if first and texts.at_most(first) == texts:
            first = None
        self.early = Stage(self.stack, o, texts, first) if first else None
        self.last = Stage(self.stack, o, texts)
        self.values = Values.empty(
            len(facts), view.base.hidden_size, list(self.last.sites), bool(texts.chat), self.device
        )
        self._gpus = [one for one in self._devices if one.type == "cuda"]
        for gpu in self._gpus:
            torch.cuda.reset_peak_memory_stats(gpu)

    def __len__(self) -> int:
        return sum(map(len, self._stages))

    @property
    def _stages(self) -> list[Stage]:
        return [self.last] if self.early is None else [self.early, self.last]

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
        if not self.last.bytes_per_token:  # not measured yet: one fact goes first
            return 1 if n == 0 else 0
        while wanted:
            # waiting facts are in order of width: all lines are padded to the last one chosen
            width = self.facts[waiting[wanted - 1]].shape[0]
            # as where all texts are asked: there a token holds most, as it sees more others
            held = (n + wanted) * width * self.last.bytes_per_token
            if held <= self.memory_bytes:
                break
            wanted -= 1
        return wanted or int(n == 0)

    def admit(self, chosen: Sequence[int]) -> None:
        """Add facts, at δ = 0; ``chosen`` are their numbers."""
        with self._products():
            lines = self.stack.capture([self.facts[i].line for i in chosen])
        index = torch.tensor(chosen, device=self.device)
        bounded = self.memory_bytes is not None
        if bounded and self.early is not None and not self.last.bytes_per_token:
            # the early stage's passes do not tell: one over all texts, of which nothing is kept
            trial = Stage(self.stack, self.objective, self.last.texts)
            trial.add(index, lines)
            trial.evaluate(self._products(), self._counted(trial))
            self.last.bytes_per_token = trial.bytes_per_token
        self._stages[0].add(index, lines)

    def evict(self, limit: int) -> list[int]:
        """Remove all but ``limit`` facts, to begin again later; the removed numbers."""
        gone: list[int] = []
        # those that are asked all texts have come further
        for stage in reversed(self._stages):
            gone += stage.index[limit:].tolist()
            stage.keep(torch.arange(min(limit, len(stage)), device=self.device))
            limit -= len(stage)
        return gone

    # ------------------------------------------------------------ one step

    def step(self) -> int:
        """One pass over a stage, and one update of its facts that continue; returns how many
        stopped.

        Raises:
            NumericalError: the loss of a fact is not finite.
        """
        stage = self._due()
        tokens = stage.asked.lines.tokens
        found, slopes = stage.evaluate(self._products(), self._counted(stage))
        self._measure_peak(stage, tokens)
        self.values.trace.append((stage.index.clone(), found.loss))
        self._check(stage, found.loss)
        stop = self.objective.stop_probability
        if stage is self.early:
            # the rows that are not asked yet are mostly less sure than those that are: these are to
            # have twice the odds
            found, done = stage.judge(found, stop and 2 * stop / (1 + stop))
            stage.move(slopes, ~done)
            # half of the passes are kept for all rows
            self._widen(stage, done | (stage.passes >= self.objective.n_steps // 2))
            return 0
        found, stopped = stage.judge(found, stop)
        n_stopped = int(stopped.sum())
        if n_stopped:
            self._record(stage, stopped, found)
            keep = (~stopped).nonzero().flatten()
            stage.keep(keep)
            slopes = slopes.keep(keep)
        if len(stage):
            stage.move(slopes, torch.ones_like(stage.index, dtype=torch.bool))
        return n_stopped

    def _due(self) -> Stage:
        """The stage of the next pass.

        A pass over few facts takes nearly as long as one over a few more: all texts are asked when
        half as many facts wait for it as are asked after the first prefixes.
        """
        if self.early is None or 2 * len(self.last) >= len(self.early):
            return self.last
        return self.early

    def _widen(self, stage: Stage, chosen: torch.Tensor) -> None:
        """Ask all texts of the facts ``chosen`` (n,) from now on."""
        if bool(chosen.any()):
            self.last.take(stage, chosen.nonzero().flatten())
            stage.keep((~chosen).nonzero().flatten())

    def _check(self, stage: Stage, loss: torch.Tensor) -> None:
        """Raise ``NumericalError`` for the first fact whose loss (n,) is not finite."""
        wrong = (~torch.isfinite(loss)).nonzero().flatten().tolist()
        if wrong:
            fact, taken = int(stage.index[wrong[0]]), int(stage.passes[wrong[0]])
            what = (
                f"layer {self.objective.low.last}: the loss{self.names[fact]} "
                f"after {counted(taken - 1, 'step')}"
            )
            advice = SMALLER_STEPS if taken > 1 else OTHER_VERSION
            raise NumericalError(f"{what} is not finite (NaN or infinity); {advice}")

    def _products(self) -> AbstractContextManager[object]:
        """Where matrix products are taken in the type that was asked for."""
        return bfloat16_products(self._devices, enabled=self.bfloat16)

    def _record(self, stage: Stage, stopped: torch.Tensor, found: Found) -> None:
        values, where = self.values, stage.index[stopped]
        # (k, d) by site, for the k facts that stop
        reached = {
            name: (site.reference + site.vectors.value)[stopped]
            for name, site in stage.sites.items()
        }
        values.low[where] = reached["low"]
        values.delta_low[where] = stage.sites["low"].vectors.value[stopped]
        values.steps[where] = stage.passes[stopped].long()
        values.losses[where] = found.loss[stopped]
        values.probabilities[where] = found.probability[stopped]
        if values.attention is not None:
            values.attention[where] = reached["attention"]
        if values.high is not None and values.delta_high is not None and found.high is not None:
            delta = stage.sites["high"].vectors.value[stopped]
            # "literal": the unedited state plus δ*; else the state that δ' has moved, plus δ*
            literal = self.objective.high_target == "literal"
            values.delta_high[where] = delta
            values.high[where] = reached["high"] if literal else found.high[stopped] + delta
        self._record_chat(stage, where, stopped, found)

    def _record_chat(
        self, stage: Stage, where: torch.Tensor, stopped: torch.Tensor, found: Found
    ) -> None:
        """The states to reach in the second context, if there is one."""
        values = self.values
        if values.chat_low is None:
            return
        reached = {
            name: (site.chat_reference + site.vectors.value)[stopped]
            for name, site in stage.sites.items()
        }
        values.chat_low[where] = reached["low"]
        if values.chat_high is not None and found.chat_high is not None:
            delta = stage.sites["high"].vectors.value[stopped]
            literal = self.objective.high_target == "literal"
            there = reached["high"] if literal else found.chat_high[stopped] + delta
            values.chat_high[where] = there

    # ------------------------------------------------------------ memory

    def _counted(self, stage: Stage) -> AbstractContextManager[object]:
        """At a stage's first pass count what the backward pass keeps, each tensor once."""
        if not stage.with_gradients or stage.bytes_per_token:
            return nullcontext()
        tokens = stage.asked.lines.tokens
        # weights are not counted
        seen = {p.untyped_storage().data_ptr() for p in self.stack.view.model.parameters()}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                stage.bytes_per_token += storage.nbytes() / tokens
            return tensor.detach()  # an output that keeps its own graph is never freed

        return saved_tensors_hooks(count, lambda tensor: tensor)

    def _measure_peak(self, stage: Stage, tokens: int) -> None:
        if self._gpus:
            peak = sum(map(torch.cuda.max_memory_allocated, self._gpus))
        else:
            peak = int(stage.bytes_per_token * tokens)
        self.values.peak_bytes = max(self.values.peak_bytes, peak)
