"""The client without an event loop is what its tool makes of the other one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import sync_client


def test_the_written_modules_are_those_of_the_tree(tmp_path: Path) -> None:
    made = sync_client.written(tmp_path)
    kept = {path.name for path in sync_client.TARGET.glob("*.py")} - {sync_client.BY_HAND}
    assert {path.name for path in made} == kept
    for path in made:
        current = (sync_client.TARGET / path.name).read_text("utf-8")
        assert path.read_text("utf-8") == current, "run python -m tools.sync_client"


def test_nothing_of_an_event_loop_is_left() -> None:
    for path in sync_client.TARGET.glob("*.py"):
        code = path.read_text("utf-8").replace(sync_client.NOTE, "")
        assert "await " not in code, path.name
        assert "async def" not in code, path.name


def test_a_module_whose_source_has_gone_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_client, "TARGET", tmp_path / "synchronous")
    (tmp_path / "synchronous").mkdir()
    for name in ("gone.py", sync_client.BY_HAND):
        (tmp_path / "synchronous" / name).touch()
    sync_client.main()
    left = {path.name for path in (tmp_path / "synchronous").iterdir()}
    assert "gone.py" not in left
    assert {sync_client.BY_HAND, "transport.py"} <= left
