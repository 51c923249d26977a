"""The number of threads follows what the process may use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from service.settings import Settings
from service.worker.members import common
from service.worker.threads import cpu_quota, default_threads


def written(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", None), ("150000 100000", 1.5), ("400000 100000", 4.0), ("", None)],
)
def test_a_container_has_its_limit_at_the_root(
    tmp_path: Path, limit: str, expected: float | None
) -> None:
    written(tmp_path / "cgroup", cpu__max=f"{limit}\n")
    written(tmp_path, own="0::/\n")
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "own") == expected


def test_the_smallest_limit_of_a_group_and_those_above_it_counts(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    written(root / "system.slice", cpu__max="150000 100000\n")
    written(root / "system.slice" / "jeep.service", cpu__max="800000 100000\n")
    written(tmp_path, own="0::/system.slice/jeep.service\n")
    assert cpu_quota(root, tmp_path / "own") == 1.5


def test_limits_of_version_1_count(tmp_path: Path) -> None:
    folder = tmp_path / "cgroup" / "cpu" / "docker" / "x"
    written(folder, cpu__cfs_quota_us="250000\n", cpu__cfs_period_us="100000\n")
    written(folder.parent, cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    written(tmp_path, own="4:memory:/docker/y\n3:cpu,cpuacct:/docker/x\n")
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "own") == 2.5


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path / "own") is None


@pytest.mark.parametrize("text", ["", "\n", "no group", "0::", "0::/../..", "3:cpu:/x\n0::/\n"])
def test_files_that_say_something_else_set_no_limit(tmp_path: Path, text: str) -> None:
    root = tmp_path / "cgroup"
    written(root, cpu__max="100000 0\n")
    written(root / "cpu" / "x", cpu__cfs_quota_us="100000\n", cpu__cfs_period_us="0\n")
    written(tmp_path, own=text)
    assert cpu_quota(root, tmp_path / "own") is None
    (tmp_path / "own").write_bytes(b"0::/\xff\n")
    assert cpu_quota(root, tmp_path / "own") is None
    assert cpu_quota(root, tmp_path) is None, "a folder, which cannot be read"


def test_there_are_no_more_threads_than_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    found = [default_threads(quota) for quota in (None, 0.5, 1.0, 2.9, 16.0)]
    assert found == [8, 1, 1, 2, 8]


@pytest.mark.parametrize(("setting", "expected"), [(None, 3), (5, 5)])
def test_a_worker_uses_what_is_set_or_what_it_may(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: int | None, expected: int
) -> None:
    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(common, "cpu_quota", lambda: 3.5)
    common.load_base(Settings(store=tmp_path, model="atlas-gptj", threads=setting))
    assert used == [expected]
