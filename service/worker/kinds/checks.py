"""Check jobs: a version is asked the facts that it is meant to say, as edits ask earlier facts.

Answers are stored in the job's work folder by unit, so that a job whose worker died goes on where
it was.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from jeep_core.evaluation.units import NotAsked, Told, asked_apart
from jeep_core.models.giving_way import giving_way
from jeep_core.spec.facts import normalise
from service.contracts.schemas.base import MetricProtocol
from service.contracts.schemas.edits import FactRecord
from service.contracts.schemas.effects.checks import (
    ANSWERS_FILE,
    LISTED,
    MISSING_FILE,
    CheckAnswers,
    CheckedFact,
    CheckPayload,
    CheckResult,
    MissingFact,
    UnaskedFact,
    as_sent,
)
from service.store.index import listing
from service.store.index.database import NoIndex
from service.store.index.line import Line
from service.worker.editing.asking import Edited
from service.worker.editing.earlier import Sample, sample
from service.worker.editing.known import Known, Read, known_facts
from service.worker.lanes.read_lane import Task
from service.worker.partial_results import Records, of_layout, write_lines

LAYOUT = 1
"""Of the rows that are kept; raised whenever later ones hold what earlier ones lack."""
Reply = Told | NotAsked


def run(task: Task) -> CheckResult:
    """Ask the facts, and say which of them do not hold.

    Raises:
        UnknownVersion, CorruptFile, CorruptTensor: the version, or one that it is built on.
        Whatever the task's control raises.
    """
    began = time.monotonic()
    payload = CheckPayload.model_validate(task.job.payload)
    chosen = _chosen(task, payload)
    # those that are asked in the same way after one another
    facts = sorted(chosen.facts, key=lambda one: one.contexts)
    told = list(zip(facts, _replies(task, payload.version, facts), strict=True))
    held = [fact for fact, one in told if isinstance(one, Told) and one.holds]
    missing = [(fact, one) for fact, one in told if isinstance(one, Told) and not one.holds]
    unasked = [(fact, one) for fact, one in told if isinstance(one, NotAsked)]
    _write_report(task, held, [fact for fact, _ in missing])
    return CheckResult(
        check_id=payload.check_id,
        version=payload.version,
        live=chosen.live,
        asked=len(facts),
        held=len(held),
        missing=len(missing),
        unasked=len(unasked),
        seed=payload.seed,
        missing_facts=[
            MissingFact(**vars(_shown(fact)), answer=one.text) for fact, one in missing[:LISTED]
        ],
        unasked_facts=[
            UnaskedFact(**vars(_shown(fact)), code=one.code, why=one.why)
            for fact, one in unasked[:LISTED]
        ],
        protocol=_protocol(payload, len(facts), chosen.live),
        seconds=round(time.monotonic() - began, 3),
    )


def _chosen(task: Task, payload: CheckPayload) -> Sample:
    """The live facts that the request means: all, or some drawn by its seed."""
    line, n_layers = Line(task.store, payload.version), task.base.n_layers
    if payload.subject is None and payload.edit_id is None:
        return sample(line, [], n_layers, payload.facts, payload.seed)
    try:
        every = _named(known_facts(line, n_layers), task, payload)
    except NoIndex:  # it was found damaged on the way
        every = _named(Read(list(line), n_layers), task, payload)
    if payload.facts == "all" or payload.facts >= len(every):
        return Sample(len(every), every)
    places = random.Random(payload.seed).sample(range(len(every)), payload.facts)
    return Sample(len(every), [every[place] for place in sorted(places)])


def _named(known: Known, task: Task, payload: CheckPayload) -> list[Edited]:
    """The live facts of the subject and the batch that are named."""
    if payload.edit_id is None:
        return known.about(str(payload.subject))
    holder = listing.applied_in(task.store, payload.edit_id, payload.version)
    found = known.of_version(holder) if holder else []
    if payload.subject is None:
        return found
    wanted = normalise(payload.subject)
    return [one for one in found if normalise(one.fact.subject) == wanted]


def _replies(task: Task, version: str, facts: Sequence[Edited]) -> list[Reply]:
    """The version's answer to each fact; those of an earlier attempt are read."""
    of_layout(task.work, LAYOUT)
    path = task.work / ANSWERS_FILE
    kept = Records(path)
    places = [[one.version, one.index, one.contexts] for one in facts]
    rows = list(kept.read())
    if [row["fact"] for row in rows] != places[: len(rows)]:  # an editor's record is gone since
        path.unlink()
        rows = []
    found = [_read(row["told"]) for row in rows]
    before = len(found)

    def keep(unit: int, some: Sequence[Reply]) -> None:
        asked = zip(places[len(found) :], some, strict=False)
        kept.append({"fact": place, "told": vars(one)} for place, one in asked)
        found.extend(some)

    def report(phase: str, done: int, total: int) -> None:
        task.control.progress(phase, before + done, len(facts))

    view, monitor = task.view(version), task.control.monitor.reporting(report)
    with giving_way(view, task.control.monitor):
        asked_apart(
            view,
            [(one.contexts, one.fact) for one in facts[before:]],
            executor=task.executor,
            monitor=monitor,
            keep=keep,
        )
    return found


def _read(row: dict[str, object]) -> Reply:
    return NotAsked(**row) if "why" in row else Told(**row)  # type: ignore[arg-type]


def _write_report(task: Task, held: Sequence[Edited], missing: Sequence[Edited]) -> None:
    """The answers by version, which lists of facts show, and facts to be edited again."""
    answers: dict[str, CheckAnswers] = {}
    for one in held:
        answers.setdefault(one.version, CheckAnswers(version=one.version)).held.append(one.index)
    for one in missing:
        answers.setdefault(one.version, CheckAnswers(version=one.version)).missing.append(one.index)
    lines = [answers[version].model_dump() for version in sorted(answers, key=_number)]
    write_lines(task.reports / ANSWERS_FILE, lines)
    again = [as_sent(FactRecord.of(one.fact)) for one in missing]
    write_lines(task.reports / MISSING_FILE, again)


def _number(version: str) -> int:
    return int(version[1:])


def _shown(one: Edited) -> CheckedFact:
    return CheckedFact(
        version=one.version,
        index=one.index,
        prompt=one.fact.text,
        target_new=one.fact.target_new,
        contexts=one.contexts,
    )


def _protocol(payload: CheckPayload, asked: int, live: int) -> MetricProtocol:
    drawn = "all" if asked == live else f"{asked} drawn with seed {payload.seed}"
    return MetricProtocol(
        asked=f"{drawn} of {live} live facts of {payload.version}",
        how="the prompt of each, as it was edited: as plain text, in a chat, or both",
        judged="the greedy answer is the new one, all of it and as whole words, in each way of "
        "asking, as for the earlier facts of an edit",
        comparable="another version that was asked the same facts",
    )
