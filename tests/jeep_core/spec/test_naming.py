"""Messages about fields: what a text must look like is said in words, not as a pattern."""

from typing import Annotated

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from jeep_core.spec.naming import (
    did_you_mean,
    field_problems,
    in_plain_words,
    known_names,
    one_line,
)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("edti", "; did you mean 'edit' or 'Edits'?"),
        ("EDITS", "; did you mean 'Edits' or 'edit'?"),
        ("xyzzy", ""),
    ],
)
def test_names_that_may_have_been_meant_whatever_their_case(name: str, asked: str) -> None:
    assert did_you_mean(name, iter(["Edits", "jobs", "edit"]), "; ") == asked


def test_all_names_with_the_nearest_one_in_front() -> None:
    assert known_names("edti", ["edit", "edits"]) == "did you mean 'edit'? there are: edit, edits"
    assert known_names("xyzzy", ["edit", "edits"]) == "there are: edit, edits"
    assert known_names("xyzzy", []) == "there are: none"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (
            r"^[A-Za-z][A-Za-z0-9._-]{0,63}$",
            "must be letters, digits and . _ -, beginning with a letter, at most 64 characters",
        ),
        (
            r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$",
            "must be letters, digits and . _ @ -, beginning with a letter or a digit, at most 64 "
            "characters",
        ),
        (r"^v(0|[1-9]\d{0,17})$", "does not have the form that is meant here"),
    ],
)
def test_a_pattern_is_said_in_words(pattern: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Annotated[str, Field(pattern=pattern)]).validate_python("my suite")
    [item] = caught.value.errors()
    assert in_plain_words(item) == said
    assert one_line(caught.value) == f"it: {said}"


class Bare(BaseModel):
    name: str = Field(pattern=r"^[a-z][a-z0-9]{0,7}$")
    file: str = Field(pattern=r"^[a-z][a-z0-9]{0,7}$", description="A file of the folder.")


def test_a_field_that_says_what_it_is_says_so_first() -> None:
    data = {"name": "", "file": "/x"}
    with pytest.raises(ValidationError) as caught:
        Bare.model_validate(data)
    form = "must be letters and digits, beginning with a letter, at most 8 characters"
    assert [one.message for one in field_problems(Bare, caught.value, data)] == [
        form,
        f"must have the form that is meant here: A file of the folder; it {form}",
    ]
