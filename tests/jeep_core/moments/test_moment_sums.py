"""Packing, accurate sums, shards, and passes that are killed and resumed."""

from __future__ import annotations

import errno
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.library import tiny

from jeep_core.errors import JeepError
from jeep_core.executors.work import Bench, Work
from jeep_core.models.loading import LoadedModel
from jeep_core.moments import cache as moments_module
from jeep_core.moments import sums as moment_sums
from jeep_core.moments import unfinished
from jeep_core.moments.cache import Moments, keep
from jeep_core.moments.sums import (
    BlockSum,
    MomentSums,
    TotalSum,
    merge,
    pack,
    padding_share,
)
from jeep_core.monitor import Monitor
from jeep_core.storage import files

LAYERS = [0, 2, 3]
CPU = torch.device("cpu")


class Killed(BaseException):
    """The process ends here."""


def kill_at(batch: int) -> Monitor:
    """Ends the process before the given batch (from 1)."""
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == batch:
            raise Killed

    return Monitor(check=check)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many batches, a block every few of them, saved whenever one ends."""
    monkeypatch.setattr(moments_module, "BATCH_TOKENS", 60)
    monkeypatch.setattr(moment_sums, "BLOCK_TOKENS", 100)
    monkeypatch.setattr(unfinished, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(unfinished, "SAVING_SHARE", 1e9)


class Elsewhere:
    """An executor that must not be asked."""

    workers = 2

    def run(self, work: Work, bench: Bench, keep: Any = None) -> list[Any]:
        raise AssertionError(work.task)

    def close(self) -> None:
        """It has nothing to close."""


def test_blocks_of_a_model_that_is_in_part_on_a_gpu_are_not_sent(gptj: LoadedModel) -> None:
    """Embedding and head are on the CPU, as in ``ends@cpu,0-3@cuda:0``."""
    base = replace(gptj)
    base.__dict__["devices"] = [torch.device("cpu"), torch.device("cuda", 0)]
    with pytest.raises(AssertionError, match="block_unit"):
        Moments(gptj, tiny.TEXTS, 100).sums([1], executor=Elsewhere())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this machine may have none
        assert Moments(base, tiny.TEXTS, 100).sums([1], executor=Elsewhere()).count >= 100


# ---------------------------------------------------------------- packing


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 200))
def test_packing_keeps_every_document_within_the_limit(lengths: list[int], tokens: int) -> None:
    documents = [[i] * length for i, length in enumerate(lengths)]
    batches = pack(documents, tokens)
    assert sorted(row for rows in batches for row in rows) == sorted(documents)
    for rows in batches:
        assert [len(row) for row in rows] == sorted(len(row) for row in rows)
        assert len(rows) == 1 or len(rows) * len(rows[-1]) <= tokens


def test_packing_pads_little() -> None:
    documents = [[0] * (1 + i % 50) for i in range(5000)]
    assert padding_share(pack(documents, 4096)) < 0.02
    assert padding_share([documents]) > 0.4
    assert padding_share([]) == 0


# ---------------------------------------------------------------- sums


def panels(*parts: torch.Tensor) -> list[torch.Tensor]:
    """The sum over a block of keys, which are added in parts."""
    block = BlockSum(parts[0].shape[1], CPU)
    for part in parts:
        block.add(part)
    return block.panels()


@pytest.mark.parametrize("size", [64, 67, 128])
def test_sums_in_blocks_stay_accurate(size: int) -> None:
    """Keys with a large common part, whose float32 sum loses digits where it goes on for long."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.rand(100, 1024, size, generator=generator) + 3
    exact = keys.view(-1, size).double().T @ keys.view(-1, size).double()
    errors = []
    for per_block in (moment_sums.BLOCK_TOKENS // 1024, 100):
        total = TotalSum(size, CPU)
        for start in range(0, len(keys), per_block):
            total.add(panels(*keys[start : start + per_block]))
        found = total.total()
        assert torch.equal(found, found.T)
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[0] <= 5e-8
    assert errors[0] < errors[1] / 5


def test_keys_of_16_bit_models_are_summed_in_float32() -> None:
    keys = torch.rand(4096, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    total = TotalSum(64, CPU)
    total.add(panels(keys))
    exact = keys.double().T @ keys.double()
    assert (total.total() - exact).norm() <= 1e-6 * exact.norm()


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 13])
def test_every_pair_of_dimensions_is_summed(size: int) -> None:
    """Sizes that do not divide into panels."""
    keys = torch.randn(50, size, generator=torch.Generator().manual_seed(0))
    total = TotalSum(size, CPU)
    total.add(panels(keys))
    assert torch.allclose(total.total(), keys.double().T @ keys.double(), atol=1e-4)


