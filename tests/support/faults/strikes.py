"""Worker, api or queue server broken by a signal, wherever the worker currently is."""

from __future__ import annotations

import signal

from support.faults.harness import Service
from support.faults.processes import Part

SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}
VICTIMS = ("worker", "api", "server")


def strike(service: Service, victim: str, number: int) -> None:
    """Break a part wherever the worker currently is; a halted part continues."""
    part = service.part(victim)
    part.signal(number)
    for halting in (service.worker, service.api):
        if halting is not part or number == signal.SIGTERM:
            halting.halts.let_go()
    code = part.ended()
    if isinstance(part, Part):
        part.halts.let_go()
    assert code in (0, -number)
    part.start()
