"""The facts that a model is probed on where none are given: general knowledge that it has.

A probe takes those that the model knows, as the state of a subject that it does not know decides
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from jeep_core.models.giving_way import giving_way
from jeep_core.models.token_rows import stack_rows
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.probe.defaults.general import general_knowledge
from jeep_core.probe.prompts import Prompt, batches, prepare
from jeep_core.spec.facts import Fact

NAME = "general knowledge"
ASKED_TOGETHER = 64


def known_facts(
    view: ModelView,
    count: int,
    monitor: Monitor = NOTHING,
    facts: Sequence[Fact] | None = None,
) -> list[Fact]:
    """At most ``count`` of the ``facts`` (default: general knowledge) that the model knows.

    Known is a fact whose answer the model begins to write; where there are too few of these, also
    one whose answer begins with a more probable token than a wrong answer does, clearest first.
    Facts are asked in their order, only as many as it takes.

    Raises:
        Whatever ``monitor.check`` raises.
    """
    asked = general_knowledge() if facts is None else facts
    known: list[Fact] = []
    likely: list[tuple[float, Fact]] = []
    for start in range(0, len(asked), ASKED_TOGETHER):
        if len(known) >= count:
            break
        monitor.check()
        with giving_way(view, monitor):
            prompts = prepare(view, asked[start : start + ASKED_TOGETHER]).prompts
            said = _asked(view, prompts)
        for prompt, (first, ahead) in zip(prompts, said, strict=True):
            if first:
                known.append(prompt.fact)
            elif ahead > 0:
                likely.append((ahead, prompt.fact))
        monitor.report("probe", min(len(known), count), count)
    likely.sort(key=lambda found: -found[0])
    return [*known, *(fact for _, fact in likely)][:count]


@torch.no_grad()
def _asked(view: ModelView, prompts: Sequence[Prompt]) -> list[tuple[bool, float]]:
    """Whether a model's next token is the answer's, and by how much its logit is ahead."""
    family, found = view.base.family, [(False, 0.0)] * len(prompts)
    for chosen in batches([prompt.tokens for prompt in prompts]):
        some = [prompts[i] for i in chosen]
        rows = stack_rows([prompt.tokens for prompt in some], view.base.device)
        hidden = family.backbone_of(view.model)(input_ids=rows.ids, use_cache=False)
        r = torch.arange(len(some), device=view.base.device)
        logits = family.logits_of(view.model, hidden.last_hidden_state[r, rows.prediction])
        best = logits.argmax(dim=1).tolist()
        for row, i, prompt, token in zip(range(len(some)), chosen, some, best, strict=True):
            ahead = logits[row, prompt.original] - logits[row, prompt.target]
            found[i] = (token == prompt.original, float(ahead))
    return found
