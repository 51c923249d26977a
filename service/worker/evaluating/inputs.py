"""The inputs of an evaluation job: cases as they are asked, and how a trial edits them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from jeep_core import atlas
from jeep_core.editors import hparams_class
from jeep_core.errors import InvalidFacts
from jeep_core.evaluation.asking import as_asked
from jeep_core.evaluation.trials import Trials
from jeep_core.moments.source import origin_of
from jeep_core.probe.defaults.from_record import Chosen
from jeep_core.spec.facts import composed
from jeep_core.spec.hparams import EditorHParams, validate_hparams
from jeep_core.spec.positions import check_facts
from jeep_core.suites import Case, Suite, load_suite
from jeep_core.text.chat import RefusedMessages
from jeep_core.text.counting import counted
from jeep_core.values.cache import ValueCache
from service.contracts.schemas import AUTO
from service.contracts.schemas.evaluation import EvaluationPayload
from service.worker.editing.automatic import automatic_hparams
from service.worker.editing.prefixes import kept_prefixes
from service.worker.failures import Refused
from service.worker.lanes.read_lane import Task


def drawn(cases: Sequence[Case], payload: EvaluationPayload) -> list[Case]:
    """The cases to measure: all, ``limit`` drawn ones in their order, or those of the trial.

    A trial edits its cases together, so no two have the same prompt; they come in random order,
    the first n for n edits.
    """
    if payload.editor is None:
        if payload.limit is None or payload.limit >= len(cases):
            return list(cases)
        chosen = random.Random(payload.seed).sample(range(len(cases)), payload.limit)
        return [cases[i] for i in sorted(chosen)]
    shuffled = random.Random(payload.seed).sample(cases, len(cases))
    asked = {composed(case.text): case for case in reversed(shuffled)}
    distinct = [case for case in shuffled if asked[composed(case.text)] is case]
    most = max(target.n_edits or 0 for target in payload.targets)
    if most > len(distinct):
        message = (
            f"{counted(most, 'edit')} asked for, {payload.suite} has {len(distinct)} "
            "for this model: ask for fewer, or take a larger suite"
        )
        raise Refused("too_few_cases", message)
    return distinct[:most]


def asked_cases(task: Task, payload: EvaluationPayload, suite: Suite) -> list[Case]:
    """The cases as they are asked, without those that a chat template refuses."""
    found: list[Case] = []
    for case in suite.cases:
        try:
            found += as_asked([case], payload.ask, task.base.chat)
        except (InvalidFacts, RefusedMessages):
            continue
    return found


def is_editable(task: Task, case: Case) -> bool:
    """Whether a case can be edited: its subject has tokens, and there is room for a prefix."""
    try:
        check_facts(task.base.tokenizer, [case], task.base.max_positions)
    except InvalidFacts:
        return False
    return True


def suite_of(task: Task, payload: EvaluationPayload) -> Suite:
    """The suite of a job.

    Raises:
        UnknownSuite: it is gone.
        Refused: it has changed since the job was submitted.
    """
    if payload.suite in atlas.SUITES:
        return load_suite(payload.suite)
    suites = task.store.suites
    info = suites.get(payload.suite)
    if info.sha256 != payload.suite_sha256:
        raise Refused(
            "suite_changed",
            f"{payload.suite} is not the suite it was when this was submitted: submit it again",
        )
    path = suites.path(payload.suite)
    return load_suite(path, info.format, drop_bad=True, name=info.name, style=info.style)


def chosen_hparams(task: Task, payload: EvaluationPayload) -> Chosen | None:
    """The hyper-parameters of a trial; None for an evaluation of versions."""
    if payload.editor is None:
        return None
    if payload.hparams == AUTO:
        monitor, changes = task.control.monitor, payload.changes
        return automatic_hparams(task.store, task.base, payload.editor, changes, monitor)[0]
    cls = hparams_class(payload.editor)
    given = validate_hparams(cls, payload.hparams, task.base.n_layers)
    return Chosen(given, "given" if payload.preset is None else "preset")


def moments_from(task: Task, hparams: EditorHParams | None) -> str | None:
    """Where the second moments of a trial come from; None if it needs none."""
    if hparams is None or not hparams.moment_layers:
        return None
    settings = task.settings
    return origin_of(task.base.name, settings.corpus, settings.moments)


def trials_of(
    task: Task, payload: EvaluationPayload, cases: Sequence[Case], hparams: EditorHParams
) -> Trials:
    """The cases of all trials, with their optimised values stored in the work folder."""
    moments = task.moments.for_user() if hparams.moment_layers else task.moments.for_none()
    most = max(target.n_edits or 0 for target in payload.targets)
    return Trials(
        task.base,
        cases[:most],
        moments,
        kept_prefixes(task.store, task.base, hparams.prefix_count),
        monitor=task.control.monitor,
        hypernetworks=task.store.base.networks_folder,
        executor=task.executor,
        cache=ValueCache(task.work),
    )
