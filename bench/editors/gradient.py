"""ES/GS/LS of editors on a bundled suite.

``python -m bench.editors.gradient atlas-gptj ft-wd mend``

The facts of a line are edited together, on the base model, with the preset's hyper-parameters;
``--hparams`` is JSON that changes them.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import jeep_core
from jeep_core import atlas
from jeep_core.editing import resolve_hparams
from jeep_core.evaluation.trials import Trials
from jeep_core.models.loading import texts_of
from jeep_core.moments.cache import Moments
from jeep_core.suites import load_counterfact
from jeep_core.values.prefixes import sample_prefixes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=list(atlas.MODELS))
    parser.add_argument("editors", nargs="+")
    parser.add_argument("--suite", default="atlas-counterfact")
    parser.add_argument("--cases", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--hypernetworks", type=Path)
    parser.add_argument("--hparams", type=json.loads, action="append")
    args = parser.parse_args()
    base = jeep_core.load(args.model, device="cpu")
    cases = list(load_counterfact(args.suite).cases)
    random.Random(0).shuffle(cases)
    moments = Moments(base, texts_of(atlas.CORPUS))
    used = cases[: max(args.cases)]
    for editor in args.editors:
        for changes in args.hparams or [{}]:
            hparams = resolve_hparams(
                base.name, editor, None, changes, base.n_layers, shape=base.shape
            )
            prefixes = sample_prefixes(base, hparams.prefix_count)
            trials = Trials(base, used, moments, prefixes, hypernetworks=args.hypernetworks)
            for count in args.cases:
                began = time.monotonic()
                s = trials.run(editor, hparams, range(count))
                print(
                    f"{args.model} {editor} {count} facts {json.dumps(changes)}: "
                    f"Score {s.score:.1f} ({s.efficacy:.1f}/{s.generalization:.1f}/"
                    f"{s.locality:.1f}), greedy {s.greedy:.0f}/{s.greedy_generalization:.0f}/"
                    f"{s.greedy_locality:.0f}, {time.monotonic() - began:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
