"""The yardstick: value optimisation as published, with nothing reused.

Every step runs every token of every row through the whole model, with logits of the whole
vocabulary at every position, forward and backward.  ``optimise_plain`` takes the facts in
batches of a fixed size that wait for their slowest fact; with batches of one it is the
published procedure: a fact at a time, its prefixes and its KL prompt in one padded batch, and
an early stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from jeep_core.models.token_rows import TokenRows, stack_rows
from jeep_core.models.views import ModelView, block_output, hooked, with_hidden
from jeep_core.values.optimiser import FactTokens, Objective


def optimise_plain(
    view: ModelView, facts: Sequence[FactTokens], objective: Objective, batch_facts: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """δ' (m, d) and passes (m,) of all facts, in batches that wait for their slowest fact.

    Raises:
        ValueError: the objective is not optimised by Adam, which is what was published.
    """
    if objective.optimizer != "adam":
        raise ValueError(f"the published procedure takes Adam's steps, not {objective.optimizer}")
    deltas, passes = [], []
    for start in range(0, len(facts), batch_facts):
        low, count = _batch(view, facts[start : start + batch_facts], objective)
        deltas.append(low)
        passes.append(count)
    return torch.cat(deltas), torch.cat(passes)


def _batch(
    view: ModelView, facts: Sequence[FactTokens], o: Objective
) -> tuple[torch.Tensor, torch.Tensor]:
    m, device = len(facts), view.base.device
    per_fact = len(facts[0].rows) + 1
    rows = stack_rows([row for f in facts for row in (*f.rows, f.kl)], device)
    n_target = torch.tensor([row.n_target for f in facts for row in (*f.rows, f.kl)])
    fact_of = torch.arange(m).repeat_interleave(per_fact)
    is_kl = torch.arange(m * per_fact) % per_fact == per_fact - 1
    zeros = torch.zeros(m, view.base.hidden_size, device=device)
    with torch.no_grad():
        logits, h_low, h_high = _run(view, rows, o, zeros[fact_of], zeros[fact_of])
        kl_before = F.log_softmax(logits[is_kl, rows.subject_last[is_kl]], dim=-1)
    h_low, h_high = h_low[::per_fact], h_high[::per_fact]
    low = torch.zeros_like(h_low, requires_grad=True)
    high = torch.zeros_like(h_high, requires_grad=o.high is not None)
    adam = torch.optim.Adam([low, high] if o.high else [low], lr=o.learning_rate)
    final, passes = torch.zeros_like(low), torch.zeros(m, dtype=torch.long)
    for step in range(o.n_steps):
        on_high = high[fact_of] * (~is_kl)[:, None]
        logits, _, _ = _run(view, rows, o, low[fact_of], on_high)
        lp = F.log_softmax(logits, dim=-1)
        nll = _nll(lp, rows, n_target)[~is_kl].view(m, -1)
        after = lp[is_kl, rows.subject_last[is_kl]]
        kl = (after.exp() * (after - kl_before)).sum(dim=1)
        loss = nll.mean(dim=1) + o.kl_weight * kl
        loss = loss + o.low.weight_decay * low.norm(dim=1) / h_low.norm(dim=1) ** 2
        if o.high:
            loss = loss + o.high.weight_decay * high.norm(dim=1) / h_high.norm(dim=1) ** 2
        probability = nll.detach().neg().exp().mean(dim=1)
        done = loss.detach() < (o.stop_loss or -1)
        if o.stop_probability is not None:
            done |= probability >= o.stop_probability
        done |= torch.tensor(step == o.n_steps - 1)
        new = done & (passes == 0)
        passes[new], final[new] = step + 1, low.detach()[new]
        if bool((passes > 0).all()):
            break
        adam.zero_grad()
        loss.sum().backward()
        adam.step()
        with torch.no_grad():
            _project(low, o.low.clamp * h_low.norm(dim=1))
            if o.high:
                _project(high, o.high.clamp * h_high.norm(dim=1))
    return final, passes


def _run(
    view: ModelView, rows: TokenRows, o: Objective, low: torch.Tensor, high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (r, t, vocabulary) with the deltas added, and the states they are added to."""
    layers = view.base.family.layers_of(view.model)
    r = torch.arange(len(rows.ids))
    seen: dict[str, torch.Tensor] = {}

    def adding(name: str, place: torch.Tensor, delta: torch.Tensor) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            hidden = block_output(output)
            seen[name] = hidden[r, place].detach()
            changed = hidden.clone()
            changed[r, place] = hidden[r, place] + delta
            return with_hidden(output, changed)

        return hook

    hooks = [layers[o.low.last].register_forward_hook(adding("low", rows.subject_last, low))]
    if o.high:
        hook = adding("high", rows.prediction, high)
        hooks.append(layers[o.high.last].register_forward_hook(hook))
    with hooked(*hooks):
        logits = view.model(input_ids=rows.ids, use_cache=False).logits.float()
    return logits, seen["low"], seen.get("high", seen["low"])


def _nll(lp: torch.Tensor, rows: TokenRows, n_target: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of each row's target, (r,)."""
    places = torch.arange(rows.ids.shape[1] - 1)
    first = rows.prediction[:, None]
    is_target = (places >= first) & (places < first + n_target[:, None])
    picked = lp[:, :-1].gather(2, rows.ids[:, 1:, None])[:, :, 0]
    return -(picked * is_target).sum(dim=1) / n_target.clamp_min(1)


def _project(delta: torch.Tensor, limit: torch.Tensor) -> None:
    delta.mul_((limit / delta.norm(dim=1).clamp_min(1e-30)).clamp(max=1)[:, None])
