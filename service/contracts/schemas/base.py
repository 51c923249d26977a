"""The base of request bodies, problems, and what every figure is given with."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,63}$")]
"""A snapshot name: starts with a letter; ``head``, ``base`` and ``v<number>`` are taken."""


class Request(BaseModel):
    """Base of request bodies: unknown fields are refused, numbers are finite.

    Its errors do not repeat the input, so that no prompt gets into a log through a traceback.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class MessageIn(Request):
    """One message of a chat."""

    role: str = Field(description="As the model's template knows it, mostly user or system.")
    content: str


class MetricProtocol(BaseModel):
    """How a figure came about: what was asked and how, how it was judged, what it can be compared
    with.
    """

    asked: str
    how: str
    judged: str
    comparable: str


class Problem(BaseModel):
    """RFC 9457 problem details.

    ``message`` repeats ``detail``: clients made for OpenAI's interface show nothing else.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    message: str = ""
    code: str
    errors: list[dict[str, str]] = Field(default_factory=list)
    request_id: str

    @model_validator(mode="after")
    def _repeat_detail(self) -> Self:
        self.message = self.message or self.detail
        return self
