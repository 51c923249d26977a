"""Suites and evaluations."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from jeep_core.probe.defaults.from_record import Source
from service.contracts.jobs import JobError, JobStatus, Progress
from service.contracts.schemas.base import MetricProtocol, Request
from service.contracts.schemas.edits import PRESET, HParamsOrAuto
from service.contracts.schemas.reading import Losses

MAX_POINTS = 32
JudgeAddress = Annotated[
    str,
    Field(
        pattern=r"^https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?"
        r"(/[A-Za-z0-9._~/-]*)?(\?[A-Za-z0-9._~/=&%+,:-]*)?$",
        max_length=512,
    ),
]
COMPARISONS_FILE = "comparisons.jsonl"
"""In a job's report folder: every pair of targets, the earlier one as ``a``."""


def cases_file(number: int) -> str:
    """In a job's report folder: the case records of the ``number``-th target."""
    return f"cases-{number}.jsonl"


class SuiteInfo(Losses):
    """A suite as the store keeps it.

    ``records`` were read and became ``cases``, most of them one each.  ``prompts`` counts what the
    cases have: edits, paraphrases, neighbors, portability questions, generation prompts, aliases.
    ``style``: ``contrast`` is judged as CounterFact, ``accuracy`` as zsRE.
    """

    name: str
    bundled: bool = False
    format: str
    style: str
    records: int
    cases: int
    prompts: dict[str, int] = Field(default_factory=dict)
    bytes: int
    sha256: str
    created_at: datetime | None = None


class HarnessEntry(BaseModel):
    """A task of lm-eval, or a group with its ``tasks``; ``problem``: why it cannot be run."""

    name: str
    file: str
    bundled: bool
    kind: str
    tasks: list[str] = Field(default_factory=list)
    problem: str | None = None


class HarnessInfo(BaseModel):
    """lm-eval in the worker: its ``version``, or why it is ``unavailable``, and its tasks."""

    version: str | None = None
    unavailable: str | None = None
    tasks: list[HarnessEntry]


class SuiteList(BaseModel):
    """All suites, the bundled ones first, and the tasks of lm-eval (``lm-eval:NAME``)."""

    data: list[SuiteInfo]
    lm_eval: HarnessInfo


class JudgeIn(Request):
    """A model that judges free answers; what is left out is taken from the settings.

    Needs the scope `admin`: questions and answers are sent to another server.
    """

    model: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="The name that its server knows it by; default: JEEP_JUDGE_MODEL."
    )
    address: JudgeAddress | None = Field(
        None,
        description="An OpenAI-compatible server, such as http://127.0.0.1:8001/v1; default: "
        "JEEP_JUDGE_ADDRESS, which alone is given JEEP_JUDGE_KEY. A query (?api-version=…) is sent "
        "with every question. All addresses of its host must "
        "be in JEEP_TARGETS_ALLOW.",
    )
    timeout_s: Annotated[float, Field(gt=0, le=600)] = Field(
        60.0, description="How long it may take for one answer."
    )


class FreeIn(Request):
    """Cases are also judged by what a version writes freely; see docs/suites.md."""

    max_new_tokens: int = Field(
        32, ge=1, le=512, description="Of an answer; most end before, with their first sentence."
    )
    judge: JudgeIn | None = Field(
        None, description="Have a model say whether each answer is right, too."
    )


class JudgeOptions(BaseModel):
    """A judge as a job asks it; its key is in none of these."""

    model: str
    address: str
    timeout_s: float


class FreeOptions(BaseModel):
    """How a job has free answers written and judged."""

    max_new_tokens: int
    judge: JudgeOptions | None = None


