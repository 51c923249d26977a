"""Tables for narrow and wide terminals."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from service.cli import tables
from service.cli.common import Output
from service.cli.listing import Listing
from service.contracts.schemas.effects.earlier import EarlierFact, EarlierFacts

JOB = "job_01M8HQ5V8PDF0JP5BJGC2EH30V"
CELLS = (JOB, "evaluation", "running", "optimise", "2026-11-28 12:00:00", "numerical_error")
COLUMNS = ("id", "kind", "status", "phase", "created", "error")


def shown(width: int, *rows: tuple[str, ...], columns: tuple[str, ...] = COLUMNS) -> list[str]:
    table = Listing(*columns)
    for row in rows:
        table.add_row(*row)
    text = StringIO()
    Console(file=text, width=width).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_a_row_that_fits_is_one_line() -> None:
    lines = shown(110, CELLS)
    assert [line.split() for line in lines] == [[*COLUMNS], " ".join(CELLS).split()]


@pytest.mark.parametrize("width", range(30, 120, 5))
def test_no_word_is_broken_and_none_is_lost(width: int) -> None:
    lines = shown(width, CELLS, CELLS)
    words = " ".join(lines).split()
    for cell in CELLS:
        for word in cell.split():
            assert words.count(word) == 2, lines
    assert max(map(len, lines)) <= width


def test_an_id_that_does_not_fit_stands_above_its_row() -> None:
    head, above, row = shown(80, CELLS)
    assert head.split() == [*COLUMNS[1:]]
    assert above == JOB
    assert row.split() == " ".join(CELLS[1:]).split()


def test_another_column_that_does_not_fit_stands_below_with_its_name() -> None:
    columns = ("version", "state", "names")
    lines = shown(24, ("v2", "available", "before-the-change"), ("v1", "available", ""),
                  columns=columns)  # fmt: skip
    assert lines == [
        "version  state",
        "v2       available",
        "  names",
        "  before-the-change",
        "v1       available",
    ]


def test_a_word_wider_than_the_terminal_is_folded() -> None:
    assert "".join(shown(10, ("a" * 25,), columns=("id",))[1:]) == "a" * 25


def test_a_table_without_rows_is_its_header() -> None:
    assert [line.split() for line in shown(80)] == [[*COLUMNS]]


def test_lost_facts_of_earlier_batches_are_shown_under_an_edit() -> None:
    lost = EarlierFact(
        version="v1", index=1, prompt="Oslo is in", target_new=" Chile", answer=" Norway."
    )
    found = EarlierFacts(
        live=9, checked=3, seed=0, held={"v1": [0]}, missing={"v1": [1], "v2": [0]}, lost=[lost],
        repaired=2, repaired_before=1,
    )  # fmt: skip
    assert tables._earlier(None) == []
    assert tables._earlier(found) == [
        "earlier facts: 1 of 3 checked hold (9 live), 2 edited again "
        "(1 of them not said before this batch, either)",
        "  not said before this batch, either: 1",
        "  lost, of v1: Oslo is in Chile, now 'Norway.'",
    ]


def test_a_heading_in_a_file_is_no_longer_than_on_a_screen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    file = StringIO()
    Output(file=file).rule("Rolling back")
    [line] = file.getvalue().splitlines()
    assert "Rolling back" in line
    assert len(line) == 80
