"""Free answers of a target, case by case; kept in the job's work folder as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from jeep_core.evaluation.free_answers import (
    FreePrompt,
    FreeText,
    Judged,
    cases_apart,
    free_prompts,
    free_scores,
    judged_freely,
    neighbors_of,
    new_prompts,
    prompts_of,
    write_apart,
)
from jeep_core.models.giving_way import giving_way
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.suites import Case
from service.contracts.schemas.evaluation import FreeOptions, JudgeRecord
from service.worker.evaluating.judge import Judge, JudgeQuestion
from service.worker.lanes.read_lane import Task
from service.worker.partial_results import Records

PHASE = "write answers"
BASE_PHASE = "write answers of the base model"
Row = dict[str, Any]


class FreeAnswers:
    """Judges the cases of every target by what it writes; the base model writes each neighbor once.

    ``judge``: None where no judge model was asked for.
    """

    def __init__(self, task: Task, options: FreeOptions, judge: Judge | None) -> None:
        self._task, self._options, self._judge = task, options, judge
        self._kept = Records(task.work / "base-texts.jsonl")
        self._base_texts = {
            row["prompt"]: FreeText(row["text"], row["ended"]) for row in self._kept.read()
        }

    def records(self, number: int) -> Records:
        """The rows of a target that an earlier attempt has kept."""
        return Records(self._task.work / f"free-{number}.jsonl")

    def rows(
        self, number: int, view: ModelView, cases: Sequence[Case], say: Callable[[int], None]
    ) -> list[Row]:
        """The scores of every case with its judgements (``free``).

        All answers are written, by the executor, before a judge is asked: workers would not make
        way for decoding while it is waited for.  ``say`` is told of how many cases they are there.

        Raises:
            NumericalError: the logits of a prompt are not finite.
            WorkersLost, NoCluster: the executor's workers are gone.
            Refused: the judge does not answer.
            Whatever the task's control raises.
        """
        kept = self.records(number)
        rows, start, cut = list(kept.read()), 0, cases_apart(cases)
        for some, texts in zip(cut, self._written(number, view, cut, say), strict=True):
            left = some[max(0, len(rows) - start) :]
            if left:
                found = self._judged(left, texts)
                kept.append(found)
                rows += found
            start += len(some)
        say(len(cases))
        return rows

    def judge_record(self, targets: int) -> JudgeRecord | None:
        """The judge and how often it said neither yes nor no, over all targets; None without."""
        options = self._options.judge
        if options is None:
            return None
        rows = [row for number in range(targets) for row in self.records(number).read()]
        # those with right answers were shown to it; rows of earlier releases have none of neighbors
        said = [one["judge"] for row in rows for one in row["free"] if one["f1"] is not None]
        return JudgeRecord(
            model=options.model, address=options.address,
            answers=len(said), unclear=sum(one is None for one in said),
        )  # fmt: skip

    def _written(
        self,
        number: int,
        view: ModelView,
        cut: Sequence[Sequence[Case]],
        say: Callable[[int], None],
    ) -> list[dict[str, FreeText]]:
        """The answers of a target to the prompts of each group of cases; kept as they come."""
        kept = Records(self._task.work / f"written-{number}.jsonl")
        found = [
            {prompt: FreeText(**text) for prompt, text in row["texts"].items()}
            for row in kept.read()
        ]
        left, before = cut[len(found) :], sum(map(len, cut[: len(found)]))
        say(before)
        # also of cases that have been answered: the base model's answers may be lost or damaged
        neighbors = new_prompts([neighbors_of(some) for some in cut], self._base_texts)
        if view.replaced:
            self._write_base([prompts for prompts in neighbors if prompts])

        def keep_base(texts: dict[str, FreeText], number: int) -> None:
            if not view.replaced and neighbors[number]:
                self._keep_base({prompt: texts[prompt] for prompt in neighbors[number]})

        for group, texts in enumerate(found):
            keep_base(texts, group)

        def keep(unit: int, texts: dict[str, FreeText]) -> None:
            keep_base(texts, len(found))
            kept.append([{"texts": {prompt: asdict(text) for prompt, text in texts.items()}}])
            found.append(texts)

        monitor = self._task.control.monitor.reporting(lambda _, done, total: say(before + done))
        units = [(prompts_of(some), len(some)) for some in left]
        self._write(view, units, monitor, keep)
        return found

    def _write(self, view: ModelView, units: Any, monitor: Monitor, keep: Any) -> None:
        tokens, executor = self._options.max_new_tokens, self._task.executor
        write_apart(view, units, tokens, executor=executor, monitor=monitor, keep=keep)

    def _write_base(self, groups: Sequence[Sequence[str]]) -> None:
        """Have the base model answer groups of prompts that it has not answered."""
        base, control = ModelView(self._task.base), self._task.control

        def report(phase: str, done: int, total: int) -> None:
            control.progress(BASE_PHASE, done, total)

        monitor = control.monitor.reporting(report)
        with giving_way(base, monitor):
            units = [(prompts, len(prompts)) for prompts in groups]
            self._write(base, units, monitor, lambda unit, texts: self._keep_base(texts))

    def _keep_base(self, texts: dict[str, FreeText]) -> None:
        self._kept.append({"prompt": prompt, **asdict(text)} for prompt, text in texts.items())
        self._base_texts |= texts

    def _judged(self, cases: Sequence[Case], texts: dict[str, FreeText]) -> list[Row]:
        asked = [one for case in cases for one in free_prompts(case)]
        verdicts = None if self._judge is None else self._verdicts(self._judge, asked, texts)
        found = []
        for case in cases:
            judged = judged_freely(case, texts, self._base_texts, verdicts)
            scores = free_scores(judged)
            found.append({"id": case.id, **scores, "free": [asdict(one) for one in judged]})
        return found

    def _verdicts(
        self, judge: Judge, asked: Sequence[FreePrompt], texts: dict[str, FreeText]
    ) -> dict[Judged, bool | None]:
        """The judge's verdict on every prompt whose right answers are known."""
        questions = {
            (one.prompt, one.right, texts[one.prompt].text): JudgeQuestion(
                one.prompt, one.right, texts[one.prompt].text
            )
            for one in asked
            if one.right
        }
        return dict(zip(questions, judge.verdicts(list(questions.values())), strict=True))
