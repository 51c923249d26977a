"""The reflog's lines: only new ones are read, and what others did to the file is noticed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from support.service.builders import add_version

from jeep_core.storage.records import sealed
from service.store import Store
from service.store.index import moves as module
from service.store.index.moves import Moves


def line(number: int, why: str = "edit") -> bytes:
    return sealed(b'{"to":"v%d","why":"%s","job_id":"job_%d"}' % (number, why.encode(), number))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A reflog of five lines that was written a while ago."""
    path = tmp_path / "reflog.jsonl"
    path.write_bytes(b"".join(line(n) + b"\n" for n in range(5)))
    settle(path)
    return path


def settle(path: Path) -> None:
    past = time.time_ns() - 10**9
    os.utime(path, ns=(past, past))


def test_a_line_is_found_by_its_job(path: Path) -> None:
    moves = Moves(path)
    assert [moves.of_job(f"job_{n}") for n in range(5)] == [line(n) for n in range(5)]
    assert moves.of_job("job_7") is None
    moves.append(line(7, 'said \\"job_id\\":\\"job_9\\"'))
    assert moves.of_job("job_7") == line(7, 'said \\"job_id\\":\\"job_9\\"')
    assert moves.of_job("job_9") is None
    assert Moves(path).of_job("job_9") is None


def test_what_was_read_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves, looked = Moves(path), list[int]()
    unsealed = module.unsealed
    monkeypatch.setattr(module, "unsealed", lambda data: looked.append(1) or unsealed(data))
    assert moves.of_job("job_9") is None
    assert len(looked) == 5
    for number in range(5, 8):
        moves.append(line(number))
        assert moves.of_job(f"job_{number}") == line(number)
    assert len(looked) == 8


@pytest.mark.parametrize("settled", [False, True])
def test_what_another_process_did_is_noticed(path: Path, settled: bool) -> None:
    moves = Moves(path)
    assert moves.of_job("job_8") is None
    with path.open("ab") as file:
        file.write(line(8) + b"\n")
    if settled:
        settle(path)
    assert moves.of_job("job_8") == line(8)
    moves.append(line(9))
    assert moves.of_job("job_9") == line(9)
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    with pytest.raises(ValueError, match="hash"):
        moves.of_job("job_9")
    path.write_bytes(whole)
    assert moves.of_job("job_9") == line(9)


def test_the_end_is_read_where_a_line_is_longer_than_what_is_read_at_once(path: Path) -> None:
    moves, long = Moves(path), line(8, "x" * 3 * module.AT_ONCE)
    assert moves.last() == line(4)
    moves.append(long)
    assert moves.last() == long
    moves.append(line(9))
    assert moves.last() == line(9)
    with path.open("ab") as file:
        file.write(long[:-9])
    assert moves.last() == line(9)
    moves.cut_to_lines()
    assert path.read_bytes().endswith(line(9) + b"\n")


@pytest.mark.parametrize("content", [None, b"", b"half a li"])
def test_a_reflog_without_a_line_has_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "reflog.jsonl"
    if content is not None:
        path.write_bytes(content)
    moves = Moves(path)
    assert (moves.last(), moves.of_job("job_1")) == (b"", None)
    moves.cut_to_lines()
    assert moves.text() == b""
    moves.append(line(1))
    assert (moves.last(), moves.of_job("job_1")) == (line(1), line(1))


def test_a_commit_reads_the_end_of_the_reflog(
    based: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is."""
    monkeypatch.setattr(module, "AT_ONCE", 512)
    for number in range(9):
        head = based.head.read().version
        version = add_version(based, head)
        based.head.move(
            version, expected=head, job_id=f"job_{number}", fence=1, who="worker", why="edit"
        )
    settle(based.root / "reflog.jsonl")
    assert based.head.move_of("job_none") is None
    read = list[int]()
    monkeypatch.setattr(Moves, "text", lambda self: read.append(1))
    based.head.move("v1", expected="v9", job_id="job_9", fence=1, who="worker", why="edit")
    found = based.head.move_of("job_4")
    assert found is not None
    assert (found.to, read) == ("v5", [])
