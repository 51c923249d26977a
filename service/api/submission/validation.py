"""Validation of an edit, without torch and before it is queued."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from jeep_core.editors import check_editor, needs_choice, preset_hparams
from jeep_core.errors import FieldProblem, InvalidFacts, InvalidHParams
from jeep_core.probe.defaults.from_record import asked_for, by_depths
from jeep_core.spec.chats import as_asked_in_chat, in_chat, parse_chat_facts
from jeep_core.spec.facts import SAME_ANSWER, Fact, deduplicate, may_be_misspelt
from jeep_core.spec.hparams import Contexts, EditorHParams, contexts_of
from jeep_core.spec.positions import PromptTokens, check_facts
from jeep_core.text.chat import has_template
from jeep_core.text.counting import counted
from service.api.http.problems import ApiProblem, from_fields, invalid
from service.api.model import PublishedModel
from service.api.submission.guards import guard_problems
from service.contracts.schemas import (
    AUTO,
    Duplicate,
    EditOptions,
    FactIn,
    FactRecord,
)
from service.contracts.schemas.edits import HParamsOrAuto

CheckedHParams = EditorHParams | Literal["auto"]
"""Validated and complete, or left to the worker."""
SentFact = FactIn | Fact
"""A fact as the client wrote it, or as it was made of a record of another format."""
RESERVED_NAMES = re.compile(r"head|base|v[0-9]+", re.IGNORECASE)


def reserved(name: str) -> str:
    """Return the message that refuses a reserved snapshot name."""
    return f"{name!r} is reserved: head, base and v<number> name versions; choose another name"


@dataclass(frozen=True)
class ReadFact:
    """A fact of a request and its tokens, or its problems.

    ``sent``: the names that its fields had in the request, where these are others.  ``doubtful``:
    its relation, where that is taken for text and may have been meant as a name.
    """

    fact: Fact
    row: PromptTokens
    sent: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[FieldProblem] = ()
    doubtful: str = ""

    def as_sent(self, problem: FieldProblem, index: int) -> FieldProblem:
        """A problem of the fact, with a pointer to the field that the client wrote."""
        _, _, _, name = problem.pointer.split("/")
        return replace(problem, pointer=f"/facts/{index}/{self.sent.get(name, name)}")


@dataclass(frozen=True)
class ReadEdit:
    """A request as it was read, once: hyper-parameters and facts, each valid or with problems.

    ``problems`` are those of all fields but the facts.
    """

    preset: str | None
    hparams: CheckedHParams
    changes: Mapping[str, Any]
    facts: list[ReadFact]
    problems: Sequence[FieldProblem]

    def only(self, kept: Sequence[int]) -> ReadEdit:
        """The same with these facts alone."""
        return replace(self, facts=[self.facts[i] for i in kept])


@dataclass(frozen=True)
class ValidEdit:
    """A request without mistakes.  ``facts[i]`` came as fact ``indices[i]`` of the request.

    ``changes`` are laid over hyper-parameters that are left to the worker.  ``warnings``: what may
    have been meant otherwise.
    """

    editor: str
    preset: str | None
    hparams: CheckedHParams
    facts: list[Fact]
    indices: list[int]
    duplicates: dict[int, int]
    rows: list[PromptTokens]
    changes: Mapping[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def hparams_record(self) -> HParamsOrAuto:
        """The hyper-parameters as they are stored."""
        return AUTO if self.hparams == AUTO else self.hparams.model_dump(mode="json")

    @property
    def records(self) -> list[FactRecord]:
        """The facts as they are stored."""
        return [FactRecord.of(fact) for fact in self.facts]

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
            f"{counted(n_facts, 'fact')} in one request, the limit is {limit} (JEEP_MAX_FACTS): "
            "send several edits"
        )
        raise ApiProblem(
            "too_many_facts",
            detail,
            from_fields([FieldProblem("/facts", "too_many_facts", detail)]),
        )


def read_edit(options: EditOptions, facts: Sequence[SentFact], model: PublishedModel) -> ReadEdit:
    """Read hyper-parameters and facts for the published model; what is wrong is in the result."""
    problems: list[FieldProblem] = []
    if options.snapshot_name and RESERVED_NAMES.fullmatch(options.snapshot_name):
        message = reserved(options.snapshot_name)
        problems.append(FieldProblem("/snapshot_name", "reserved_name", message))
    preset: str | None = None
    hparams: CheckedHParams = AUTO
    changes: dict[str, Any] = {}
    try:
        check_editor(options.editor)
        preset, hparams, changes = hparams_of(
            options.editor, options.preset, options.hparams, model
        )
    except InvalidHParams as error:
        problems += error.problems
    contexts = contexts_for(options.editor, hparams, changes, model)
    found = [_read_fact(sent, i, model, contexts) for i, sent in enumerate(facts)]
    return ReadEdit(preset, hparams, changes, found, problems)


def validate_edit(options: EditOptions, read: ReadEdit, model: PublishedModel) -> ValidEdit:
    """The edit that was read, if nothing of it is wrong, its facts agree and its guards can be met.

    Raises:
        ApiProblem: 422 with a pointer per wrong field, of all fields at once.
    """
    problems = [*read.problems]
    for i, one in enumerate(read.facts):
        problems += [one.as_sent(problem, i) for problem in one.problems]
    facts = [one.fact for one in read.facts]
    indices: list[int] = []
    duplicates: dict[int, int] = {}
    try:
        indices, duplicates = deduplicate(facts)
    except InvalidFacts as error:
        for problem in error.problems:
            i = int(problem.pointer.split("/")[2])
            problems.append(read.facts[i].as_sent(problem, i))
    if options.guards is not None and not problems:
        problems += guard_problems(options.guards, [(i, facts[i]) for i in indices], model)
    if problems:
        raise invalid(from_fields(sorted(problems, key=_position)), _code(problems))
    kept, rows = [facts[i] for i in indices], [read.facts[i].row for i in indices]
    return ValidEdit(
        options.editor,
        read.preset,
        read.hparams,
        kept,
        indices,
        duplicates,
        rows,
        read.changes,
        _doubts([read.facts[i] for i in indices]),
    )


def _doubts(facts: Sequence[ReadFact]) -> list[str]:
    """A warning for every relation that is taken for text and may be a misspelt name."""
    first: dict[str, ReadFact] = {}
    for one in facts:
        if one.doubtful:
            first.setdefault(one.doubtful, one)
    return [
        f"no relation is called {relation!r}, so it is taken for the text after the subject: "
        f"{one.fact.answered!r}; if that is meant, write '{{}} {relation}'"
        for relation, one in first.items()
    ]


def hparams_of(
    editor: str, preset: str | None, given: HParamsOrAuto, model: PublishedModel
) -> tuple[str | None, CheckedHParams, dict[str, Any]]:
    """The name of the preset and complete hyper-parameters; or ``auto`` and changes to it.

    Where there is no preset for the model, what was not given is left to the worker.

    Raises:
        InvalidHParams: see `preset_hparams`, `asked_for` and `by_depths`.
    """
    info = model.info
    names = info.presets.get(editor, [])
    known = {name: info.preset_values[f"{editor}/{name}"] for name in names}
    chat = has_template(model)
    automatic, changes = asked_for(editor, preset, given)
    if not automatic and not needs_choice(editor, known, preset, changes):
        return *preset_hparams(editor, known, preset, changes, info.n_layers, chat=chat), {}
    # so that what is wrong is said now
    by_depths(editor, info.n_layers, info.mlp_size, changes, chat=chat)
    return None, AUTO, dict(changes)


def contexts_for(
    editor: str, hparams: CheckedHParams, changes: Mapping[str, Any], model: PublishedModel
) -> Contexts:
    """How the facts will be asked; the worker decides alike for ``auto``."""
    if isinstance(hparams, EditorHParams):
        return contexts_of(hparams)
    info, chat = model.info, has_template(model)
    try:
        return contexts_of(by_depths(editor, info.n_layers, info.mlp_size, changes, chat=chat))
    except InvalidHParams:  # it is refused for that, here or by the worker
        return "both" if chat else "plain"


def _read_fact(sent: SentFact, index: int, model: PublishedModel, contexts: Contexts) -> ReadFact:
    """A fact and its tokens; a wrong one is a placeholder that resembles no other fact."""
    names: Mapping[str, str] = {}
    if isinstance(sent, FactIn) and sent.relation is not None:
        names = {"prompt": "relation", "target_new": "object"}
    elif isinstance(sent, FactIn) and sent.messages is not None:
        names = {"prompt": "messages"}
    try:
        fact = _parsed(sent, model)
        if contexts != "plain":
            fact = in_chat(fact, model.chat)
        asked = as_asked_in_chat(fact, model.chat) if contexts == "chat" else fact
        [row] = check_facts(model.tokenizer, [asked], model.info.max_positions, true_answers=True)
    except InvalidFacts as error:
        placeholder = Fact(f"\0{index}", "{}", "")
        return ReadFact(placeholder, PromptTokens((), 0, 0, 0), names, error.problems)
    relation = (sent.relation or "").strip() if isinstance(sent, FactIn) else ""
    doubtful = relation and may_be_misspelt(relation, model.info.relations)
    return ReadFact(fact, row, names, doubtful=relation if doubtful else "")


def _parsed(sent: SentFact, model: PublishedModel) -> Fact:
    """The fact that was sent; what a record of a suite became is one already.

    Raises:
        InvalidFacts: the pointers of its problems begin with ``/facts/0``.
    """
    if isinstance(sent, FactIn):
        [fact] = parse_chat_facts([sent.model_dump()], model.info.relations, model.chat)
        return fact
    if sent.changes_nothing:  # formats compare the answers alone, without what joins them
        raise InvalidFacts([FieldProblem("/facts/0/target_true", *SAME_ANSWER)])
    return sent


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
