"""Numbers of things in messages."""

from __future__ import annotations

import pytest

from jeep_core.text.counting import counted


@pytest.mark.parametrize(
    ("n", "nouns", "said"),
    [
        (0, ("fact",), "0 facts"),
        (1, ("fact",), "1 fact"),
        (2, ("fact",), "2 facts"),
        (1, ("batch", "batches"), "1 batch"),
        (3, ("batch", "batches"), "3 batches"),
    ],
)
def test_a_number_has_its_noun(n: int, nouns: tuple[str, ...], said: str) -> None:
    assert counted(n, *nouns) == said