class EvaluationRequest(Request):
    """``POST /evaluations``: existing versions, or trials of an editor.

    A trial edits the first n cases into the base model, for every n of ``n_edits`` (0: the
    unedited model), measures these cases and throws the edit away.
    """

    suite: str = Field(
        description="A suite of GET /suites, or lm-eval:NAME: a task or a task file of lm-eval."
    )
    versions: list[str] | None = Field(
        None, min_length=1, max_length=8, description="Default: head; of lm-eval base and head."
    )
    editor: str | None = None
    preset: str | None = Field(None, description=PRESET)
    hparams: HParamsOrAuto = Field(default_factory=dict)
    n_edits: list[Annotated[int, Field(ge=0, le=10_000)]] | None = Field(
        None, min_length=1, max_length=MAX_POINTS, validate_default=True
    )
    ask: Literal["plain", "chat"] = Field(
        "plain", description="How prompts are put: as they are, or as a user's message of a chat."
    )
    limit: int | None = Field(None, ge=1, description="Cases drawn; default: all, in file order.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of the draw, texts and intervals.")
    fluency_texts: int = Field(
        32, ge=0, le=10_000, description="Texts per version that fluency is measured on."
    )
    free: FreeIn | None = Field(
        None, description="Also judge by free generation; {} for the usual way. Default: do not."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.editor is None and (self.preset or self.hparams or self.n_edits):
            raise ValueError("preset, hparams and n_edits belong to a trial, which needs an editor")
        if self.editor is not None and self.versions:
            raise ValueError("give versions, or an editor and n_edits, not both")
        return self

    @field_validator("n_edits")
    @classmethod
    def _of_a_trial(cls, value: list[int] | None, info: ValidationInfo) -> list[int] | None:
        if info.data.get("editor") is not None and not any(value or []):
            raise ValueError("a trial needs numbers of edits, at least one of them above 0")
        return value

    @field_validator("limit")
    @classmethod
    def _of_versions(cls, value: int | None, info: ValidationInfo) -> int | None:
        if info.data.get("editor") is not None and value is not None:
            raise ValueError("a trial is measured on the cases it edits: it takes no limit")
        return value


class Target(BaseModel):
    """The object of a measurement: a version, or the base model after a trial of ``n_edits``.

    ``label`` is how the request named it.
    """

    label: str
    version: str | None = None
    n_edits: int | None = None


class EvaluationPayload(BaseModel):
    """Payload of an evaluation job.  ``hparams`` is complete or ``auto``, as an edit's payload."""

    evaluation_id: str
    suite: str
    suite_sha256: str
    targets: list[Target]
    editor: str | None = None
    preset: str | None = None
    hparams: HParamsOrAuto = Field(default_factory=dict)
    changes: dict[str, Any] = Field(default_factory=dict)
    ask: Literal["plain", "chat"] = "plain"
    limit: int | None = None
    seed: int = 0
    fluency_texts: int = 0
    free: FreeOptions | None = None


class MetricInterval(BaseModel):
    """A mean over ``cases`` cases with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    cases: int


class JudgeRecord(BaseModel):
    """The judge that was asked, and how many of its ``answers`` were neither yes nor no."""

    model: str
    address: str
    answers: int
    unclear: int


class HeldOutText(BaseModel):
    """The text that a perplexity was measured on: its first ``tokens`` tokens, or all if it has
    fewer.
    """

    name: str
    sha256: str
    tokens: int


class EvaluationPoint(BaseModel):
    """Figures of one target.

    ``metrics``: ``efficacy``, ``generalization``, ``locality``, their harmonic mean ``score``,
    the ``greedy…`` shares of answers that the model writes itself and ``portability`` in percent;
    ``margin…`` in differences of probabilities; ``fluency`` in bits; ``free_exact…``,
    ``free_f1…``, ``free_contains…``, ``free_kept`` and ``judge…`` of free answers, in percent.
    Portability is also given by group of questions, as ``portability/GROUP`` and
    ``free_f1_portability/GROUP``, where a suite has several.  A metric that no case has is
    missing.  ``perplexity`` of the held-out text
    ``perplexity_text``, if there is one.  ``warnings``: what is to be known about the edit of a
    trial; the result has them, too.
    """

    label: str
    version: str | None = None
    n_edits: int | None = None
    cases: int
    metrics: dict[str, MetricInterval]
    perplexity: float | None = None
    perplexity_text: HeldOutText | None = None
    seconds: float
    warnings: list[str] = Field(default_factory=list)


class HarnessTask(BaseModel):
    """A task of lm-eval as it was run; ``kind`` is its ``output_type``."""

    name: str
    file: str
    bundled: bool
    kind: str
    documents: int
    num_fewshot: int
    sha256: str


class HarnessRecord(BaseModel):
    """How figures of lm-eval came about.

    ``version`` of lm-eval; ``opening``: the special tokens (BOS) that the tokenizer puts before
    every text, mostly none; ``prefix``: the token that a text without a context follows;
    ``max_length`` in tokens: longer texts are read in windows.
    """

    version: str
    tokenizer: str
    opening: str
    prefix: str
    max_length: int
    tasks: list[HarnessTask]


class EvaluationResult(BaseModel):
    """Result of an evaluation job.

    ``suite_sha256``: hash of the suite's file, or of the files of its tasks.  ``skipped``: cases
    that this model cannot be asked, by reason; ``left_out``: prompts.
    ``hparams``, ``source``, ``rule``, ``moments`` and ``warnings`` are a trial's, as in an edit's
    result.
    ``lm_eval``: of tasks of lm-eval, whose ``metrics`` are called ``TASK/METRIC`` and are in
    lm-eval's own units.  ``protocols`` says of every metric how it came about; ``judge`` of the
    judge model, if one was asked.
    """

    evaluation_id: str
    suite: str
    suite_sha256: str | None = None
    style: str
    seed: int
    skipped: dict[str, int] = Field(default_factory=dict)
    left_out: dict[str, int] = Field(default_factory=dict)
    points: list[EvaluationPoint]
    hparams: dict[str, Any] | None = None
    source: Source | None = None
    rule: int | None = None
    moments: str | None = None
    warnings: list[str] = Field(default_factory=list)
    lm_eval: HarnessRecord | None = None
    protocols: dict[str, MetricProtocol] = Field(default_factory=dict)
    judge: JudgeRecord | None = None


class Evaluation(BaseModel):
    """``GET /evaluations/{id}``."""

    id: str
    job_id: str
    status: JobStatus
    suite: str
    targets: list[Target]
    editor: str | None
    preset: str | None
    hparams: HParamsOrAuto
    ask: Literal["plain", "chat"] = "plain"
    free: FreeOptions | None = None
    limit: int | None
    seed: int
    created_at: datetime
    progress: Progress
    result: EvaluationResult | None = None
    error: JobError | None = None


class CaseChange(BaseModel):
    """A case that two targets answer differently: ``[before, after]`` by metric."""

    id: str
    prompt: str
    metrics: dict[str, tuple[float, float]]


class EvaluationComparison(BaseModel):
    """Target ``b`` against target ``a`` over the cases of both: differences are b - a.

    ``protocols`` of the differences: an evaluation measures its targets by the same one.
    ``notes``: where the two were measured differently all the same.
    """

    a: str
    b: str
    cases: int
    differences: dict[str, MetricInterval]
    better: list[CaseChange]
    broken: list[CaseChange]
    protocols: dict[str, MetricProtocol] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)

    def reversed(self) -> EvaluationComparison:
        """The same comparison with the targets swapped."""
        return EvaluationComparison(
            a=self.b,
            b=self.a,
            cases=self.cases,
            differences={name: _negative(d) for name, d in self.differences.items()},
            better=[_turned(change) for change in self.broken],
            broken=[_turned(change) for change in self.better],
            protocols=self.protocols,
            notes=self.notes,
        )


def _negative(d: MetricInterval) -> MetricInterval:
    return MetricInterval(value=-d.value, low=-d.high, high=-d.low, cases=d.cases)


def _turned(change: CaseChange) -> CaseChange:
    turned = {name: (after, before) for name, (before, after) in change.metrics.items()}
    return CaseChange(id=change.id, prompt=change.prompt, metrics=turned)
