"""The lines between versions: whole from page to page, head's line first, never too many."""

from hypothesis import given
from hypothesis import strategies as st
from support.service.fuzzing import bounded

from service.api.console.pages.history.graph import (
    MOST_LANES,
    Lane,
    Row,
    begin,
    draw,
    read,
    written,
)

History = list[tuple[str, str | None]]


def history(parents: list[int]) -> History:
    """Versions newest first: version i + 1 is built on ``parents[i]``."""
    made: History = [(f"v{i + 1}", f"v{parent}") for i, parent in enumerate(parents)]
    return [*reversed(made), ("v0", None)]


def drawn(versions: History, head: str) -> dict[str, Row]:
    rows, below = draw(versions, begin(head))
    assert not any(below), "base ends every line"
    return dict(zip((version for version, _ in versions), rows, strict=True))


def test_a_line_without_rollbacks_is_straight() -> None:
    rows = drawn(history([0, 1, 2]), "v3")
    assert {row.column for row in rows.values()} == {0}
    assert not any(row.passing or row.joining for row in rows.values())
    assert [(row.above, row.below) for row in rows.values()] == [
        (False, True), (True, True), (True, True), (True, False),
    ]  # fmt: skip


def test_what_was_rolled_back_stands_beside_heads_line() -> None:
    rows = drawn(history([0, 1, 1]), "v3")
    assert (rows["v3"].column, rows["v2"].column, rows["v1"].column) == (0, 1, 0)
    assert (rows["v2"].passing, rows["v2"].above, rows["v2"].below) == ((0,), False, True)
    assert (rows["v1"].joining, rows["v1"].above) == ((1,), True)


def test_head_keeps_the_first_lane_below_newer_versions() -> None:
    """After a rollback nothing comes from above to head in its own lane."""
    rows = drawn(history([0, 1, 2]), "v1")
    assert [row.column for row in rows.values()] == [1, 1, 0, 0]
    assert rows["v3"].passing == rows["v2"].passing == ()
    assert (rows["v1"].joining, rows["v1"].above, rows["v1"].below) == ((1,), False, True)


def test_many_branches_take_no_more_room_than_a_few() -> None:
    rows = drawn(history([0] * 40), "v40")
    assert max(row.column for row in rows.values()) == MOST_LANES
    assert sum(row.cut for row in rows.values()) == 40 - MOST_LANES
    assert rows["v0"].joining == tuple(range(1, MOST_LANES))


def test_a_damaged_version_ends_its_line() -> None:
    """Nobody knows what it was built on."""
    rows, _ = draw([("v2", "v1"), ("v1", None), ("v0", None)], begin("v2"))
    assert [(row.column, row.above, row.below) for row in rows] == [
        (0, False, True), (0, True, False), (0, False, False),
    ]  # fmt: skip


def test_lines_go_on_from_row_to_row_and_from_page_to_page() -> None:
    parents = st.lists(st.integers(0, 60), max_size=60).map(
        lambda given: [min(parent, i) for i, parent in enumerate(given)]
    )

    @bounded(150)
    @given(parents, st.integers(0, 60), st.integers(0, 60))
    def run(parents: list[int], head: int, cut: int) -> None:
        versions = history(parents)
        whole, _ = draw(versions, begin(f"v{min(head, len(parents))}"))
        at = min(cut, len(versions))
        first, open_lanes = draw(versions[:at], begin(f"v{min(head, len(parents))}"))
        second, below = draw(versions[at:], read(written(open_lanes)))
        assert [*first, *second] == whole
        assert not any(below)
        bottom: set[int] = set()
        for row in whole:
            top = {*row.passing, *row.joining, *([row.column] if row.above else [])}
            assert top == bottom
            assert row.column not in row.passing
            bottom = {*row.passing, *([row.column] if row.below else [])}

    run()


def test_lanes_of_an_address_are_read_whatever_they_say() -> None:
    lanes = [Lane("v12"), None, Lane("v3", drawn=False)]
    assert written(lanes) == "v12,,-v3"
    assert read("v12,,-v3") == lanes
    assert read("x,v01,<b>,--v1,v1") == [None, None, None, None, Lane("v1")]
    assert len(read("v1," * 1000)) == MOST_LANES