# ---------------------------------------------------------------- shards


def test_shards_add_up_to_one_pass(base: LoadedModel, small_blocks: None, tmp_path: Path) -> None:
    whole = Moments(base, tiny.TEXTS).sums(LAYERS)
    shards = []
    for shard in (2, 0, 1):
        path = tmp_path / f"{shard}.safetensors"
        Moments(base, tiny.TEXTS).sums(LAYERS, shard, 3).save(path)
        shards.append(MomentSums.load(path))
    merged = merge(shards)
    assert merged.complete
    assert merged.count == whole.count
    for layer in LAYERS:
        assert torch.allclose(merged.sums[layer], whole.sums[layer], rtol=1e-6, atol=1e-4)
    assert torch.equal(merge(shards[::-1]).sums[0], merged.sums[0])


def test_merged_shards_are_found_as_the_moments(gptj: LoadedModel, tmp_path: Path) -> None:
    texts = tiny.TEXTS * 30
    keep(merge([Moments(gptj, texts).sums([1, 2], shard, 2) for shard in (0, 1)]), tmp_path)
    found = Moments(gptj, texts, folder=tmp_path)
    found.ensure([1, 2], monitor=kill_at(1))
    computed = Moments(gptj, texts)
    computed.ensure([1, 2])
    for layer in (1, 2):
        assert torch.allclose(found.factor(layer).moment, computed.factor(layer).moment, rtol=1e-5)


def test_shards_that_do_not_fit_are_refused(gptj: LoadedModel, small_blocks: None) -> None:
    one, two = (Moments(gptj, tiny.TEXTS).sums([1], shard, 3) for shard in (0, 1))
    with pytest.raises(JeepError, match="shard 1/3 is in twice"):
        merge([one, two, one])
    with pytest.raises(JeepError, match="lack shards 3/3"):
        merge([one, two]).moments()
    with pytest.raises(JeepError, match="different passes"):
        merge([one, Moments(gptj, tiny.TEXTS[:-1]).sums([1], 1, 3)])
    with pytest.raises(JeepError, match="different passes"):
        merge([one, Moments(gptj, tiny.TEXTS).sums([2], 1, 3)])
    with pytest.raises(JeepError, match="different passes"):
        merge([one, Moments(gptj, tiny.TEXTS).sums([1], 1, 4)])
    with pytest.raises(JeepError, match="these sums are of another model"):
        Moments(gptj, tiny.TEXTS[:-1]).adopt(merge([one, two]))
    with pytest.raises(JeepError, match="no shard 1000/1000: this text makes"):
        Moments(gptj, tiny.TEXTS).sums([1], 999, 1000)


def test_a_file_with_other_contents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sums").write_bytes(b"no tensors")
    with pytest.raises(JeepError, match="holds no sums"):
        MomentSums.load(tmp_path / "sums")


# ---------------------------------------------------------------- killed and resumed


@pytest.mark.parametrize("batch", [2, 5, 9])
def test_a_killed_pass_goes_on_to_the_same_bits(
    base: LoadedModel, small_blocks: None, tmp_path: Path, batch: int
) -> None:
    whole = Moments(base, tiny.TEXTS)
    whole.ensure(LAYERS)
    n_batches = len(whole.batches())
    with pytest.raises(Killed):
        Moments(base, tiny.TEXTS, folder=tmp_path).ensure(LAYERS, monitor=kill_at(batch))
    told: list[int] = []
    again = Moments(base, tiny.TEXTS, folder=tmp_path)
    again.ensure(LAYERS, Monitor(lambda phase, done, total: told.append(done)))
    if batch > 2:
        assert len(told) < n_batches
    for layer in LAYERS:
        assert torch.equal(again.factor(layer).moment, whole.factor(layer).moment)
    assert len(list(tmp_path.iterdir())) == len(LAYERS)


def test_a_shard_is_resumed_as_well(gptj: LoadedModel, small_blocks: None, tmp_path: Path) -> None:
    moments = Moments(gptj, tiny.TEXTS, folder=tmp_path)
    with pytest.raises(Killed):
        moments.sums([1], 1, 2, monitor=kill_at(7))
    assert len(list(tmp_path.iterdir())) == 1
    other = moments.sums([1], 0, 2)
    assert torch.equal(other.sums[1], Moments(gptj, tiny.TEXTS).sums([1], 0, 2).sums[1])
    told: list[int] = []
    again = moments.sums([1], 1, 2, monitor=Monitor(lambda phase, done, total: told.append(done)))
    assert torch.equal(again.sums[1], Moments(gptj, tiny.TEXTS).sums([1], 1, 2).sums[1])
    assert len(told) < len(moments.batches()[1::2])
    assert list(tmp_path.iterdir()) == []


