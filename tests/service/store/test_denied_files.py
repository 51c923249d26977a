"""What is said of a file that the service's user may not read or write."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from service.store import denial, is_denied


def error_at(number: int, filename: object) -> OSError:
    return OSError(number, os.strerror(number), filename)


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("jobs/job_1.json", "jobs/job_1.json of the store"),
        ("jobs/.job_1.json.b0c51f.tmp", "jobs/job_1.json of the store"),
        ("base/.moment.safetensors.117.partial", "base/moment.safetensors of the store"),
        ("", "the folder of the store"),
    ],
)
def test_a_file_is_named_by_its_place_in_the_store(tmp_path: Path, place: str, named: str) -> None:
    store, linked = tmp_path / "store", tmp_path / "linked"
    store.mkdir()
    linked.symlink_to(store)
    for written in (store, linked):
        for told in (store, linked):
            said = denial(error_at(errno.EACCES, str(written / place)), told)
            assert said.startswith(f"{named}: Permission denied for the service's user (uid ")
            assert "chown -R" in said


def test_a_file_elsewhere_has_its_name_alone(tmp_path: Path) -> None:
    said = denial(error_at(errno.EACCES, str(tmp_path / "facts.json")), tmp_path / "store")
    assert said.startswith("facts.json: Permission denied for the service's user (uid ")
    assert "chown" not in said


def test_what_a_file_system_forbids_to_everybody_is_no_matter_of_its_owner(tmp_path: Path) -> None:
    said = denial(error_at(errno.EPERM, str(tmp_path / "jobs" / "a.json")), tmp_path)
    assert said.startswith("jobs/a.json of the store: Operation not permitted: its file system")
    assert "check-disk" in said
    assert "chown" not in said


@pytest.mark.parametrize("filename", [None, 7])
def test_an_error_that_names_no_file_is_none_of_these(filename: object) -> None:
    assert not is_denied(error_at(errno.EACCES, filename))
