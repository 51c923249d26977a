"""Free answers of a target, case by case; kept in the job's work folder as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from jeep_core.evaluation.free_answers import (
    FreePrompt,
    FreeText,
    free_prompts,
    free_scores,
    judged_freely,
    write_freely,
)
from jeep_core.models.giving_way import giving_way
from jeep_core.models.views import ModelView
from jeep_core.suites import Case
from service.contracts.schemas.evaluation import FreeOptions, JudgeRecord
from service.worker.evaluating.judge import Judge, JudgeQuestion
from service.worker.lanes.read_lane import Task
from service.worker.partial_results import Records

CASES_TOGETHER = 64
PHASE = "write answers"
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

        ``say`` is told how many cases are done.

        Raises:
            NumericalError: the logits of a prompt are not finite.
            Refused: the judge does not answer.
            Whatever the task's control raises.
        """
        kept = self.records(number)
        rows = list(kept.read())
        for start in range(len(rows), len(cases), CASES_TOGETHER):
            say(start)
            found = self._judged(view, cases[start : start + CASES_TOGETHER])
            kept.append(found)
            rows += found
        say(len(cases))
        return rows

    def judge_record(self, targets: int) -> JudgeRecord | None:
        """The judge and how often it said neither yes nor no, over all targets; None without."""
        options = self._options.judge
        if options is None:
            return None
        rows = [row for number in range(targets) for row in self.records(number).read()]
        said = [one["judge"] for row in rows for one in row["free"] if one["kind"] != "neighbor"]
        return JudgeRecord(
            model=options.model, address=options.address,
            answers=len(said), unclear=sum(one is None for one in said),
        )  # fmt: skip

    def _judged(self, view: ModelView, cases: Sequence[Case]) -> list[Row]:
        asked = [one for case in cases for one in free_prompts(case)]
        prompts = [one.prompt for one in asked]
        monitor = self._task.control.monitor.reporting(lambda *_: None)
        texts = write_freely(view, prompts, self._options.max_new_tokens, monitor)
        neighbors = [one.prompt for one in asked if one.kind == "neighbor"]
        self._write_base(neighbors, None if view.replaced else texts)
        verdicts = None if self._judge is None else self._verdicts(self._judge, asked, texts)
        found = []
        for case in cases:
            judged = judged_freely(case, texts, self._base_texts, verdicts)
            scores = free_scores(judged)
            found.append({"id": case.id, **scores, "free": [asdict(one) for one in judged]})
        return found

    def _write_base(self, prompts: Sequence[str], texts: dict[str, FreeText] | None) -> None:
        """Have the base model answer the prompts that it has not; ``texts`` are its own, if any."""
        new = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._base_texts))
        if not new:
            return
        found = texts
        if found is None:
            monitor = self._task.control.monitor.reporting(lambda *_: None)
            base = ModelView(self._task.base)
            with giving_way(base, monitor):
                found = write_freely(base, new, self._options.max_new_tokens, monitor)
        self._kept.append({"prompt": prompt, **asdict(found[prompt])} for prompt in new)
        self._base_texts |= {prompt: found[prompt] for prompt in new}

    def _verdicts(
        self, judge: Judge, asked: Sequence[FreePrompt], texts: dict[str, FreeText]
    ) -> dict[tuple[str, str], bool | None]:
        """The judge's verdict on every prompt whose answer an edit shall change."""
        questions = {
            (one.prompt, texts[one.prompt].text): JudgeQuestion(
                one.prompt, one.right, texts[one.prompt].text
            )
            for one in asked
            if one.kind != "neighbor"
        }
        return dict(zip(questions, judge.verdicts(list(questions.values())), strict=True))
