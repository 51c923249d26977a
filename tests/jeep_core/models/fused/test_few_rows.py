"""Products of a few rows as they are taken while an answer is decoded."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from support.library import folders, tiny
from torch import nn

from jeep_core.decoding.batch import Batch
from jeep_core.decoding.rows import Row
from jeep_core.decoding.sampling import Sampling
from jeep_core.executors.threads import with_threads
from jeep_core.models.fused import few_rows as module
from jeep_core.models.fused.few_rows import (
    ROWS_ALONE,
    FewRowsLinear,
    few_rows,
    prepared,
    run_alone,
)
from jeep_core.models.loading import load
from jeep_core.models.views import ModelView


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(48, 32), (32, 48)])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 70])
def test_it_gives_the_numbers_of_a_projection(rows: int, size: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(size[1], size[0], bias=bias).requires_grad_(False)
    x = torch.randn(rows, 1, size[1])
    expected = linear(x)
    prepared(linear)
    assert isinstance(linear, FewRowsLinear)
    assert torch.equal(linear(x), expected), "elsewhere nothing changes"
    with few_rows():
        found = linear(x)
    assert found.shape == expected.shape
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_only_few_rows_of_float32_are_taken_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a matrix with fewer outputs than inputs two, of another one four; a single short row."""
    wide: Any = nn.Linear(3, 5)
    narrow: Any = nn.Linear(5, 3)
    for linear in (wide, narrow):
        prepared(linear)
    assert [wide._takes(torch.ones(n, 3)) for n in (1, 2, 4, 5)] == [True, True, True, False]
    assert [narrow._takes(torch.ones(n, 5)) for n in (0, 1, 2, 3)] == [False, True, True, False]
    monkeypatch.setattr(module, "SHORT_ROW", 4)
    monkeypatch.setattr(module, "SHORT_ROW_SPLIT", 5)
    for threads, taken in ((1, False), (2, True)):
        with with_threads(threads):
            assert narrow._takes(torch.ones(1, 5)) is taken
            assert wide._takes(torch.ones(1, 3))
    assert not wide._takes(torch.ones(2, 3, dtype=torch.bfloat16))
    half = nn.Linear(3, 5).to(torch.bfloat16)
    prepared(half)
    assert type(half) is nn.Linear


def test_it_is_the_thread_s_own_and_ends_with_it() -> None:
    seen: list[bool] = []
    with few_rows():
        other = Thread(target=lambda: seen.append(module._thread.few))
        other.start()
        other.join()
        assert module._thread.few
    assert [*seen, module._thread.few] == [False, False]


def test_steps_of_decoding_take_products_so_and_prompts_do_not() -> None:
    base = tiny.random_model("llama")
    view = ModelView(base)
    prepared(view.model)
    seen: list[tuple[int, bool]] = []

    def look(module_: Any, args: Any, output: Any) -> None:
        seen.append((args[0].shape[1], module._thread.few))

    base.family.mlp_out_of(view.model, 0).register_forward_hook(look)
    batch = Batch(view)
    batch.add([Row(base, "The river is wide", Sampling(3))])
    while len(batch):
        batch.step()
    assert seen[0][0] > 1
    assert not seen[0][1]
    assert seen[1:] == [(1, True)] * 2


def test_a_model_that_is_loaded_takes_them_so(tmp_path: Path) -> None:
    folders.write_folder(tmp_path / "model", "llama")
    for dtype, kind in (("float32", FewRowsLinear), ("bfloat16", nn.Linear)):
        model = load(str(tmp_path / "model"), "cpu", dtype).model
        found = {type(one) for one in model.modules() if isinstance(one, nn.Linear)}
        assert found == {kind}


def test_few_rows_pass_blocks_of_small_matrices_by_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the head by all of them, as more rows do, and large matrices."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    base = tiny.random_model("llama")
    view = ModelView(base)
    seen: list[tuple[str, int]] = []

    def watch(name: str, one: nn.Module) -> None:
        def look(module_: Any, args: Any, output: Any) -> None:
            seen.append((name, torch.get_num_threads()))

        one.register_forward_hook(look)

    watch("block", base.family.mlp_out_of(view.model, 0))
    watch("head", view.model.lm_head)

    def threads(rows: int) -> set[tuple[str, int]]:
        batch = Batch(view)
        batch.add([Row(base, "The river is wide", Sampling(2)) for _ in range(rows)])
        batch.step()  # reads the prompts
        seen.clear()
        batch.step()
        assert torch.get_num_threads() == 3
        return set(seen)

    with with_threads(3):
        assert threads(ROWS_ALONE) == {("block", 1), ("head", 3)}
        assert threads(ROWS_ALONE + 1) == {("block", 3), ("head", 3)}
        monkeypatch.setattr(module, "SMALL_MATRIX", 10)
        assert threads(1) == {("block", 3), ("head", 3)}


@pytest.mark.parametrize(
    ("policy", "dtype", "alone"),
    [
        ("PASSIVE", torch.float32, True),
        ("passive", torch.bfloat16, False),
        ("ACTIVE", torch.float32, False),
        (None, torch.float32, False),
    ],
)
def test_threads_that_do_not_wait_passively_are_all_used(
    monkeypatch: pytest.MonkeyPatch, policy: str | None, dtype: torch.dtype, alone: bool
) -> None:
    if policy is None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    assert run_alone(nn.Linear(3, 5, dtype=dtype)) is alone
    assert not run_alone(nn.Linear(3, 5, dtype=dtype, device="meta"))
