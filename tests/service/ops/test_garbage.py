"""Garbage collection while modules are imported."""

from __future__ import annotations

import gc

import pytest

from service.ops.garbage import postponed


def test_nothing_is_collected_in_the_block_alone(frozen: list[bool]) -> None:
    with postponed():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert not frozen


def test_garbage_is_collected_again_after_an_error(frozen: list[bool]) -> None:
    with pytest.raises(ZeroDivisionError), postponed(kept=True):
        raise ZeroDivisionError
    assert gc.isenabled()
    assert frozen == [False]  # before the first collection, which would look at everything


def test_an_inner_block_does_not_end_an_outer_one(frozen: list[bool]) -> None:
    with postponed():
        with postponed(kept=True):
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
