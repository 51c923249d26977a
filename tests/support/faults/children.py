"""The worker and the api as children of a process that has torch and the rest imported already.

A start takes a fraction of a second instead of many, so a run can afford a hundred of them.  They
run the code of ``jeep worker`` and ``jeep api``, each in its own process and session, and also
halt at named places when requested.
"""

from __future__ import annotations

import datetime
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

HALTS = "FAULTS_HALTS"
"""The folder by which this process is told where to halt."""
CLOCK = "clock"
"""The file in that folder which says by how many seconds the process's clock is off."""
LOOK_S = 0.05
"""How often the threads of a worker look whether it is to stop; half a second in earnest."""
PERIOD_S = 1.0
"""How often the api looks whether the queue lacks jobs; 30 s in earnest."""


def run(part: str, environment: Mapping[str, str], log: Path) -> None:
    """Become the ``api``, the ``worker`` or a follower; does not return."""
    from service.ops.parent_death import death_signal

    death_signal(signal.SIGKILL)()
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    os.environ.clear()
    os.environ.update(environment)
    _shift_clock(Path(environment[HALTS]) / CLOCK)
    sys.exit(_api() if part == "api" else _worker())


def _shift_clock(offset: Path) -> None:
    """Shift the clock of this process from now on by the offset that a file gives."""
    import service.contracts.jobs

    time_s, time_ns, moment = time.time, time.time_ns, datetime.datetime

    def seconds() -> float:
        return float(offset.read_text()) if offset.exists() else 0.0

    class Shifted(moment):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return moment.now(tz) + datetime.timedelta(seconds=seconds())

    time.time = lambda: time_s() + seconds()
    time.time_ns = lambda: time_ns() + int(seconds() * 1e9)
    service.contracts.jobs.datetime = Shifted  # type: ignore[attr-defined]


def _worker() -> int:
    from jeep_core.reports import style
    from service.settings import load_settings
    from service.worker.decoding import decode_loop
    from service.worker.lanes import lane, request_lane
    from service.worker.process import main
    from service.worker.versions import retention
    from support import pictures
    from support.faults import halts

    style.save = pictures.save_unrendered
    lane.WAIT_MS = request_lane.WAIT_MS = int(LOOK_S * 1000)
    retention.LOOK_S = decode_loop.WAIT_S = LOOK_S
    halts.in_worker(Path(os.environ[HALTS]))
    settings = load_settings()
    if settings.store_url is not None:
        halts.in_fetching(Path(os.environ[HALTS]))
    return main(settings)


def _api() -> int:
    from service.api import reconcile
    from service.cli.commands.running import say_plainly
    from service.ops.logs import configure
    from service.serve import ServeError, serve_api
    from service.settings import load_settings
    from support.faults import halts

    halts.in_api(Path(os.environ[HALTS]))
    reconcile.PERIOD_S = PERIOD_S
    settings = load_settings()
    configure(settings, "api")
    try:
        return serve_api(settings, say_plainly)
    except ServeError as error:
        print(f"jeep: {error}", flush=True)
        return error.code
