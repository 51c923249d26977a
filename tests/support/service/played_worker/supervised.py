"""The supervisor of ``jeep serve`` over this worker."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from service.ops.worker_process import WorkerProcess
from service.settings import Settings
from support.service.serving import make_settings

NOWHERE = "redis://127.0.0.1:1/0"


def supervisor(settings: Settings, lines: list[str], stop: threading.Event) -> WorkerProcess:
    return WorkerProcess(
        settings,
        lines.append,
        "http://127.0.0.1:1/readyz",
        stop.set,
        module="support.service.played_worker",
    )


def supervise(store: Path, modules: str) -> None:
    """Keep a worker for as long as the process lives that calls this.

    ``modules``: its PYTHONPATH, which a process of a server that has begun before may not have.
    """
    os.environ["PYTHONPATH"] = modules
    supervisor(make_settings(store, NOWHERE), [], threading.Event()).start()
    time.sleep(60)
