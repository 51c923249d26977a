"""Imported once by the process that workers and apis are forked from.

Loading a model imports a thousand modules of transformers, so that is done here, too.  No thread
may be running in the end: a fork has only the one that forked.
"""

from __future__ import annotations

import threading

import service.serve
import service.worker.process as worker
from jeep_core.models.loading import load
from support import TINY_GPTJ

MODEL = TINY_GPTJ

worker._quiet_transformers()
load(str(MODEL), "cpu")
assert service.serve is not None
assert threading.active_count() == 1
