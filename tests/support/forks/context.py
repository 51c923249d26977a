"""The process that others are forked from."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import sys

import pytest

from support import ROOT


def forks() -> multiprocessing.context.ForkServerContext:
    """Starts processes from one that has imported everything, with one thread each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.forks.preloads"])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}.items():
            patch.setenv(name, value)
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), *map(str, filter(None, sys.path))])
        )
        multiprocessing.forkserver.ensure_running()
    return context
