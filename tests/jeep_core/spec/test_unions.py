"""Errors of fields with several types: places in the input, and one error for a field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from jeep_core.spec.naming import field_problems, one_line
from jeep_core.spec.unions import either


class Part(BaseModel):
    kind: Literal["text"]
    text: str


class Message(BaseModel):
    content: str | list[Part]


class Asked(BaseModel):
    version: str | list[str] = "head"
    anchor: bool | Annotated[float, Field(gt=0, le=10)] = False
    count: int | Literal["all"] = 1
    several: list[str] | None = Field(None, min_length=1)
    messages: list[Message] = Field(default_factory=list)
    named: dict[str, int | list[int]] = Field(default_factory=dict)


def told(data: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        Asked.model_validate(data)
    return [(one.pointer, one.message) for one in field_problems(Asked, caught.value, data, "/at")]


@pytest.mark.parametrize(
    ("data", "problems"),
    [
        ({"version": 5}, [("/at/version", "must be a text or a list")]),
        ({"anchor": 11}, [("/at/anchor", "must be at most 10")]),
        ({"version": ["a", 5]}, [("/at/version/1", "must be a text")]),
        ({"version": {"str": 5}}, [("/at/version", "must be a text or a list")]),
        ({"count": "some"}, [("/at/count", "must be a whole number or 'all'")]),
        ({"several": []}, [("/at/several", "has 0 entries, at least 1 are needed")]),
        ({"messages": [{"content": 5}]}, [("/at/messages/0/content", "must be a text or a list")]),
        (
            {"messages": [{"content": [{"kind": "text"}, 3]}]},
            [
                ("/at/messages/0/content/0/text", "is missing"),
                ("/at/messages/0/content/1", "must be an object"),
            ],
        ),
        ({"named": {"str": "x"}}, [("/at/named/str", "must be a whole number or a list")]),
        ({"named": {"a/b": ["x"]}}, [("/at/named/a~1b/0", "must be a whole number")]),
        (
            {"version": 5, "count": "some"},
            [
                ("/at/version", "must be a text or a list"),
                ("/at/count", "must be a whole number or 'all'"),
            ],
        ),
    ],
)
def test_a_field_has_one_error_at_its_place(
    data: dict[str, Any], problems: list[tuple[str, str]]
) -> None:
    assert told(data) == problems


def test_a_line_about_a_file_names_no_types() -> None:
    with pytest.raises(ValidationError) as caught:
        Asked.model_validate({"version": 5})
    assert one_line(caught.value) == "version: must be a text or a list"


def test_messages_are_said_once() -> None:
    assert either(["must be a", "must be b", "must be a"]) == "must be a or b"
    assert either(["must be a", "is missing"]) == "must be a; or is missing"
