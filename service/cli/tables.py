"""Answers of the service as text and tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from service.cli import figures
from service.cli.listing import Listing

if TYPE_CHECKING:
    from service.contracts.jobs import JobError
    from service.contracts.schemas import (
        Activation,
        Edit,
        EditPlan,
        Evaluation,
        FactEntry,
        GenerateResult,
        JobOut,
        Probe,
        RollbackResult,
        Snapshot,
        SnapshotDiff,
        WorkerOut,
    )
    from service.contracts.schemas.access import ApiKey, AuditEntry
    from service.contracts.schemas.effects.checks import Check
    from service.contracts.schemas.effects.drift import Drift
    from service.contracts.schemas.effects.earlier import EarlierFacts
    from service.contracts.schemas.exports import Export
    from service.contracts.schemas.jobs import (
        EditSummary,
        EvaluationSummary,
        ExportSummary,
        ProbeSummary,
    )
    from service.contracts.schemas.worker import StoreState

Records = Sequence[Mapping[str, Any]]
"""Answers as they came in JSON."""

TIME = "%Y-%m-%d %H:%M:%S"


def _row(table: Listing, *cells: object) -> None:
    """Cells as plain text: what users and models write may look like markup."""
    table.add_row(*(Text("" if cell is None else str(cell)) for cell in cells))


def without_result(answer: Check | Drift | Edit | Evaluation | Export | Probe | JobOut) -> Text:
    """The status of a job that has no result, with the reason."""
    return Text(f"{answer.id} {answer.status.value}{_why(answer.error)}", style="red")


def _why(error: JobError | None) -> str:
    return f": {error.code}: {error.message}" if error else ""


def plan(answer: EditPlan) -> RenderableType:
    """A dry run: the tokens with the positions that will be optimised."""
    table = Listing("fact", "tokens", "subject", "predicts")
    for fact in answer.facts:
        prompt, target = fact.tokens[: fact.prediction + 1], fact.target_tokens
        shown = " ".join(prompt) + " → " + " ".join(target)
        _row(table, fact.index, shown, fact.tokens[fact.subject_last], fact.tokens[fact.prediction])
    preset = f" {answer.preset}" if answer.preset else ""
    exact = ", exact" if answer.exact else ""
    said = f"{answer.editor}, hyper-parameters: {answer.source}{preset}{exact}"
    if answer.moments is not None:
        said += f", second moments: {answer.moments}"
    parts: list[RenderableType] = [Text(said), *_why_editor(answer), table]
    parts += [Text(f"fact {item.index} repeats fact {item.kept}") for item in answer.duplicates]
    parts += map(Text, answer.warnings)
    parts += [Text(f"{one.code}: {one.message}", style="red") for one in answer.obstacles]
    return Group(*parts)


def edit(answer: Edit) -> RenderableType:
    """A batch with the outcome of every fact."""
    if answer.result is None:
        return without_result(answer)
    result = answer.result
    table = Listing("", "prompt", "before", "after", "p(new)")
    for fact in result.facts:
        prompt = fact.prompt.replace("{}", fact.subject, 1)
        p_new = f"{fact.before.p_new:.3f} → {fact.after.p_new:.3f}"
        mark = "✓" if fact.success else "✗"
        _row(table, mark, prompt, fact.before.text.strip(), fact.after.text.strip(), p_new)
        if fact.chat_before and fact.chat_after:
            p_new = f"{fact.chat_before.p_new:.3f} → {fact.chat_after.p_new:.3f}"
            texts = fact.chat_before.text.strip(), fact.chat_after.text.strip()
            _row(table, "", "  … in a chat", *texts, p_new)
    lines = [*result.warnings, *_guards(answer), *_earlier(result.earlier)]
    how = figures.how(result.protocols)
    return Group(figures.of_edit(result), *_why_editor(answer), table, *map(Text, lines), *how)


def _why_editor(answer: EditPlan | Edit) -> list[Text]:
    """The reason for an editor that was left to choose, in a line."""
    why = answer.editor_reason
    return [] if why is None else [Text(f"{answer.editor} was chosen: {why}")]


def _guards(answer: Edit) -> list[str]:
    """Every limit of the edit with its figure, in lines."""
    from service.contracts.schemas.effects.guards import outcomes

    figures = answer.result.guards if answer.result else None
    return [
        f"guard {name} {limit:g}: {'not measured' if figure is None else f'{figure:.4g}'}"
        for name, limit, figure in outcomes(answer.guards, figures)
    ]


def _earlier(found: EarlierFacts | None) -> list[str]:
    """The fate of earlier facts, in lines."""
    if found is None:
        return []
    held = sum(map(len, found.held.values()))
    mended = f", {found.repaired} edited again" if found.repaired else ""
    if found.repaired_before:
        mended += f" ({found.repaired_before} of them not said before this batch, either)"
    lines = [f"earlier facts: {held} of {found.checked} checked hold ({found.live} live){mended}"]
    if found.missing_before:
        lines.append(f"  not said before this batch, either: {found.missing_before}")
    for one in found.lost:
        said = f"{one.prompt} {one.target_new.strip()}, now {one.answer.strip()!r}"
        lines.append(f"  lost, of {one.version}: {said}")
    return lines


def generations(answer: GenerateResult) -> RenderableType:
    """Answers side by side, with the probability of the first token."""
    table = Listing("version", "prompt", "answer", "p(first token)")
    for one in answer.results:
        first = f"{one.tokens[0].probability:.3f}" if one.tokens else ""
        said = one.text if one.error is None else f"{one.error.code}: {one.error.message}"
        _row(table, one.version, one.prompt, said, first)
    if not any(one.candidates for one in answer.results):
        return table
    scores = Listing("version", "prompt", "candidate", "probability")
    for one in answer.results:
        for candidate in one.candidates:
            _row(scores, one.version, one.prompt, candidate.text, f"{candidate.probability:.4f}")
    return Group(table, scores)


def snapshots(answers: Sequence[Snapshot]) -> RenderableType:
    """The versions; an asterisk marks head."""
    table = Listing("", "id", "parent", "state", "names", "editor", "facts", "weights", "created")
    for one in answers:
        _row(
            table,
            "*" if one.is_head else "",
            one.id,
            one.parent,
            one.state,
            ", ".join(one.names),
            one.editor,
            one.n_facts,
            (one.weights_sha256 or "")[:12],
            f"{one.created_at:%Y-%m-%d %H:%M:%S}" if one.created_at else "",
        )
    return table


def snapshot(answer: Snapshot) -> RenderableType:
    """One version with the tensors in which it differs from base."""
    parts: list[RenderableType] = [snapshots([answer])]
    parts += [Text(answer.damage, style="red")] if answer.damage else []
    return Group(*parts, *(Text(f"  {one.name}") for one in answer.tensors))


def difference(answer: SnapshotDiff) -> RenderableType:
    """The facts and tensors in which two versions differ."""
    head = f"{answer.a} → {answer.b}, common ancestor {answer.common_ancestor}"
    table = Listing("", "fact", "says")
    for mark, records in (("-", answer.facts_removed), ("+", answer.facts_added)):
        for one in records:
            _row(table, mark, one.prompt.replace("{}", one.subject, 1), one.target_new)
    changed = ", ".join(answer.tensors_changed) or "none"
    return Group(Text(head, style="bold"), table, Text(f"tensors that differ: {changed}"))


def edits(answers: list[EditSummary]) -> RenderableType:
    """Batches; ``hold`` is their greedy success, as in the console."""
    table = Listing("id", "status", "editor", "facts", "name", "version", "hold", "created")
    for one in answers:
        hold = "" if one.greedy_success is None else f"{one.greedy_success:.1%}"
        cells = (one.id, one.status, one.editor, one.n_facts, one.snapshot_name, one.version)
        _row(table, *cells, hold, f"{one.created_at:{TIME}}")
    return table


def evaluations(answers: list[EvaluationSummary]) -> RenderableType:
    """Evaluations with what they measure."""
    table = Listing("id", "status", "suite", "editor", "targets")
    for one in answers:
        targets = ", ".join(target.label for target in one.targets)
        _row(table, one.id, one.status, one.suite, one.editor, targets)
    return table


def probes(answers: list[ProbeSummary]) -> RenderableType:
    """Probes with the layers that they propose."""
    table = Listing("id", "status", "suite", "version", "low", "high")
    for one in answers:
        layers = (" ".join(map(str, found or [])) for found in (one.low, one.high))
        _row(table, one.id, one.status, one.suite, one.version, *layers)
    return table


def exports(answers: list[ExportSummary]) -> RenderableType:
    """Exports with their size, and how many edited facts they hold."""
    table = Listing("id", "status", "version", "format", "bytes", "facts", "hold", "files")
    for column in table.columns[4:7]:
        column.justify = "right"
    for one in answers:
        size = "" if one.bytes is None else f"{one.bytes:,}"
        there = "" if one.bytes is None else "there" if one.available else "removed"
        _row(table, one.id, one.status, one.version, one.format, size, one.facts, one.hold, there)
    return table


def models(answers: Records) -> RenderableType:
    """Models by name: where they are, their size, and how many presets there are for them."""
    table = Listing("model", "is", "size", "licence", "presets", "from")
    for column in (table.columns[2], table.columns[4]):
        column.justify = "right"
    for one in answers:
        size = "" if one["bytes"] is None else mib(one["bytes"])
        count = len(one["presets"]) or ""
        _row(table, one["name"], one["is"], size, one["licence"], count, one["source"])
    return table


def model(answer: Mapping[str, Any]) -> RenderableType:
    """The known properties of one model, a line each."""
    table = Listing("", "")
    table.show_header = False
    for name, value in answer.items():
        if value is not None:
            _row(table, name.replace("_", " "), _said(value))
    return table


def _said(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case list():
            return "\n".join(f"{one['preset']} ({one['editor']})" for one in value) or "none"
    return str(value)


def mib(size: int) -> str:
    """Bytes as MiB."""
    return f"{size / 2**20:,.1f} MiB"


def job(answer: JobOut) -> RenderableType:
    """One job, with the reason why it failed, or the figures of an edit."""
    error = answer.error
    why = [Text(f"{error.code}: {error.message}", style="red")] if error else []
    return Group(jobs([answer]), *why, *figures.of_job(answer))


def workers(answers: Sequence[WorkerOut]) -> RenderableType:
    """The workers with what they do."""
    table = Listing("process", "role", "state", "head", "answers", "requests", "job", "heard")
    for one in answers:
        _row(
            table,
            f"{one.pid} on {one.host}" if one.host else one.pid,
            one.role,
            _worker_state(one),
            f"{one.head} (behind)" if one.behind else one.head,
            "yes" if one.takes else "no",
            one.load,
            one.job,
            f"{one.heartbeat_age_s:.1f} s ago",
        )
    return table


def _worker_state(one: WorkerOut) -> str:
    away_s = one.fetching.away_s if one.fetching else None
    return one.state if away_s is None else f"{one.state}, api away for {away_s:.0f} s"


def followed(answer: StoreState) -> RenderableType:
    """A store as a follower on another host is told of it."""
    table = Listing("store", "model", "release", "head", "moved")
    info, head = answer.info, answer.head
    _row(
        table,
        answer.id,
        info.model if info else None,
        info.release if info else None,
        head.version if head else None,
        f"{head.move.when:{TIME}}" if head else None,
    )
    return table


def jobs(answers: Sequence[JobOut]) -> RenderableType:
    """The jobs with their status."""
    table = Listing("id", "kind", "status", "phase", "done", "created", "error")
    for one in answers:
        progress = one.progress
        _row(
            table,
            one.id,
            one.kind.value,
            one.status.value,
            progress.phase,
            f"{progress.done}/{progress.total}" if progress.total else "",
            f"{one.created_at:%Y-%m-%d %H:%M:%S}",
            one.error.code if one.error else "",
        )
    return table


def facts(answers: Sequence[FactEntry]) -> RenderableType:
    """Facts with the edit that wrote them; the superseded ones say by which."""
    table = Listing("state", "prompt", "says", "holds", "edit", "version", "superseded by")
    for one in answers:
        holds = "" if one.holds is None else f"{'✓' if one.holds else '✗'} {one.checked_in}"
        said = (one.state, one.text, one.target_new, holds)
        _row(table, *said, one.edit_id, one.version, one.superseded_by)
    return table


def revert(answer: JobOut) -> RenderableType:
    """The outcome of a revert job."""
    if answer.result is None:
        return Text(f"{answer.id} is {answer.status.value}{_why(answer.error)}")
    from service.contracts.schemas import RevertResult

    result = RevertResult.model_validate(answer.result)
    table = Listing("edit", "was in", "is in", "efficacy", "greedy success")
    for one in result.reapplied:
        shares = (f"{one.efficacy:.1%}", f"{one.greedy_success:.1%}")
        _row(table, one.edit_id, one.previous_version, one.version, *shares)
    head = f"head: {result.previous} → {result.version} without {result.edit_id}"
    parts: list[RenderableType] = [Text(head, style="bold")]
    parts += [table] if result.reapplied else []
    return Group(*parts, *(Text(warning) for warning in result.warnings))


def activation(answer: Activation) -> RenderableType:
    """The previous and the new head."""
    weights = answer.weights_sha256[:12]
    return Text(f"head: {answer.previous} → {answer.version} (weights {weights})")


def rollback(answer: RollbackResult) -> RenderableType:
    """The previous and the new head, and the cancelled jobs."""
    text = f"head: {answer.previous} → {answer.version} (weights {answer.weights_sha256[:12]})"
    if answer.cancelled_jobs:
        text += f"\ncancelled: {', '.join(answer.cancelled_jobs)}"
    return Text(text)


def keys(answers: Sequence[ApiKey]) -> RenderableType:
    """API keys, never their secrets."""
    table = Listing("id", "name", "scopes", "created", "revoked")
    for key in answers:
        revoked = f"{key.revoked_at:{TIME}}" if key.revoked_at else ""
        scopes = ", ".join(key.scopes)
        _row(table, key.id, key.name, scopes, f"{key.created_at:{TIME}}", revoked)
    return table


def audit(answers: Sequence[AuditEntry]) -> RenderableType:
    """Calls that changed something or were refused."""
    table = Listing("when", "who", "name", "action", "target", "status", "version", "job")
    for one in answers:
        ended = " ".join(str(part) for part in (one.status, one.code) if part is not None)
        when = f"{one.when:{TIME}}"
        _row(table, when, one.who, one.name, one.action, one.target, ended, one.version, one.job_id)
    return table
