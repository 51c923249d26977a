"""Imported once by the process that others are forked from.

Loading a model imports a thousand modules of transformers, so that is done here, too.  No thread
may be running in the end: a fork has only the one that forked.
"""

from __future__ import annotations

import gc
import threading

import jeep_core.commands.reproduce
import jeep_core.probe.plots
import service.cli.commands.running
import service.serve
import service.worker.process as worker
from jeep_core.editors import EDITORS, record_of
from jeep_core.models.loading import load
from support import TINY_GPTJ

worker._quiet_transformers()
load(str(TINY_GPTJ), "cpu")
assert all(map(record_of, EDITORS))
assert all(
    (
        jeep_core.commands.reproduce,
        jeep_core.probe.plots,
        service.cli.commands.running,
        service.serve,
    )
)
gc.collect()
gc.freeze()  # a worker looks for garbage as it begins, half a second if all this were looked at
assert threading.active_count() == 1
