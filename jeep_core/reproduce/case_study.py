"""Table 1: what editors write for one edited case, its paraphrase and an unrelated prompt.

The case is the first one whose three prompts the paper's editor answers rightly while another
fails on one of them; if there is none, the first case.  This rule alone decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jeep_core.decoding.generation import generate
from jeep_core.decoding.sampling import Sampling
from jeep_core.editors import in_order, record_of
from jeep_core.reproduce.experiments import Plan
from jeep_core.reproduce.paper import OURS
from jeep_core.reproduce.runs import UNEDITED, Lab, Run
from jeep_core.suites import Case

TOKENS = 8
LOOKED_AT = 64
"""Cases among which one is chosen."""


def case_study(lab: Lab, plan: Plan) -> dict[str, Any] | None:
    """The chosen case with every editor's greedy answers; None if no case has all prompts."""
    suite, seed = plan.accuracy or plan.main, plan.seeds[0]
    editors = {name: plan.settings[name] for name in _shown() if name in plan.settings}
    cases = lab.cases(suite, seed)[: plan.most]
    numbers = [i for i, case in enumerate(cases) if _prompts(case)][:LOOKED_AT]
    if not numbers:
        return None
    prompts = [text for i in numbers for _, text, _ in _prompts(cases[i])]
    written: dict[str, list[str]] = {}
    for name, setting in {"unedited": UNEDITED, **editors}.items():
        view = lab.view(Run(suite, seed, setting, range(len(cases))))
        found = generate(view, prompts, Sampling(max_new_tokens=TOKENS))
        written[name] = [one.text.strip() for one in found]
    place = _chosen([cases[i] for i in numbers], written)
    rows = [
        {
            "kind": kind,
            "prompt": text,
            "right": right,
            "answers": {name: texts[3 * place + k] for name, texts in written.items()},
        }
        for k, (kind, text, right) in enumerate(_prompts(cases[numbers[place]]))
    ]
    return {"suite": suite, "edits": len(cases), "rows": rows}


def _shown() -> list[str]:
    """The editors whose records say so, in the order of tables."""
    return [name for name in in_order() if record_of(name).case_study]


def _prompts(case: Case) -> list[tuple[str, str, str]]:
    """Kind, text and right answer of the three prompts; empty if the case lacks one."""
    other = [(q.prompt, q.answer) for q in case.unrelated]
    if case.target_true is not None:
        other += [(text, case.target_true) for text in case.neighborhood_prompts]
    if not case.paraphrase_prompts or not other:
        return []
    return [
        ("edited", case.text, case.target_new),
        ("equivalent", case.paraphrase_prompts[0], case.target_new),
        ("unrelated", *other[0]),
    ]


def _chosen(cases: Sequence[Case], written: Mapping[str, Sequence[str]]) -> int:
    """The number of the case, by the rule above."""
    right = {
        name: [
            all(
                texts[3 * i + k].startswith(prompt[2].strip())
                for k, prompt in enumerate(_prompts(case))
            )
            for i, case in enumerate(cases)
        ]
        for name, texts in written.items()
    }
    others = [name for name in _shown() if name in right and name != OURS]
    for i in range(len(cases)):
        if right[OURS][i] and not all(right[name][i] for name in others):
            return i
    return 0
