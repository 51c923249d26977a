"""A folder that cannot be looked at is not empty, and a file of it not absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jeep_core.storage.looking import files_below, is_folder, is_plain_file, listed, present


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.json", "a.json", ".c.json", "d.txt", "one/a.json", "two/x/a.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_what_is_there_is_listed_by_name(folder: Path) -> None:
    assert [path.name for path in listed(folder, "*.json")] == [".c.json", "a.json", "b.json"]
    assert listed(folder, "a.json", within="*") == [folder / "one" / "a.json"]
    (folder / "two" / "lost+found").mkdir()
    (folder / "two" / "lost+found" / "a.json").touch()
    assert [entry.path for entry in files_below(folder / "two")] == [
        str(folder / "two" / "x" / "a.json")
    ]
    assert len(list(files_below(folder))) == 6
    assert (present(folder / "one"), is_folder(folder / "one")) == (True, True)
    assert (is_plain_file(folder / "one"), is_plain_file(folder / "d.txt")) == (False, True)


def test_what_is_not_there_is_nothing(folder: Path) -> None:
    for path in (folder / "none", folder / "d.txt" / "none"):
        assert (listed(path), list(files_below(path))) == ([], [])
        assert [ask(path) for ask in (present, is_folder, is_plain_file)] == [False] * 3
    assert listed(folder / "d.txt") == []
    (folder / "loop").symlink_to(folder / "loop")
    assert [ask(folder / "loop") for ask in (present, is_folder, is_plain_file)] == [False] * 3


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ESTALE])
def test_what_cannot_be_looked_at_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def failing(path: Path, **_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "iterdir", failing)
    monkeypatch.setattr(os, "scandir", failing)
    for look in (listed, files_below):
        with pytest.raises(OSError, match=os.strerror(number)):
            list(look(folder))
    monkeypatch.setattr(Path, "stat", failing)
    for ask in (present, is_folder, is_plain_file):
        with pytest.raises(OSError, match=os.strerror(number)):
            ask(folder / "a.json")
