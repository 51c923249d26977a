"""What outlives an edit is made with all threads, however few the edit has that asks first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from jeep_core.executors.threads import all_threads, every_thread, with_threads
from jeep_core.models.loading import LoadedModel
from jeep_core.moments import kept_moment, summed_keys
from jeep_core.moments.cache import Moments
from jeep_core.moments.factors import MomentFactor
from jeep_core.updates.kept import KeyRows
from jeep_core.updates.operations import block_of

D_FF = 48


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def factor() -> MomentFactor:
    rows = torch.randn(2 * D_FF, D_FF, generator=torch.Generator().manual_seed(0))
    return MomentFactor(rows.T @ rows / len(rows), "x")


def of_kept_keys(made: MomentFactor) -> None:
    count = block_of(D_FF)
    keys = torch.randn(count, D_FF, generator=torch.Generator().manual_seed(1))
    assert made.after(KeyRows(keys), 1.0)[1] == count


MAKERS = {
    "factor": (kept_moment, "cholesky", lambda made: made.lower),
    "null space": (torch.linalg, "eigh", lambda made: made.null_basis(0.5)),
    "sum with kept keys": (summed_keys.SummedKeys, "extend", of_kept_keys),
}


@pytest.mark.parametrize(("owner", "name", "make"), MAKERS.values(), ids=MAKERS)
def test_an_edit_with_fewer_threads_makes_the_same(
    owner: Any,
    name: str,
    make: Callable[[MomentFactor], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last bits depend on the number of threads, and the next edit has another number."""
    made, seen = getattr(owner, name), []

    def watched(*args: Any, **more: Any) -> Any:
        seen.append(torch.get_num_threads())
        return made(*args, **more)

    monkeypatch.setattr(owner, name, watched)
    make(factor())
    with with_threads(1):
        make(factor())
        assert torch.get_num_threads() == 1
    assert seen == [3, 3]


def test_those_that_were_there_before_the_outermost_block_are_all() -> None:
    with with_threads(2):
        with with_threads(1):
            assert (torch.get_num_threads(), every_thread()) == (1, 3)
            with all_threads():
                assert (torch.get_num_threads(), every_thread()) == (3, 3)
            assert torch.get_num_threads() == 1
        assert (torch.get_num_threads(), every_thread()) == (2, 3)
    assert (torch.get_num_threads(), every_thread()) == (3, 3)


def test_the_number_is_as_before_after_an_error() -> None:
    with pytest.raises(KeyError), with_threads(1), all_threads():
        raise KeyError
    assert (torch.get_num_threads(), every_thread()) == (3, 3)


def test_another_thread_has_a_number_of_its_own() -> None:
    found: list[int] = []

    def look() -> None:
        torch.get_num_threads()
        torch.set_num_threads(2)
        with all_threads():
            found.append(torch.get_num_threads())

    with with_threads(1):
        other = Thread(target=look)
        other.start()
        other.join()
    assert found == [2]


def test_a_factor_in_a_file_serves_processes_with_as_many_threads(
    gptj: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of an executor often have one each, and may come first."""
    monkeypatch.setattr(kept_moment, "KEPT_ON_DISK_FROM", 1)
    texts = ["The city of Lyon lies in the country of France."] * 20

    def ensured() -> Moments:
        moments = Moments(gptj, texts, folder=tmp_path)
        moments.ensure([1])
        return moments

    made: list[int] = []
    cholesky = kept_moment.cholesky
    regular = partial(torch.eye, gptj.mlp_size, dtype=torch.float64)

    def counted(matrix: torch.Tensor, name: str) -> torch.Tensor:
        made.append(torch.get_num_threads())
        return cholesky(matrix + regular(), name)

    monkeypatch.setattr(kept_moment, "cholesky", counted)
    for count in (1, 3, 1, 3):
        torch.set_num_threads(count)
        _ = ensured().factor(1).lower
    with with_threads(1):
        _ = ensured().factor(1).lower
    assert made == [1, 3]
    assert len(list(tmp_path.glob("factor-*"))) == 2


def test_factors_that_others_made_long_ago_give_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_moment, "KEPT_ON_DISK_FROM", 1)
    files = {
        name: tmp_path / f"{name}.safetensors"
        for name in ("factor-a", "factor-a-2", "factor-a-4", "factor-b-2", "moment-a")
    }
    for path in files.values():
        path.touch()
        os.utime(path, (0, 0))
    files["factor-a-4"].touch()
    rows = torch.randn(2 * D_FF, D_FF, generator=torch.Generator().manual_seed(0))
    kept_moment.KeptMoment(rows.T @ rows, "x", tmp_path / "factor-a-3.safetensors").lower_in(
        torch.float64
    )
    left = {path.stem for path in tmp_path.iterdir()}
    assert left == {"factor-a-3", "factor-a-4", "factor-b-2", "moment-a"}
