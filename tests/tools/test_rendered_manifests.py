"""``make kubernetes``: the rendered files are those of the sources that are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools import rendered_manifests
from tools.rendered_manifests import KUBERNETES, RENDERED, first_line, overlays


@pytest.mark.parametrize("overlay", overlays())
def test_rendered_after_the_last_change_of_a_source(overlay: str) -> None:
    rendered = (RENDERED / f"{overlay}.yaml").read_text("utf-8")
    assert rendered.startswith(first_line()), "make kubernetes"


def test_no_other_files() -> None:
    assert sorted(path.stem for path in RENDERED.iterdir()) == overlays()


def test_every_source_counts(tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path / "copy")
    folder = tmp_path / "copy"
    assert first_line(folder) == first_line()
    (folder / "base/api.yaml").write_text((folder / "base/api.yaml").read_text() + "\n")
    changed = first_line(folder)
    assert changed != first_line()
    (folder / "components/gpu/more.yaml").touch()
    assert first_line(folder) not in (changed, first_line())


def test_without_a_program_that_renders(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendered_manifests.shutil, "which", lambda _: None)
    assert rendered_manifests.main() == 1
    assert "install kubectl or kustomize" in capsys.readouterr().err


def test_renders_what_the_program_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "kustomize"
    program.write_text('#!/bin/sh\necho "rendered: $1 $(basename "$2")"\n')
    program.chmod(0o755)
    found = {"kustomize": str(program)}
    monkeypatch.setattr(rendered_manifests.shutil, "which", found.get)
    monkeypatch.setattr(rendered_manifests, "RENDERED", tmp_path / "rendered")
    assert rendered_manifests.main() == 0
    written = (tmp_path / "rendered/cpu.yaml").read_text()
    assert written == first_line() + "rendered: build cpu\n"
