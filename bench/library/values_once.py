"""Optimises, edits and scores with the tree that is first on the path; prints one JSON object.

A part of `bench.library.former`, which runs it with this tree and with an earlier one, so it uses
only what both have.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any


def run(model: str, suite: str, half: int, facts: int, folder: Path) -> dict[str, Any]:
    """CPU seconds of value optimisation and writing, passes, and the scores of every case.

    Hyper-parameters and second moments are what the tree chooses by itself; both are made before
    the clock starts, if ``folder`` does not have them yet.
    """
    import torch

    import jeep_core
    from jeep_core.evaluation.metrics import counterfact_scores
    from jeep_core.evaluation.trials import Trials
    from jeep_core.probe.defaults.choose import choose
    from jeep_core.suites import load_suite
    from jeep_core.values.prefixes import sample_prefixes

    moments_over: Any
    try:
        moments_over = import_module("jeep_core.moments.of_texts").moments_over
    except ImportError:  # its place in earlier trees
        moments_over = import_module("jeep_core.editing").moments_over
    torch.set_num_threads(1)
    base = jeep_core.load(model, device="cpu")
    cases = load_suite(suite).cases[half::2][:facts]
    chosen, _ = choose(base, "jeep", folder=folder, changes={"contexts": "plain"})
    hparams: Any = chosen.hparams
    moments = moments_over(base, None, folder=folder / "moments")
    moments.ensure(hparams.moment_layers)
    prefixes = sample_prefixes(base, hparams.n_prefixes)
    # a first fact pays for what is compiled or loaded at first use; trials of its own, as
    # trials keep the values of all their cases
    Trials(base, cases[:1], moments, prefixes).edit("jeep", hparams, [0])
    trials = Trials(base, cases, moments, prefixes)
    began = time.process_time()
    view, outcome = trials.edit("jeep", hparams, range(len(cases)))
    seconds = time.process_time() - began
    assert outcome.values is not None
    rows = [{"id": str(i), **asdict(one)} for i, one in enumerate(counterfact_scores(view, cases))]
    return {
        "seconds": seconds / len(cases),
        "passes": float(outcome.values.steps.float().mean()),
        "rows": rows,
    }


if __name__ == "__main__":
    model, suite, half, facts, folder = sys.argv[1:]
    print(json.dumps(run(model, suite, int(half), int(facts), Path(folder))))
