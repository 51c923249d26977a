"""The script for an accelerator runs from beginning to end, here on a CPU with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.device import __main__ as device

PARTS = {
    "second moments", "edit, one fact", "edit, a batch", "generation, one row",
    "generation, a batch", "one fact over HTTP",
}  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr("sys.argv", ["bench.device", *options])
    device.main()


def test_every_part_has_a_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    options = ("--device", "cpu", "--shapes", "tiny", "--facts", "2", "--tokens", "600")
    run(monkeypatch, *options, "--out", str(out))
    figures = json.loads(out.read_text())
    assert {one["what"] for one in figures} == PARTS
    assert all(one["value"] > 0 for one in figures), figures
    said = capsys.readouterr().out
    assert all(f"| tiny | {part} |" in said for part in PARTS)


def test_parts_that_come_too_late_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "--device", "cpu", "--shapes", "tiny", "--seconds", "0")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| tiny")]
    assert len(rows) == len(PARTS)
    assert all("the time is up" in row for row in rows)


def test_a_part_that_fails_is_a_row_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = device.Clock("cpu", 60)
    clock.part("tiny", "one", _fails)
    clock.part("tiny", "two", lambda: (1.5, "s", "note"))
    assert [one.value for one in clock.figures] == [None, 1.5]
    assert "RuntimeError: no room" in device.markdown(clock.figures)


def _fails() -> tuple[float, str, str]:
    raise RuntimeError("no room\nmore")


def test_without_a_device_the_script_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cpu"):
        run(monkeypatch)
