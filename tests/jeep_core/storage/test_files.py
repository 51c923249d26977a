"""Tensor files are whole, carry their own hash, and are refused when a bit has flipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from jeep_core.errors import JeepError
from jeep_core.storage.files import load_whole, read_record, save_whole

TENSORS = {"b": torch.arange(6, dtype=torch.bfloat16).view(2, 3), "a": torch.tensor(1.5)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_whole(tmp_path / "file.safetensors", TENSORS, {"layer": 3})
    return tmp_path / "file.safetensors"


def test_saved_tensors_are_loaded_unchanged(path: Path) -> None:
    found = load_whole(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert read_record(path) == {"layer": 3}


def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(path: Path) -> None:
    whole = path.read_bytes()
    refused = 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = load_whole(path)
        except (JeepError, SafetensorError, UnicodeDecodeError):
            refused += 1
        else:
            assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert refused > 0.9 * 8 * len(whole)


def test_a_damaged_file_is_named(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(JeepError, match=r"file\.safetensors is damaged: it does not have the hash"):
        load_whole(path)


def test_files_of_earlier_releases_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "old", {"record": "{}"})
    assert torch.equal(load_whole(tmp_path / "old")["a"], torch.ones(2))
