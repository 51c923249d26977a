"""The systemd units: systemd accepts them, and they are as restricted as the containers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import EXIT_CONFIG

UNITS = sorted((Path(__file__).resolve().parents[2] / "deploy/systemd").iterdir())


def setting(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.M)


def sections(unit: Path) -> list[str]:
    return re.findall(r"^\[(\w+)\]$", unit.read_text(), re.M)


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in UNITS:  # the installed command is not there
        text = unit.read_text().replace("/opt/jeep/bin/jeep", sys.executable)
        (tmp_path / unit.name).write_text(text)
        assert sections(unit)[0] == "Unit"
    if analyze := shutil.which("systemd-analyze"):
        command = [analyze, "verify", "--man=no", *map(str, tmp_path.iterdir())]
        check = subprocess.run(command, capture_output=True, text=True)
        assert (check.returncode, check.stderr) == (0, "")


@pytest.mark.parametrize("unit", [u for u in UNITS if u.suffix == ".service"], ids=lambda u: u.name)
def test_every_unit_is_sandboxed(unit: Path) -> None:
    assert setting(unit, "User") == ["jeep"]
    assert setting(unit, "CapabilityBoundingSet") == [""]
    assert setting(unit, "ProtectSystem") == ["strict"]
    for name in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictNamespaces"):
        assert setting(unit, name) == ["yes"], name


def test_an_error_that_needs_a_person_is_not_retried() -> None:
    [unit] = [u for u in UNITS if u.name == "jeep.service"]
    [codes] = setting(unit, "RestartPreventExitStatus")
    assert str(EXIT_CONFIG) in codes.split()
