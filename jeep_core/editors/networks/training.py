"""Training of the networks (Mitchell et al. 2021, section 3; Tan et al. 2023, section 4).

A step edits the model with a batch of facts and lowers ``edit_weight`` · NLL of the new answers
to equivalent prompts + ``unrelated_weight`` · KL(before ‖ after) on unrelated ones.  The
model's graph and the network's are never held together: the network runs without a graph, the
model's backward pass ends at Δ, and the network is run again chunk by chunk against that
gradient.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from jeep_core.editors.networks.network import Hypernetwork, NetworkSpec
from jeep_core.editors.networks.storage import (
    adam_tensors,
    create_network,
    restore_adam,
    spec_record,
)
from jeep_core.editors.networks.triples import Triple
from jeep_core.errors import JeepError, is_passing
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.finite import (
    OTHER_VERSION,
    SMALLER_STEPS,
    check_number,
    check_tensor,
    json_text,
    not_finite,
    overflow_named,
)
from jeep_core.spec.positions import PromptTokens
from jeep_core.storage.files import load_whole, save_whole
from jeep_core.storage.looking import listed, present
from jeep_core.storage.records import sealed, unsealed
from jeep_core.storage.writing import write_atomically
from jeep_core.values.gradient_pairs import Pairs, batches, enter, gradient_pairs, read, shifted

log = logging.getLogger(__name__)
BATCH_ROWS = 32
STATISTICS_ROWS = 256
HELD_BACK = 32
CURVE_EVERY = 10


@dataclass(frozen=True)
class TrainingSettings:
    """``facts``: edits per step.  ``scalar_learning_rate``: of log step sizes and log λ."""

    steps: int = 600
    facts: int = 16
    learning_rate: float = 1e-3
    scalar_learning_rate: float = 0.05
    edit_weight: float = 0.1
    unrelated_weight: float = 1.0
    clip: float = 1.0
    save_every: int = 50
    seed: int = 0


@dataclass
class Training:
    """One training run.  ``folder`` holds its checkpoint; a run found there is continued.

    The first triples are held back and measured at the end.
    """

    base: LoadedModel
    spec: NetworkSpec
    triples: Sequence[Triple]
    settings: TrainingSettings
    folder: Path | None = None
    monitor: Monitor = NOTHING
    history: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        # at most a fifth, so that small data is not all held back
        held = min(HELD_BACK, len(self.triples) // 5)
        self.held_back, self.train = self.triples[:held], self.triples[held:]
        self.view = ModelView(self.base)
        self.network: Hypernetwork = create_network(self.spec, self.settings.seed)
        self.network.to(self.base.device)
        scalars = [p for n, p in self.network.named_parameters() if n.startswith("log_")]
        others = [p for n, p in self.network.named_parameters() if not n.startswith("log_")]
        rates = self.settings.learning_rate, self.settings.scalar_learning_rate
        self.adam = torch.optim.Adam(
            [{"params": others, "lr": rates[0]}, {"params": scalars, "lr": rates[1]}]
        )

    def run(self) -> Hypernetwork:
        """Train to the end and return the network.

        Raises:
            Whatever ``monitor.check`` raises, which is called before every step: the checkpoint
                stays and the run can be continued.
            JeepError: the folder holds a run with other settings or other data.
            NumericalError: a loss, a gradient or the network itself is not finite.
        """
        if not self._restore():
            self._statistics()
        total = self.settings.steps
        for step in range(self.done, total):
            self.monitor.check()
            began = time.monotonic()
            self.history.append(self.step(step))
            self.seconds += time.monotonic() - began
            if self.folder and (self.done % self.settings.save_every == 0 or self.done == total):
                self._save()
            self.monitor.report("train", self.done, total)
        for name, tensor in self.network.state_dict().items():
            check_tensor(tensor, f"{name} of the trained network", SMALLER_STEPS)
        return self.network

    @property
    def done(self) -> int:
        """Steps taken."""
        return len(self.history)

    @property
    def curve(self) -> list[tuple[int, float, float]]:
        """Step, mean NLL and mean KL of the steps since the entry before."""
        entries = []
        for start in range(0, self.done, CURVE_EVERY):
            part = self.history[start : start + CURVE_EVERY]
            nll, kl = (sum(values) / len(part) for values in zip(*part, strict=True))
            entries.append((start + len(part), round(nll, 4), round(kl, 4)))
        return entries

    def step(self, number: int) -> tuple[float, float]:
        """One batch and one update; mean NLL of equivalent prompts, mean KL of unrelated ones."""
        rng = random.Random(f"{self.settings.seed}/{number}")
        batch = self._batch(rng)
        pairs = self._pairs([triple.edit for triple in batch])
        deltas = self._deltas(pairs)
        equivalent = [rng.choice(triple.equivalents) for triple in batch]
        unrelated = [rng.choice(triple.unrelated) for triple in batch]
        nll, kl = self._losses(deltas, equivalent, unrelated, backward=True)
        check_number(nll, f"the NLL of new answers in step {number + 1}", SMALLER_STEPS)
        check_number(kl, f"the KL of unrelated prompts in step {number + 1}", SMALLER_STEPS)
        self.adam.zero_grad()
        for layer, delta in deltas.items():
            assert delta.grad is not None
            self.network.backward(layer, pairs[layer], delta.grad)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        check_number(float(norm), f"the gradient of step {number + 1}", SMALLER_STEPS)
        with overflow_named(f"the update of step {number + 1}"):
            self.adam.step()
        return nll, kl

    def measure(self) -> dict[str, float]:
        """On the triples held back, all edited at once, every equivalent and unrelated prompt.

        Mean NLL of the new answers before and after, and KL.
        """
        batch = _one_per_subject(self.held_back, len(self.held_back))
        deltas = self._deltas(self._pairs([triple.edit for triple in batch]))
        zeros = {layer: torch.zeros_like(delta) for layer, delta in deltas.items()}
        rows = (
            [row for triple in batch for row in triple.equivalents],
            [row for triple in batch for row in triple.unrelated],
        )
        before, _ = self._losses(zeros, *rows, backward=False)
        after, kl = self._losses(deltas, *rows, backward=False)
        found = {"nll_before": before, "nll_after": after, "kl": kl}
        for name, value in found.items():
            check_number(value, f"{name} on the triples held back", SMALLER_STEPS)
        return {"edits": len(batch), **{name: round(value, 4) for name, value in found.items()}}

    def record(self) -> dict[str, Any]:
        """The record kept beside a trained network."""
        return {
            "model": self.base.name,
            "model_hash": self.base.model_hash,
            "settings": asdict(self.settings),
            "triples": len(self.train),
            "seconds": round(self.seconds),
            "held_back": self.measure() if self.held_back else None,
            "loss": self.curve,
        }

    # ------------------------------------------------------------ parts of a step

    def _batch(self, rng: random.Random) -> list[Triple]:
        order = rng.sample(range(len(self.train)), min(4 * self.settings.facts, len(self.train)))
        return _one_per_subject([self.train[i] for i in order], self.settings.facts)

    def _pairs(self, rows: Sequence[PromptTokens]) -> dict[int, Pairs]:
        parts = [
            gradient_pairs(self.view, [rows[i] for i in index], self.spec.layers)
            for index in batches(rows, BATCH_ROWS)
        ]
        return {
            layer: (
                # (n, d_ff) and (n, d): tokens of all batches
                torch.cat([part[layer][0] for part in parts]).to(self.base.device),
                torch.cat([part[layer][1] for part in parts]).to(self.base.device),
            )
            for layer in self.spec.layers
        }

    def _deltas(self, pairs: dict[int, Pairs]) -> dict[int, torch.Tensor]:
        """Δ (out, in) per layer, detached from the network; they collect the loss's gradient."""
        deltas = {}
        for layer, both in pairs.items():
            # without the network's graph: its gradient is taken later from that of Δ
            total = self.network.sum(layer)
            total.add(both)
            deltas[layer] = total.update().matrix().float().requires_grad_()
        return deltas

    def _losses(
        self,
        deltas: dict[int, torch.Tensor],
        equivalent: Sequence[PromptTokens],
        unrelated: Sequence[PromptTokens],
        backward: bool,
    ) -> tuple[float, float]:
        s, first, nll_sum, kl_sum = self.settings, min(self.spec.layers), 0.0, 0.0
        for index in batches(equivalent, BATCH_ROWS):
            rows = [equivalent[i] for i in index]
            # (r, t, d): blocks below the first layer that changes are run once and without a graph
            entered = enter(self.view, rows, first)
            with torch.set_grad_enabled(backward), shifted(self.view, deltas):
                nll = read(self.view, rows, entered).nll(len(rows)).sum()
            nll_sum += float(nll.detach())
            if backward:
                # graph by graph, summed in Δ.grad: memory is that of one batch of rows
                (nll * (s.edit_weight / len(equivalent))).backward()  # type: ignore[no-untyped-call]
        for index in batches(unrelated, BATCH_ROWS):
            rows = [unrelated[i] for i in index]
            entered = enter(self.view, rows, first)
            with torch.no_grad():
                before = read(self.view, rows, entered).log_probabilities
            with torch.set_grad_enabled(backward), shifted(self.view, deltas):
                after = read(self.view, rows, entered)
            # (p, V) to (p,): KL(before ‖ after) at every place that is read
            divergence = (before.exp() * (before - after.log_probabilities)).sum(dim=1)
            kl = after.mean_by_row(divergence, len(rows)).sum()
            kl_sum += float(kl.detach())
            if backward:
                (kl * (s.unrelated_weight / len(unrelated))).backward()  # type: ignore[no-untyped-call]
        return nll_sum / len(equivalent), kl_sum / len(unrelated)

    @torch.no_grad()
    def _statistics(self) -> None:
        """Mean and standard deviation of the pairs, over the first triples."""
        rows = [triple.edit for triple in self.train[:STATISTICS_ROWS]]
        moments: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for layer, pairs in self._pairs(rows).items():
            # (n, d_ff + d)
            both = torch.cat(pairs, dim=1).double()
            check_tensor(both, f"layer {layer}: a gradient of the model", OTHER_VERSION)
            moments[layer] = both.mean(dim=0).float(), both.std(dim=0).float()
        self.network.set_statistics(moments)

    # ------------------------------------------------------------ checkpoints

    def _identity(self) -> dict[str, Any]:
        """The settings that must agree for a checkpoint to be continued."""
        settings = asdict(self.settings)
        settings.pop("steps")
        settings.pop("save_every")
        data = hashlib.sha256(repr(list(self.triples)).encode()).hexdigest()
        network = spec_record(self.spec)
        return {"model_hash": self.base.model_hash, "network": network,
                "settings": settings, "data": data}  # fmt: skip

    def _save(self) -> None:
        assert self.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"state-{self.done}.safetensors"
        tensors = {f"network.{n}": t for n, t in self.network.state_dict().items()}
        tensors |= adam_tensors(self.adam)
        whole = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
        save_whole(self.folder / name, whole)
        state = {**self._identity(), "state": name, "history": self.history,
                 "seconds": self.seconds}  # fmt: skip
        write_atomically(
            self.folder / "state.json", sealed(json_text(state, "the checkpoint").encode())
        )
        for old in listed(self.folder, "state-*.safetensors"):
            if old.name != name:
                old.unlink()

    def _restore(self) -> bool:
        """Continue from the checkpoint if there is one, after verifying it; whether there was."""
        path = self.folder and self.folder / "state.json"
        if not (self.folder and path and present(path)):
            return False
        try:
            state = json.loads(unsealed(path.read_bytes().rstrip()))
            if (figure := not_finite(state)) is not None:
                raise ValueError(f"the figure {figure} is not finite")
            tensors = load_whole(self.folder / state["state"])
        except (ValueError, KeyError, FileNotFoundError, SafetensorError, JeepError) as error:
            if is_passing(error):  # it goes on from there where it is tried again
                raise
            log.warning("the training starts again, its checkpoint is damaged: %s", error)
            return False
        for key, value in json.loads(json.dumps(self._identity())).items():
            if state[key] != value:
                raise JeepError(
                    f"{self.folder} holds a training run with other {key.replace('_', ' ')}; "
                    "remove it to start again"
                )
        own = {n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network")}
        self.network.load_state_dict(own)
        restore_adam(self.adam, tensors)
        self.history = [(nll, kl) for nll, kl in state["history"]]
        self.seconds = state["seconds"]
        return True


def _one_per_subject(triples: Sequence[Triple], limit: int) -> list[Triple]:
    chosen: dict[str, Triple] = {}
    for triple in triples:
        chosen.setdefault(triple.subject, triple)
    return list(chosen.values())[:limit]
