"""Writes facts into eight matrices with the tree that is first on the path; prints one JSON object.

A part of `bench.library.writing`, which runs it with this tree and with an earlier one, so it uses
only what both have.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

PREFIXES = (
    "",
    "The river is wide and old.",
    "In the north of the country,",
    "He said that",
    "There is a town on the coast where",
    "Because the train was late,",
)
PROMPTS = (
    "{} is located in the city of",
    "The mother tongue of {} is",
    "{} was written by",
    "{} is a company based in",
)
SUBJECTS = (
    "Eiffel Tower",
    "Mount Fuji",
    "Frédéric Chopin",
    "Hamlet",
    "Toyota",
    "Danielle Darrieux",
    "penicillin",
    "Brazil",
)


def run(model: str, text: str, facts: int, low: list[int], high: list[int]) -> dict[str, Any]:
    """CPU seconds of writing, and the hash of every matrix that was written.

    Values are made up, and second moments are taken over ``text`` by each tree: neither is timed.
    """
    import torch

    import jeep_core
    from jeep_core.editing import prepare_facts, tokenize
    from jeep_core.editors import base as writing
    from jeep_core.editors.base import EditContext, EditorOutcome, write_region
    from jeep_core.editors.memit.hparams import MemitHParams
    from jeep_core.models.loading import texts_of
    from jeep_core.models.views import ModelView
    from jeep_core.moments.cache import Moments
    from jeep_core.spec.hparams import Region
    from jeep_core.updates.least_squares import solve_update

    torch.set_num_threads(1)
    base = jeep_core.load(model, device="cpu")
    asked = [
        {"subject": SUBJECTS[i % 8], "prompt": PROMPTS[i % 4], "target_new": "Rome"}
        for i in range(facts)
    ]
    rows = tokenize(base, prepare_facts(base, asked), PREFIXES)
    moments = Moments(base, texts_of(Path(text)), samples=4000)
    moments.ensure([*low, *high])
    regions = {
        name: Region.model_validate({"layers": layers, "clamp": 1.0, "moment_weight": 300.0})
        for name, layers in (("low", low), ("high", high))
    }
    hparams = MemitHParams.model_validate({"low": regions["low"]})
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(len(rows), base.model.config.hidden_size, generator=generator) * 5
    # a former tree takes the states alone
    of_states: Any = getattr(writing, "Targets", lambda states: states)
    positions: dict[str, Any] = {"low": "subject_last", "high": "prediction"}
    seconds: list[float] = []
    for _ in range(2):  # the first makes what is kept for the next edit, factors above all
        view, outcome = ModelView(base), EditorOutcome()
        context = EditContext(view, rows, moments)
        began = time.process_time()
        for name, position in positions.items():
            write_region(
                context, name, regions[name], position, of_states(targets), hparams, outcome,
                solve=solve_update,
            )  # fmt: skip
        seconds.append(time.process_time() - began)
    hashes = {
        name: hashlib.sha256(view.parameter(name).numpy().tobytes()).hexdigest()
        for name in outcome.delta.updates
    }
    return {"seconds": seconds[-1], "hashes": hashes}


if __name__ == "__main__":
    model, text, facts, low, high = sys.argv[1:]
    found = run(model, text, int(facts), json.loads(low), json.loads(high))
    print(json.dumps(found))
