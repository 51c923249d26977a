"""The picture of real models shows what the page's tables say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.real_models_picture import BEGINS, PAGE, PICTURE, draw, rows_of

TABLE = f"""{BEGINS} that

| facts | | ES | GS | LS | Score | more |
|---|---|---|---|---|---|---|
| | unedited | 37.5 (27–50) | 29.7 | 65.6 | 39.7 | |
| 64 | JEEP | 100 | 95.3 (91–100) | 67.2 (55–78) | 84.8 (78–90) | 98.4 |
| 16 | FT-WD | 65.6 (53–77) | 42.2 | 64.1 | 55.0 | |

## Another
| 64 | PMET | 1 | 2 | 3 | 4 |
"""


def test_rows_are_those_of_the_section() -> None:
    assert rows_of(TABLE) == {
        "jeep": {64: [(100, 100, 100), (95.3, 91, 100), (67.2, 55, 78), (84.8, 78, 90)]},
        "ft-wd": {16: [(65.6, 53, 77), (42.2, 42.2, 42.2), (64.1, 64.1, 64.1), (55, 55, 55)]},
    }


def test_a_row_without_figures_is_named() -> None:
    with pytest.raises(ValueError, match="JEEP, 64 facts"):
        rows_of(TABLE.replace("| 100 | 95.3 (91–100) |", "| – | |"))


def test_the_page_has_all_editors_and_its_picture(tmp_path: Path) -> None:
    rows = rows_of(PAGE.read_text(encoding="utf-8"))
    assert {"jeep", "memit", "alphaedit", "pmet", "ft-wd"} <= set(rows)
    assert set(rows["jeep"]) == {1, 16, 64, 256}
    draw(rows, tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 10_000
    assert PICTURE.exists()
