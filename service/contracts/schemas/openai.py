"""OpenAI's interface as ``/v1`` serves it: requests, answers, models.

Unknown fields are ignored.  Known ones that would change the answer and are not implemented are
accepted with their neutral value only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SAMPLES = 128
TOP = 20
"""Most probable tokens that can be asked for at each place."""

Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Stop = str | list[str]


class OpenAIRequest(BaseModel):
    """Base of request bodies: unknown fields are ignored, errors do not repeat the input."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, hide_input_in_errors=True)


class StreamOptions(OpenAIRequest):
    """``include_usage``: one more chunk at the end, with the counts of tokens."""

    include_usage: bool | None = None


class Sampled(OpenAIRequest):
    """The fields that both kinds of completion share; null is as if it were not there."""

    model: str = Field(description="`head`, `base`, a version id or a snapshot name.")
    min_version: str | None = Field(
        None,
        description="Answer from this version, or one that head was moved to after it.",
    )
    n: int | None = Field(None, ge=1, le=SAMPLES, description="Answers to each prompt; 1.")
    temperature: float | None = Field(None, ge=0.0, le=10.0, description="0: greedy; default 1.")
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=-1, description="-1 and 0: all.")
    seed: Seed | None = None
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: float | None = Field(None, description="0 only.")
    presence_penalty: float | None = Field(None, description="0 only.")
    logit_bias: dict[str, float] | None = Field(None, description="Empty only.")

    @field_validator("frequency_penalty", "presence_penalty", "logit_bias")
    @classmethod
    def _neutral(cls, value: Any) -> Any:
        if value:
            raise ValueError("is not supported: leave it out")
        return value

    @property
    def stops(self) -> list[str]:
        """The stop strings, however they were given; empty ones count as none."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]

    @property
    def samples(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1

    @property
    def heat(self) -> float:
        """The temperature; 1 where none is given, as in OpenAI's interface."""
        return 1.0 if self.temperature is None else self.temperature

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(Sampled):
    """``POST /v1/completions``."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "head", "prompt": "Lyon is in", "max_tokens": 4}]}
    )

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="A text or the ids of its tokens, or several of either.  No BOS is added."
    )
    max_tokens: int | None = Field(None, ge=0, description="Default 16.")
    echo: bool | None = Field(None, description="Begin the answer with the prompt.")
    logprobs: int | None = Field(
        None, ge=0, le=TOP, description="Log-probabilities, with so many of the most probable."
    )
    best_of: int | None = Field(None, ge=1, description="The same as n only.")
    suffix: str | None = Field(None, description="Empty only.")

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_of_four(cls, value: Any) -> Any:
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value:
            if all(isinstance(item, str) for item in value) or _is_tokens(value):
                return value
            if all(isinstance(item, list) and _is_tokens(item) for item in value):
                return value
        raise ValueError("must be a text, token ids, or a list of either that is not empty")

    @field_validator("suffix")
    @classmethod
    def _no_suffix(cls, value: str | None) -> str | None:
        if value:
            raise ValueError("is not supported: leave it out")
        return value

    @model_validator(mode="after")
    def _all_are_shown(self) -> Self:
        if self.best_of is not None and self.best_of != self.samples:
            raise ValueError("best_of is supported as the same number as n only: leave it out")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts as a list."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]


class ContentPart(OpenAIRequest):
    """A part of a message; only texts can be read."""

    type: Literal["text"]
    text: str


class ChatMessage(OpenAIRequest):
    """A message; its content is a text, or texts in parts."""

    role: str = Field(min_length=1, max_length=64)
    content: str | list[ContentPart] | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatRequest(Sampled):
    """``POST /v1/chat/completions``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "head", "messages": [{"role": "user", "content": "Where is Lyon?"}]}
            ]
        }
    )

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, description="Default: what fits.")
    max_tokens: int | None = Field(None, ge=1, description="Older name of the same.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=TOP)
    response_format: dict[str, Any] | None = Field(None, description="`text` only.")
    tools: list[Any] | None = Field(None, description="Empty only.")

    @field_validator("tools")
    @classmethod
    def _no_tools(cls, value: list[Any] | None) -> list[Any] | None:
        if value:
            raise ValueError("are not supported: leave them out")
        return value

    @field_validator("response_format")
    @classmethod
    def _text(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value and value.get("type", "text") != "text":
            raise ValueError("is supported as text only: leave it out")
        return value

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def longest(self) -> int | None:
        """How many tokens an answer may have, None for what fits."""
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given


class Usage(BaseModel):
    """Counts of tokens; a prompt counts once, the token that ends an answer counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(BaseModel):
    """Log-probabilities by token, those of the prompt included with ``echo``.

    A prompt's first token has null: nothing precedes it.  ``text_offset``: where a token begins
    in the text, in characters.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One answer; in a stream, a piece of one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class Answered(BaseModel):
    """The fields that all answers and chunks share.  ``model_version``: the version's id."""

    id: str
    created: int
    model: str
    model_version: str
    system_fingerprint: str


class Completion(Answered):
    """The answer of ``POST /v1/completions``, and a chunk of its stream."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(BaseModel):
    """A token with its log-probability and UTF-8 bytes, null for a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(TopLogprob):
    """A token of an answer."""

    top_logprobs: list[TopLogprob] = Field(default_factory=list)


class ChatLogprobs(BaseModel):
    """Log-probabilities of an answer's tokens."""

    content: list[ChatLogprob]


class AnswerMessage(BaseModel):
    """An answer in full."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Answered):
    """The answer of ``POST /v1/chat/completions``."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage


class Delta(BaseModel):
    """The part of an answer that a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(BaseModel):
    """A piece of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(Answered):
    """A chunk of a stream."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class Model(BaseModel):
    """A version by one of its names; ``version`` is its id, ``root`` the model it is one of."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "jeep"
    root: str | None = None
    version: str


class ModelList(BaseModel):
    """Every name by which a version can be asked."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorBody(BaseModel):
    """An error in OpenAI's shape; ``errors`` and ``request_id`` are as in a problem."""

    message: str
    type: str
    param: str | None
    code: str
    errors: list[dict[str, str]] = Field(default_factory=list)
    request_id: str


class OpenAIError(BaseModel):
    """The answer to a request that failed, and the last event of a stream that did."""

    error: ErrorBody


class TokenizeRequest(OpenAIRequest):
    """``POST /tokenize``."""

    prompt: str
    add_special_tokens: bool = True


class Tokenized(BaseModel):
    """The ids of a text's tokens."""

    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeRequest(OpenAIRequest):
    """``POST /detokenize``."""

    tokens: list[Annotated[int, Field(ge=0, lt=2**31)]]


class Detokenized(BaseModel):
    """The text of tokens."""

    prompt: str


class TokenizerInfo(BaseModel):
    """Special tokens and chat template of the model, null where it has none."""

    bos_token: str | None
    eos_token: str | None
    chat_template: str | None
    max_model_len: int


def _is_tokens(value: list[Any]) -> bool:
    """Whether a list holds ids, and at least one."""
    return bool(value) and all(type(item) is int and 0 <= item < 2**31 for item in value)
