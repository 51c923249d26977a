"""Steps of decoding with few rows: ``python -m bench.service.few_rows MODEL``.

CPU milliseconds of a step with one to eight rows, and CPU seconds of the answers to a fact as it is
measured before and after an edit (plainly and, if the model has a template, in a chat), with
products as the library takes them and as `jeep_core.models.fused.few_rows` does, in turn, on one
thread.  With more ``--threads`` it is wall time, which needs an idle machine.

    python -m bench.service.few_rows FOLDER
    OMP_WAIT_POLICY=PASSIVE python -m bench.service.few_rows FOLDER --threads 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch

import jeep_core
from bench.service.first_edit import FACTS
from bench.workload import median
from jeep_core.decoding import batch as batch_module
from jeep_core.decoding.batch import Batch
from jeep_core.decoding.rows import Row
from jeep_core.decoding.sampling import Sampling
from jeep_core.evaluation.outcomes import said
from jeep_core.models.fused.few_rows import FewRowsLinear
from jeep_core.models.views import ModelView
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Contexts

PROMPT, TOKENS = "The river is wide and", 12


Clock = Callable[[], float]


def step_seconds(view: ModelView, rows: int, clock: Clock = time.process_time) -> float:
    """Seconds of a step."""
    batch = Batch(view)
    batch.add([Row(view.base, PROMPT, Sampling(TOKENS)) for _ in range(rows)])
    batch.step()  # reads the prompts
    began, steps = clock(), 0
    while len(batch):
        batch.step()
        steps += 1
    return (clock() - began) / max(1, steps)


def answer_seconds(view: ModelView, clock: Clock = time.process_time) -> float:
    """Seconds of a version's answers to a fact, a mean over some."""
    contexts: Contexts = "plain" if view.base.chat is None else "both"
    facts = [Fact(subject, prompt, new) for subject, prompt, new in FACTS[:4]]
    began = clock()
    for fact in facts:
        said(view, [fact], contexts)
    return (clock() - began) / len(facts)


@contextmanager
def as_the_library() -> Iterator[None]:
    """Products of few rows as the library takes them, by all threads."""
    with (
        patch.object(FewRowsLinear, "_takes", lambda self, x: False),
        patch.object(batch_module, "ROWS_ALONE", 0),
    ):
        yield


def main() -> None:
    """Measure both ways in turn and print the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    view = ModelView(jeep_core.load(args.model, device="cpu"))
    for rows in (1, 2, 3, 4, 8, None):
        found: list[tuple[float, float]] = []
        for _ in range(args.repeats):
            pair = []
            for way in (as_the_library, nullcontext):
                with way():
                    seconds = (
                        answer_seconds(view, clock)
                        if rows is None
                        else step_seconds(view, rows, clock)
                    )
                    pair.append(seconds)
            found.append((pair[0], pair[1]))
        usual, now = (1e3 * median(list(times)) for times in zip(*found, strict=True))
        what = "answers to a fact" if rows is None else f"a step with {rows}"
        print(f"{what}: {usual:.1f} ms, now {now:.1f} ms; ratio {usual / now:.2f}", flush=True)


if __name__ == "__main__":
    main()
