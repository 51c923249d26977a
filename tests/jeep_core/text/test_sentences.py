"""Where a first sentence ends."""

from __future__ import annotations

import pytest

from jeep_core.text.sentences import first_sentence, has_sentence


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (" Japan. It is", "Japan."),
        ("\n\nParis\nand more", "Paris"),
        ("Really? Yes.", "Really?"),
        ('He said "no." Then', 'He said "no."'),
        ("东京。是日本", "东京。"),
        ("J. K. Rowling wrote it. Then", "J. K. Rowling wrote it."),
        ("Dr. No. He", "Dr. No."),
        ("Mambo No. 5 is. It", "Mambo No. 5 is."),
        ("Washington, D.C. The capital", "Washington, D.C. The capital"),
        ("1. Paris. It", "1. Paris."),
        ("in 1999. It", "in 1999."),
        ("about 3.5 km. So", "about 3.5 km."),
        ("approx. two. So", "approx. two."),
        ("Yahoo! is a company. It", "Yahoo! is a company."),
        ("Well... Paris", "Well..."),
    ],
)
def test_the_first_sentence_ends_where_a_reader_ends_it(text: str, first: str) -> None:
    assert first_sentence(text) == first
    assert has_sentence(text) == (first != text)


@pytest.mark.parametrize("text", ["", "  ", "Paris", "Paris.", "Paris. ", "St. ", "3."])
def test_a_sentence_that_may_go_on_has_not_ended(text: str) -> None:
    assert not has_sentence(text)
    assert first_sentence(text) == text.strip()


def test_a_line_break_ends_it_but_not_before_it_has_begun() -> None:
    assert not has_sentence("\n \n")
    assert has_sentence("\nParis\n")
