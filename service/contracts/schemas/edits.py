"""Edits: requests, guards, plans, outcomes; and reverts, which take one edit back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from jeep_core.editors import DEFAULT_EDITOR
from jeep_core.probe.defaults.from_record import Source
from jeep_core.spec.facts import Fact
from jeep_core.text.joining import Join
from service.contracts.jobs import JobError, JobStatus
from service.contracts.schemas.base import MessageIn, MetricProtocol, Name, Request
from service.contracts.schemas.effects.earlier import CheckEarlier, EarlierFacts, MendedFact
from service.contracts.schemas.effects.guards import GuardFigures, Guards
from service.contracts.schemas.effects.outcomes import FactOutcome, LayerReport
from service.contracts.schemas.reading import Imported

AUTO: Literal["auto"] = "auto"
PRESET = (
    "The hyper-parameters that `hparams` is laid over, by their name; or `auto`: those of a probe "
    "of the base model, also where there are presets. Default: the model's first, else `auto`."
)


def _object_or_auto(value: Any) -> Any:
    if isinstance(value, dict) or value == AUTO:
        return value
    raise ValueError('must be an object, or "auto"')


HParamsOrAuto = Annotated[dict[str, Any] | Literal["auto"], BeforeValidator(_object_or_auto)]


class FactIn(Request):
    """One fact: ``subject, relation, object``, or ``subject, prompt, target_new``, or
    ``subject, messages, target_new``.

    ``relation`` is the name of a relation in the template table, else a template with one
    ``{}``, else the text that follows the subject.  One word with an underscore, and what
    resembles a known name, is never taken for such a text: 422 says which name is meant.
    ``prompt`` has one ``{}`` or contains the subject as a word of its own (its last occurrence
    is meant).  White space around a prompt is a part of it.  ``join``: how an answer follows a
    prompt, see docs/prompts.md.  ``{}`` in the prompts that test the fact is the subject.
    ``messages`` are a chat, whose last message is the user's and which the target answers; the
    subject is ``{}`` in one of them, else the last place where a user's message names it.
    """

    subject: str
    relation: str | None = None
    object: str | None = None
    prompt: str | None = None
    messages: list[MessageIn] | None = Field(
        None, min_length=1, description="In place of a prompt, for models with a chat template."
    )
    target_new: str | None = None
    target_true: str | None = None
    paraphrase_prompts: list[str] = Field(default_factory=list)
    neighborhood_prompts: list[str] = Field(default_factory=list)
    join: Join = Field(
        "auto",
        description="How answers follow prompts: with a blank, with nothing, or as the texts say.",
    )


class EditFacts(Request):
    """The facts of a request for an edit."""

    facts: list[FactIn] = Field(min_length=1)


class EditOptions(Request):
    """The options of a request for an edit; its facts may come in other forms."""

    editor: str = Field(
        DEFAULT_EDITOR,
        description="A name, or `auto`: chosen by model, number of facts and earlier edits.",
    )
    preset: str | None = Field(None, description=PRESET)
    hparams: HParamsOrAuto = Field(default_factory=dict)
    snapshot_name: Name | None = None
    parent: str | None = Field(None, description="Fail with 412 unless this version is head.")
    guards: Guards | None = None
    activate: bool = Field(
        True, description="False: write the version without moving head (it is staged)."
    )
    check_earlier: CheckEarlier | None = Field(
        None,
        description="Facts of earlier batches that are asked again: so many, drawn the same way "
        "each time, or all. Default: JEEP_CHECK_EARLIER.",
    )
    repair: bool = Field(
        False,
        description="Edit those of them again that the new version does not say, in the same "
        "version.",
    )


class EditRequest(EditOptions, EditFacts):
    """``POST /edits``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "facts": [
                        {
                            "subject": "Lyon",
                            "prompt": "{} is a city in the country of",
                            "target_new": "Japan",
                        }
                    ]
                },
                {
                    "facts": [{"subject": "Lyon", "relation": "city_country", "object": "Japan"}],
                    "preset": AUTO,
                    "hparams": {"exact": True},
                },
            ]
        }
    )