def test_a_pass_whose_sums_so_far_are_damaged_begins_again(
    gptj: LoadedModel, small_blocks: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, moments = (Moments(gptj, tiny.TEXTS, folder=where) for where in (None, tmp_path))
    whole.ensure([1])
    with pytest.raises(Killed):
        moments.ensure([1], monitor=kill_at(9))
    [left] = tmp_path.iterdir()
    with left.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"gone")
    moments.ensure([1])
    assert torch.equal(moments.factor(1).moment, whole.factor(1).moment)
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{left} holds no sums of second moments")
    assert said.endswith("the pass begins again")
    assert left not in tmp_path.iterdir()


def test_sums_that_cannot_be_read_now_stay(
    gptj: LoadedModel, small_blocks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = Moments(gptj, tiny.TEXTS, folder=tmp_path)
    with pytest.raises(Killed):
        moments.ensure([1], monitor=kill_at(9))

    def denied(path: Path) -> Any:
        raise PermissionError(errno.EACCES, "denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(moment_sums, "load_whole", denied)
        with pytest.raises(PermissionError):
            moments.ensure([1])
    assert len(list(tmp_path.iterdir())) == 1


def test_sums_that_were_given_up_go_when_a_pass_ends(
    gptj: LoadedModel, small_blocks: None, tmp_path: Path
) -> None:
    for layer in (0, 2):
        with pytest.raises(Killed):
            Moments(gptj, tiny.TEXTS, folder=tmp_path).ensure([layer], monitor=kill_at(9))
    old, new = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    os.utime(old, (0, 0))
    moments = Moments(gptj, tiny.TEXTS, folder=tmp_path)
    moments.ensure([1])
    assert set(tmp_path.iterdir()) == {new, moments.path(1)}


def test_a_pass_over_other_text_starts_again(
    gptj: LoadedModel, small_blocks: None, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        Moments(gptj, tiny.TEXTS, folder=tmp_path).ensure([1], monitor=kill_at(5))
    other = Moments(gptj, tiny.TEXTS[1:], folder=tmp_path)
    other.ensure([1])
    fresh = Moments(gptj, tiny.TEXTS[1:])
    fresh.ensure([1])
    assert torch.equal(other.factor(1).moment, fresh.factor(1).moment)


def test_sums_are_saved_at_intervals_only(
    gptj: LoadedModel, small_blocks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "SAVE_EVERY_S", 3600.0)
    with pytest.raises(Killed):
        Moments(gptj, tiny.TEXTS, folder=tmp_path).ensure([1], monitor=kill_at(9))
    assert list(tmp_path.iterdir()) == []


def test_a_kill_while_saving_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sums"
    sums = MomentSums({1: "key"}, {1: torch.eye(3, dtype=torch.float64)}, count=7)
    sums.save(path)

    def killed(*args: Any) -> None:
        raise Killed

    monkeypatch.setattr(files.os, "fsync", killed)
    with pytest.raises(Killed):
        MomentSums({1: "key"}, {1: torch.zeros(3, 3)}, count=8).save(path)
    found = MomentSums.load(path)
    assert (found.count, dict(found.keys), found.parts) == (7, {1: "key"}, frozenset({0}))
    assert torch.equal(found.sums[1], torch.eye(3, dtype=torch.float64))


def test_a_resumed_pass_reports_where_it_begins(
    gptj: LoadedModel, small_blocks: None, tmp_path: Path
) -> None:
    moments = Moments(gptj, tiny.TEXTS, samples=600, folder=tmp_path)
    with pytest.raises(Killed):
        moments.ensure([1], monitor=kill_at(9))
    told: list[tuple[int, int]] = []
    moments.ensure([1], Monitor(lambda phase, done, total: told.append((done, total))))
    assert told[0][0] > 0
    assert told == sorted(told)
    assert told[-1] == (600, 600)


def test_other_precision_settings_are_left_as_they_were(
    gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    during: list[str] = []
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        look = Monitor(check=lambda: during.append(torch.get_float32_matmul_precision()))
        Moments(gptj, tiny.TEXTS).sums([1], monitor=look)
        assert set(during) == {"highest"}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    sums = MomentSums({1: "key"}, {1: torch.eye(3)}, count=7)
    old, new, other = (tmp_path / f".{n}.partial" for n in ("sums.12", "sums.13", "others.12"))
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    sums.save(tmp_path / "sums")
    assert sorted(tmp_path.iterdir()) == sorted([new, other, tmp_path / "sums"])
