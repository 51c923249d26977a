"""The executor that is used where none is chosen: this process does one unit after the other."""

from __future__ import annotations

from typing import Any

from jeep_core.executors.work import Bench, Keep, Work, function_of, keep_nothing


class Here:
    """Does all units in the calling thread."""

    workers = 1

    def run(self, work: Work, bench: Bench, keep: Keep = keep_nothing) -> list[Any]:
        """The results of all units, in their order; None for each if they are ``streamed``.

        Raises:
            Whatever a unit raises, which also calls ``monitor.check``.
        """
        function, monitor, results, before = function_of(work.task), bench.monitor, [], 0

        def report(phase: str, done: int, total: int) -> None:
            monitor.report(work.phase, before + done, work.total)

        # said at once: until something is done it would seem to be the phase before
        monitor.report(work.phase, 0, work.total)
        inner = bench.monitored(monitor.reporting(report))
        for number, (unit, size) in enumerate(zip(work.units, work.sizes, strict=True)):
            result = function(inner, work.common, unit)
            keep(number, result)
            results.append(None if work.streamed else result)
            del result  # before the next one is made
            before += size
            monitor.report(work.phase, before, work.total)
        return results

    def close(self) -> None:
        """Nothing was started."""


HERE = Here()