class ChatRecord(BaseModel):
    """A fact's question in the model's chat format, as the template has written it.

    ``prompt`` has one ``{}``, and ends where the assistant's answer begins; ``user_at`` is the
    character at which the user's words begin; ``join`` is how an answer follows.
    """

    prompt: str
    user_at: int
    join: Join


class FactRecord(BaseModel):
    """A validated fact as it is stored: ``prompt`` is a template with exactly one ``{}``.

    Facts that were stored before there was a ``join`` were joined with a blank.  ``chat``: the
    same question as a chat, if the fact is edited for being asked in one.  For a fact given as
    ``messages``, both are the text of these.
    """

    subject: str
    prompt: str
    target_new: str
    target_true: str | None = None
    paraphrase_prompts: list[str] = Field(default_factory=list)
    neighborhood_prompts: list[str] = Field(default_factory=list)
    join: Join = "space"
    messages: list[MessageIn] | None = None
    chat: ChatRecord | None = None

    @classmethod
    def of(cls, fact: Fact) -> FactRecord:
        """A fact as it is stored."""
        return cls(
            subject=fact.subject,
            prompt=fact.prompt,
            target_new=fact.target_new,
            target_true=fact.target_true,
            paraphrase_prompts=list(fact.paraphrase_prompts),
            neighborhood_prompts=list(fact.neighborhood_prompts),
            join=fact.join,
            messages=[MessageIn(role=r, content=c) for r, c in fact.messages or ()] or None,
            chat=None if fact.chat is None else ChatRecord(**vars(fact.chat)),
        )


class Duplicate(BaseModel):
    """Fact ``index`` of a request says the same as fact ``kept``, which is edited once."""

    index: int
    kept: int


class EditPayload(BaseModel):
    """Payload of an edit job.  ``hparams`` is complete: preset and overrides are merged; or
    ``auto``: the worker takes them from a probe of the base model, and lays ``changes`` over them.
    ``editor_reason``: why this editor, if the request left it to choose.  ``automatic``: the
    request said ``auto`` for preset or hyper-parameters; None: an earlier release did not note it.

    ``facts[i]`` came as fact ``indices[i]`` of the request; empty: as fact i.  ``mended``: those
    that the worker has added, as the batch had broken them.  ``warnings``: the api's, for the
    result.
    """

    edit_id: str
    facts: list[FactRecord]
    editor: str
    editor_reason: str | None = None
    automatic: bool | None = None
    preset: str | None
    hparams: HParamsOrAuto
    changes: dict[str, Any] = Field(default_factory=dict)
    snapshot_name: str | None = None
    parent: str | None = None
    indices: list[int] = Field(default_factory=list)
    duplicates: list[Duplicate] = Field(default_factory=list)
    guards: Guards | None = None
    activate: bool = True
    imported: Imported | None = None
    check_earlier: CheckEarlier | None = None
    repair: bool = False
    mended: list[MendedFact] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)

    @property
    def sent_as(self) -> list[int]:
        """For every fact its index in the request."""
        return self.indices or list(range(len(self.facts)))


class FactPlan(BaseModel):
    """How a fact will be edited: its tokens and the positions that are optimised.

    ``text`` is the prompt with the subject, followed by the target, as they are tokenized;
    ``join`` is what is put between them: a blank (``space``) or nothing (``none``).  ``chat_text``:
    the same as a chat, where the fact is edited for that as well.
    """

    index: int
    subject: str
    prompt: str
    target_new: str
    text: str
    join: Literal["space", "none"]
    tokens: list[str]
    subject_last: int
    prediction: int
    target_tokens: list[str]
    chat_text: str | None = None


