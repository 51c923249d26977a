"""Validation of an edit, without torch and before it is queued."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from jeep_core.editors import preset_hparams
from jeep_core.errors import FieldProblem, InvalidFacts, InvalidHParams
from jeep_core.probe.choice import check_automatic
from jeep_core.spec.facts import Fact, deduplicate, parse_facts
from jeep_core.spec.positions import PromptTokens, check_facts
from jeep_core.text.joining import join_of
from service.api.http.problems import ApiProblem, from_fields, invalid
from service.api.model import PublishedModel
from service.api.submission.guards import guard_problems
from service.contracts.schemas import AUTO, Duplicate, EditPlan, EditRequest, FactPlan, FactRecord
from service.contracts.schemas.edits import HParamsOrAuto

RESERVED_NAMES = re.compile(r"head|base|v[0-9]+", re.IGNORECASE)


def reserved(name: str) -> str:
    """Return the message that refuses a reserved snapshot name."""
    return f"{name!r} is reserved: head, base and v<number> name versions; choose another name"


@dataclass(frozen=True)
class ValidEdit:
    """A request without mistakes.  ``facts[i]`` came as fact ``indices[i]`` of the request."""

    editor: str
    preset: str | None
    hparams: HParamsOrAuto
    facts: list[Fact]
    indices: list[int]
    duplicates: dict[int, int]
    rows: list[PromptTokens]

    @property
    def records(self) -> list[FactRecord]:
        """The facts as they are stored."""
        return [
            FactRecord(
                subject=fact.subject,
                prompt=fact.prompt,
                target_new=fact.target_new,
                target_true=fact.target_true,
                paraphrase_prompts=list(fact.paraphrase_prompts),
                neighborhood_prompts=list(fact.neighborhood_prompts),
                join=fact.join,
            )
            for fact in self.facts
        ]

    @property
    def repeated(self) -> list[Duplicate]:
        """The facts of the request that repeat an earlier one."""
        return [Duplicate(index=i, kept=kept) for i, kept in self.duplicates.items()]


def check_count(n_facts: int, limit: int) -> None:
    """Refuse more facts than the service takes at once.

    Raises:
        ApiProblem: 413.
    """
    if n_facts > limit:
        detail = (
            f"{n_facts} facts in one request, the limit is {limit} (JEEP_MAX_FACTS): "
            "send several edits"
        )
        raise ApiProblem(
            "too_many_facts",
            detail,
            from_fields([FieldProblem("/facts", "too_many_facts", detail)]),
        )


def validate_edit(request: EditRequest, model: PublishedModel) -> ValidEdit:
    """Check names, hyper-parameters and facts against the published model.

    Raises:
        ApiProblem: 422 with a pointer per wrong field, of all fields at once.
    """
    problems: list[FieldProblem] = []
    if request.snapshot_name and RESERVED_NAMES.fullmatch(request.snapshot_name):
        message = reserved(request.snapshot_name)
        problems.append(FieldProblem("/snapshot_name", "reserved_name", message))
    preset: str | None = None
    hparams: HParamsOrAuto = {}
    try:
        preset, hparams = _hparams(request, model)
    except InvalidHParams as error:
        problems += error.problems
    facts, rows = _facts(request, model, problems)
    indices: list[int] = []
    duplicates: dict[int, int] = {}
    try:
        indices, duplicates = deduplicate(facts)
    except InvalidFacts as error:
        problems += [_as_sent(problem, request) for problem in error.problems]
    if request.guards is not None and not problems:
        problems += guard_problems(request.guards, [(i, facts[i]) for i in indices], model)
    if problems:
        raise invalid(from_fields(sorted(problems, key=_position)), _code(problems))
    kept, kept_rows = [facts[i] for i in indices], [rows[i] for i in indices]
    return ValidEdit(request.editor, preset, hparams, kept, indices, duplicates, kept_rows)


def _hparams(request: EditRequest, model: PublishedModel) -> tuple[str | None, HParamsOrAuto]:
    """Return the name of the preset and complete hyper-parameters, or ``auto``.

    Raises:
        InvalidHParams: see `preset_hparams` and `check_automatic`.
    """
    if request.hparams == AUTO:
        check_automatic(request.editor, request.preset)
        return None, AUTO
    names = model.info.presets.get(request.editor, [])
    known = {name: model.info.preset_values[f"{request.editor}/{name}"] for name in names}
    preset, checked = preset_hparams(
        request.editor, known, request.preset, request.hparams, model.info.n_layers, auto=True
    )
    return preset, checked.model_dump(mode="json")


def plan_of(edit: ValidEdit, model: PublishedModel) -> EditPlan:
    """Return the plan for a dry run: tokens, optimised positions, repeated facts."""
    facts = []
    for index, fact, row in zip(edit.indices, edit.facts, edit.rows, strict=True):
        tokens = [model.tokenizer.id_to_token(i) or "" for i in row.ids]
        facts.append(
            FactPlan(
                index=index,
                subject=fact.subject,
                prompt=fact.prompt,
                target_new=fact.target_new,
                text=fact.answered,
                join=join_of(fact.text, fact.target_new, fact.join),
                tokens=tokens,
                subject_last=row.subject_last,
                prediction=row.prediction,
                target_tokens=tokens[row.prediction + 1 :],
            )
        )
    return EditPlan(
        editor=edit.editor,
        preset=edit.preset,
        hparams=edit.hparams,
        facts=facts,
        duplicates=edit.repeated,
    )


def _facts(
    request: EditRequest, model: PublishedModel, problems: list[FieldProblem]
) -> tuple[list[Fact], list[PromptTokens]]:
    """The request's facts and their tokens, one each; wrong ones go to ``problems``.

    A wrong fact leaves a placeholder that resembles no other fact, so that indices stay.
    """
    facts: list[Fact] = []
    rows: list[PromptTokens] = []
    for i, record in enumerate(request.facts):
        try:
            [fact] = parse_facts([record.model_dump()], model.info.relations)
            limit = model.info.max_positions
            rows += check_facts(model.tokenizer, [fact], limit, true_answers=True)
            facts.append(fact)
        except InvalidFacts as error:
            moved = [
                replace(p, pointer=p.pointer.replace("/0/", f"/{i}/", 1)) for p in error.problems
            ]
            problems += [_as_sent(problem, request) for problem in moved]
            facts.append(Fact(f"\0{i}", "{}", ""))
            rows.append(PromptTokens((), 0, 0, 0))
    return facts, rows


def _as_sent(problem: FieldProblem, request: EditRequest) -> FieldProblem:
    """Facts given as triples have ``relation`` and ``object`` for ``prompt`` and ``target_new``."""
    _, _, index, field = problem.pointer.split("/")
    if request.facts[int(index)].relation is not None:
        field = {"prompt": "relation", "target_new": "object"}.get(field, field)
    return replace(problem, pointer=f"/facts/{index}/{field}")


def _position(problem: FieldProblem) -> tuple[int, int]:
    """Order of problems: other fields first, then the facts as they came."""
    parts = problem.pointer.split("/")
    return (1, int(parts[2])) if parts[1] == "facts" else (0, 0)


def _code(problems: list[FieldProblem]) -> str:
    """One code for the whole answer: the field's own if all agree on what is wrong."""
    if all(problem.pointer.startswith("/facts") for problem in problems):
        return "invalid_facts"
    if all(problem.pointer.startswith(("/hparams", "/editor", "/preset")) for problem in problems):
        return "invalid_hparams"
    return "invalid_request"
