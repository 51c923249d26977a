"""The process that others are forked from."""

from __future__ import annotations

import multiprocessing
import os
import sys
from functools import cache

import pytest

from support import ROOT


@cache
def forks() -> multiprocessing.context.ForkServerContext:
    """Starts processes from one that has imported everything, with one thread each.

    The first call waits until it has: no test's patience is meant for that.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.forks.preloads"])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}.items():
            patch.setenv(name, value)
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), *map(str, filter(None, sys.path))])
        )
        first = context.Process(target=_nothing)
        first.start()
        first.join()
    assert first.exitcode == 0
    return context


def _nothing() -> None:
    """All that the first process does."""