class EditPlan(BaseModel):
    """Answer of ``POST /edits?dry_run=true``.

    ``obstacles``: why the edit itself would be refused now, as 409.  ``source``: where ``hparams``
    would come from; they are ``auto`` only where the model would be probed first.  ``exact``: they
    ask for value optimisation as published, or will.  ``moments``:
    where second moments would come from, null if the editor needs none.  ``editor_reason``: why
    this editor, if the request says ``auto``; null if it names one.  ``rule``: the number of the
    rule by which a probe, or the depth, becomes ``hparams``; null where they are given or a preset.
    """

    editor: str
    editor_reason: str | None = None
    preset: str | None
    hparams: HParamsOrAuto
    source: Source
    rule: int | None = None
    exact: bool = False
    moments: str | None = None
    warnings: list[str] = Field(default_factory=list)
    facts: list[FactPlan]
    duplicates: list[Duplicate] = Field(default_factory=list)
    obstacles: list[JobError] = Field(default_factory=list)
    imported: Imported | None = None


class EditResult(BaseModel):
    """Result of an edit job.  ``efficacy`` and ``greedy_success`` are shares of the facts,
    ``chat_efficacy`` too, where facts were edited for a chat beside the plain prompt.

    ``peak_memory_mb``: most memory that value optimisation held at once.  ``activated``: the job
    moved head to its version; false for a staged one, also after it was activated.  ``source``:
    where the hyper-parameters came from; ``moments``: where second moments came from, null if none
    were needed.  Versions written before these were recorded have neither.  ``editor_reason``: why
    this editor was used, if the request left it to choose.  ``rule``: the number of the rule by
    which a probe, or the depth, became the hyper-parameters; null for those of others, and before
    rules had numbers.  ``protocols`` says of every figure how it came about, as in the result of an
    evaluation: ``probability`` of ``p_new`` and ``p_true``, ``guards.NAME`` of ``guards``, others
    by their own names; versions written before have none.
    """

    edit_id: str
    version: str
    parent: str
    snapshot_name: str | None = None
    facts: list[FactOutcome]
    efficacy: float
    chat_efficacy: float | None = None
    greedy_success: float
    layers: list[LayerReport]
    seconds: dict[str, float]
    duplicates: list[Duplicate] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    peak_memory_mb: float | None = None
    guards: GuardFigures | None = None
    activated: bool = True
    source: Source | None = None
    rule: int | None = None
    editor_reason: str | None = None
    moments: str | None = None
    earlier: EarlierFacts | None = None
    protocols: dict[str, MetricProtocol] = Field(default_factory=dict)


class Edit(BaseModel):
    """``GET /edits/{id}``: a submitted batch, with its result once there is one.

    ``applied_in``: the version of head's history that holds the batch, null if none does.
    ``hparams`` is ``auto`` only until the edit has ended.  ``imported``: what became of the
    records that the facts came from, if they came in another format.  ``editor_reason``: why this
    editor, if the request said ``auto``.  ``guards``: the limits of the request; the figures are in
    the result.
    """

    id: str
    job_id: str
    status: JobStatus
    editor: str
    editor_reason: str | None = None
    preset: str | None
    hparams: HParamsOrAuto
    facts: list[FactRecord]
    created_at: datetime
    result: EditResult | None = None
    error: JobError | None = None
    applied_in: str | None = None
    imported: Imported | None = None
    guards: Guards | None = None


class RevertRequest(Request):
    """Body of ``POST /edits/{id}/revert``; empty is fine."""

    parent: str | None = Field(None, description="Fail with 412 unless this version is head.")
    snapshot_name: Name | None = None


class RevertPayload(BaseModel):
    """Payload of a revert job: ``edit_id`` is the batch to remove."""

    edit_id: str
    parent: str | None = None
    snapshot_name: str | None = None


class Reapplied(BaseModel):
    """A later batch: the version it was in and the one it is in now."""

    edit_id: str
    previous_version: str
    version: str
    efficacy: float
    greedy_success: float


class RevertResult(BaseModel):
    """Result of a revert job: head has moved from ``previous`` to ``version``.

    ``warnings``: a batch was computed with other prefixes or second moments than the first time,
    or the version could not be named.
    """

    edit_id: str
    version: str
    previous: str
    weights_sha256: str
    snapshot_name: str | None = None
    reapplied: list[Reapplied]
    warnings: list[str] = Field(default_factory=list)
