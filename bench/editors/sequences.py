"""Long sequences of edits of a real model: ``python -m bench.editors.sequences``.

Facts of a suite are edited batch after batch, each on the version before, as the service does:
keys of earlier batches are kept, and what an editor leaves for its next edit is given to it.
Printed and written for every editor: whether the new answers are written freely after the edited
prompts (`contains` and `exact`, docs/suites.md) in the first, a middle and the last tenth of the
facts, one batch at least, right after each batch was written and at the end, and in all facts at
the end; drift (KL over unrelated text,
in nats) and the ratio of perplexities against the unedited model; facts that were lost again; time
of the edits alone, without second moments.
``--mend``: facts so far whose answer is not written, as many as a batch has at most, are edited
again with the next batch.
``--tasks``: bundled tasks of lm-eval (extra ``lm-eval``) that base and last version answer.

    python -m bench.editors.sequences FOLDER --suite FILE --facts 1000 --batch 100 --editors jeep
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch

import jeep_core
from bench.editors.real import by_default, prepare
from jeep_core.editing import edit_checked, prepare_facts
from jeep_core.evaluation.drift import Passage, drift
from jeep_core.evaluation.free_answers import free_prompts, write_freely
from jeep_core.evaluation.harness.answers import Answers
from jeep_core.evaluation.harness.catalogue import find
from jeep_core.evaluation.harness.intervals import is_share
from jeep_core.evaluation.harness.tasks import Tasks, ask, load_tasks
from jeep_core.evaluation.matching import Match, match
from jeep_core.evaluation.perplexity import perplexity
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.probe.defaults.from_record import hparams_for
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import EditorHParams
from jeep_core.suites import Case, load_suite
from jeep_core.text.chat import has_template

HEAD = (
    "| editor | first | middle | last | all: contains | exact | drift | perplexity | ‖ΔW‖/‖W‖ "
    "| CPU s a fact |\n" + 10 * "|---" + "|"
)


@dataclass
class Line:
    """A version that grows batch by batch, with what the next edit is given."""

    base: LoadedModel
    editor: str
    hparams: EditorHParams
    moments: Moments
    prefixes: Sequence[str]
    view: ModelView = field(init=False)
    keys: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)
    states: list[Mapping[str, torch.Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.view = ModelView(self.base)

    def edit(self, facts: Sequence[Fact]) -> float:
        """Edit a batch on top; CPU seconds."""
        began = time.process_time()
        result = edit_checked(
            self.view,
            prepare_facts(self.base, facts),
            self.editor,
            self.hparams,
            prefixes=self.prefixes[: self.hparams.prefix_count],
            moments=self.moments if self.hparams.moment_layers else None,
            previous_keys=self.keys,
            states=self.states,
        )
        for place, keys in result.keys.items():
            known = self.keys.get(place)
            self.keys[place] = keys if known is None else torch.cat([known, keys])
        self.states += [result.state] if result.state else []
        self.view = result.view
        return time.process_time() - began


def written(view: ModelView, facts: Sequence[Fact]) -> list[Match]:
    """How a version's free answers to edited prompts match the new answers."""
    prompts = [free_prompts(fact)[0] for fact in facts]
    texts = write_freely(view, [one.prompt for one in prompts])
    return [match(texts[one.prompt].text, one.right) for one in prompts]


def shares(found: Sequence[Match]) -> dict[str, float]:
    """Means in percent."""
    return {
        "exact": 100 * fmean(one.exact for one in found),
        "contains": 100 * fmean(one.contains for one in found),
    }


