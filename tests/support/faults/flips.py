"""One bit of a stored file flips, and what is said about it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.client import ApiError
from support.faults.harness import Service

thorough = pytest.mark.thorough
SEED = 5


def flip(path: Path, place: int) -> None:
    """Flip one bit of this byte; doing it twice restores the file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << random.Random(SEED).randrange(8)
    path.write_bytes(data)


@contextmanager
def flipped(path: Path, place: float = 0.08) -> Iterator[None]:
    """Flip one bit at this fraction of the file for the block; it is restored afterwards."""
    whole = path.read_bytes()
    flip(path, int(place * (len(whole) - 1)))
    try:
        yield
    finally:
        path.write_bytes(whole)


def head_of(service: Service) -> str:
    return service.store.head.read().version


def manifest(service: Service, version: str) -> Path:
    return service.root / "versions" / version / "manifest.json"


def refused(call: Callable[[], object], path: Path | str) -> None:
    with pytest.raises(ApiError) as error:
        call()
    problem = error.value.problem
    assert problem.code in ("corrupt_version", "corrupt_file", "corrupt_tensor"), problem
    assert str(path) in problem.detail
