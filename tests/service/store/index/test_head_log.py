"""Which version is a later one: by the log of head, not by the tree."""

from __future__ import annotations

import pytest
from support.service.builders import add_version, move

from service.store import Store


@pytest.fixture
def moved(based: Store) -> Store:
    """Head goes v0, v1, v2, back to v1; v3 is staged."""
    one = add_version(based)
    two = add_version(based, one)
    add_version(based, one)
    move(based, one, expected="v0")
    move(based, two, expected=one)
    move(based, one, expected=two)
    return based


@pytest.mark.parametrize(
    ("version", "minimum", "expected"),
    [
        ("v2", "v1", True),
        ("v1", "v2", True),  # after the rollback, the older version is the later head
        ("v1", "v1", True),
        ("v0", "v1", False),
        ("v0", "v0", True),
        ("v2", "v3", False),  # never head
        ("v3", "v1", False),
        ("v1", "v9", False),
    ],
)
def test_a_version_is_at_least_another_if_head_was_there_then_or_later(
    moved: Store, version: str, minimum: str, expected: bool
) -> None:
    assert moved.head_log.is_at_least(version, minimum) == expected


def test_moves_are_read_on(moved: Store) -> None:
    reader = Store.open(moved.root, following=True)
    assert not reader.head_log.is_at_least("v0", "v1")
    move(moved, "v0", expected="v1")
    assert reader.head_log.is_at_least("v0", "v2")


def test_head_counts_before_its_line_is_written(moved: Store) -> None:
    path = moved.root / "reflog.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert moved.head_log.is_at_least("v1", "v2")
    path.write_bytes(b"".join(lines))
    assert moved.head_log.is_at_least("v1", "v2")


def test_a_log_that_was_mended_is_read_again(moved: Store) -> None:
    log = moved.head_log
    assert log.is_at_least("v2", "v1")
    path = moved.root / "reflog.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    assert not log.is_at_least("v0", "v2")
    assert log.is_at_least("v1", "v2")