def tenths(batches: int) -> dict[str, range]:
    """The numbers of the first, the middle and the last tenth of so many batches, at least one."""
    size = max(1, batches // 10)
    middle = min(batches // 2, batches - size)
    return {
        "first": range(size),
        "middle": range(middle, middle + size),
        "last": range(batches - size, batches),
    }


def abilities(view: ModelView, tasks: Tasks | None) -> dict[str, float]:
    """Every metric of the tasks by ``task/metric``, shares in percent."""
    if tasks is None:
        return {}
    return {
        f"{outcome.task}/{one.name}": 100 * one.value if is_share(one) else one.value
        for outcome in ask(tasks, Answers(view))
        for one in outcome.metrics
    }


def follow(
    line: Line,
    batches: Sequence[Sequence[Fact]],
    texts: Sequence[str],
    mend: bool,
    tasks: Tasks | None = None,
) -> dict[str, Any]:
    """Edit all batches and measure; the record of one editor."""
    base, seconds, lost = ModelView(line.base), 0.0, list[Fact]()
    chosen = tenths(len(batches))
    heard: dict[str, list[Match]] = {name: [] for name in chosen}
    found: dict[str, Any] = {"mended": 0}
    for number, batch in enumerate(batches):
        seconds += line.edit([*batch, *lost])
        found["mended"] += len(lost)
        lost = []
        for name in (one for one, places in chosen.items() if number in places):
            heard[name] += written(line.view, batch)
        if mend and number + 1 < len(batches):
            done = [fact for some in batches[: number + 1] for fact in some]
            pairs = zip(done, written(line.view, done), strict=True)
            lost = [fact for fact, one in pairs if not one.contains][: len(batch)]
        print(f"  batch {number + 1} of {len(batches)}: {seconds:.0f} s of CPU", flush=True)
    found |= figures(line.view, batches, texts, base)
    found["written"] = {name: shares(some) for name, some in heard.items()}
    found["seconds_a_fact"] = seconds / sum(map(len, batches))
    found["abilities"] = abilities(line.view, tasks)
    return found


def figures(
    view: ModelView, batches: Sequence[Sequence[Fact]], texts: Sequence[str], base: ModelView
) -> dict[str, Any]:
    """How much of all batches a version writes, and how far it is from the unedited one."""
    told = written(view, [fact for batch in batches for fact in batch])
    ends = list(accumulate(map(len, batches)))
    return {
        "end": {
            name: shares(told[ends[places[0]] - len(batches[places[0]]) : ends[places[-1]]])
            for name, places in tenths(len(batches)).items()
        },
        "all": shares(told),
        "drift": drift(base, view, [Passage(text) for text in texts]).kl,
        "perplexity_ratio": perplexity(view, texts) / perplexity(base, texts),
        "norms": norms(view),
    }


def norms(view: ModelView) -> dict[str, float]:
    """‖ΣΔ‖/‖W‖ of every matrix that was edited."""
    base = view.base.model
    sizes = {name: base.get_parameter(name).double() for name in view.replaced}
    return {
        name: float((view.replaced[name].double() - old).norm() / old.norm())
        for name, old in sizes.items()
    }


def row(name: str, found: Mapping[str, Any]) -> str:
    """A row of the table."""
    key = "contains"
    cells = [
        f"{found['written'][place][key]:.0f} → {found['end'][place][key]:.0f}"
        for place in ("first", "middle", "last")
    ]
    every, largest = found["all"], max(found["norms"].values())
    others = (
        f"{every[key]:.1f} | {every['exact']:.1f} | {found['drift']:.3f}",
        f"{found['perplexity_ratio']:.3f} | {largest:.2f} | {found['seconds_a_fact']:.2f}",
    )
    return f"| {' | '.join([name, *cells, *others])} |"


def batches_of(suite: str, facts: int, batch: int) -> list[list[Case]]:
    """The first facts of a suite in batches; a question that is asked twice has one answer."""
    cases = load_suite(suite).cases[:facts]
    unlike = list({one.key: one for one in cases}.values())
    return [unlike[i : i + batch] for i in range(0, len(unlike), batch)]


def texts_of(file: Path) -> list[str]:
    """The texts of a JSON list, in which a record stands for its longest field."""
    found = json.loads(file.read_text(encoding="utf-8"))
    return [one if isinstance(one, str) else max(one.values(), key=len) for one in found]


@contextmanager
def tasks_of(names: Sequence[str], documents: int | None) -> Iterator[Tasks | None]:
    """Bundled tasks, if any are named, with so many ``documents`` of each at most."""
    files = [file for name in names for file in find(name, None).tasks]
    with TemporaryDirectory(prefix="tasks-") as tables:
        yield load_tasks(files, Path(tables), documents) if files else None


def unedited(
    base: LoadedModel, batches: Sequence[Sequence[Fact]], batch: int, tasks: Tasks | None
) -> dict[str, Any]:
    """The beginning of a report, which is printed, too."""
    facts, able = sum(map(len, batches)), abilities(ModelView(base), tasks)
    print(f"{base.name}, {facts} facts in batches of {batch} {able or ''}", flush=True)
    return {"model": base.name, "facts": facts, "batch": batch, "abilities": able}


def options(description: str) -> argparse.ArgumentParser:
    """Options of every command that measures a long sequence."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--facts", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--tasks", nargs="+", default=[], help="such as general_choice")
    parser.add_argument("--documents", type=int, help="Of each task at most.")
    parser.add_argument("--texts", type=Path, required=True, help="JSON list of unrelated texts")
    parser.add_argument("--out", type=Path, default=Path("sequences.json"))
    return parser


def main() -> None:
    """Measure one editor after the other, print the table as it grows, and write all figures."""
    parser = options((__doc__ or "").split("\n\n")[0])
    parser.add_argument("--editors", nargs="+", default=["jeep", "memit", "alphaedit"])
    parser.add_argument("--hparams", type=json.loads, default={"contexts": "plain"})
    parser.add_argument("--mend", action="store_true")
    parser.add_argument("--folder", type=Path, help="Where moments and probes are kept.")
    args = parser.parse_args()
    base = jeep_core.load(args.model)
    batches = batches_of(args.suite, args.facts, args.batch)
    texts = texts_of(args.texts)
    every = [one for batch in batches for one in batch]
    trials, _, record = by_default(base, every, args.folder)
    with tasks_of(args.tasks, args.documents) as tasks:
        report = unedited(base, batches, args.batch, tasks)
        print(HEAD)
        for editor in args.editors:
            hparams = hparams_for(
                record, editor, base.n_layers, base.mlp_size, args.hparams, chat=has_template(base)
            )
            prepare(trials, hparams)
            line = Line(base, editor, hparams, trials.moments, trials.prefixes)
            found = follow(line, batches, texts, args.mend, tasks)
            report[editor] = {"hparams": hparams.model_dump(mode="json"), **found}
            print(row(editor, found), found["abilities"] or "", flush=True)
            args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
