"""The executor of a Ray cluster, as its caller sees it."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

from jeep_core.errors import NoCluster
from jeep_core.executors.crew import Crew, Link, Run, ending
from jeep_core.executors.ray import driver
from jeep_core.executors.ray.terms import LOCAL, ClusterTerms, variables_of_ray
from jeep_core.executors.work import function_of

log = logging.getLogger(__name__)
AGAIN_S = 2.0
"""How long a cluster that is away is left alone."""
ENDS = 3
"""How often it may go away before one more unit is done: the third time a unit may be the reason.
"""


class RayCluster(Crew):
    """So many actors in a Ray cluster, each with the model, started at first use.

    An actor that dies is replaced and its unit done again.  Where the cluster goes away the work
    waits ``wait_s`` for it, from the last sign of work on, and then fails, or goes on here; so it
    does at once if the cluster has gone away three times before one more unit was done.

    Args:
        actors: how many.
        address: host:port of the cluster, or ``local``: one is started on this machine.
        cpus: set aside by Ray for each actor.
        gpus: likewise.
        threads: of each actor's matrix products.
        memory_bytes: what an actor may have in all.
        wait_s: how long work waits for a cluster that is away.
        without: what becomes of work whose cluster stays away.

    Raises:
        NoCluster: Ray is not installed.
    """

    grace_s = 15.0

    def __init__(
        self,
        actors: int = 2,
        address: str = LOCAL,
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
        threads: int = 1,
        memory_bytes: int | None = None,
        wait_s: float = 300.0,
        without: Literal["fail", "here"] = "fail",
    ) -> None:
        if find_spec("ray") is None:
            raise NoCluster("Ray is not installed: pip install 'jeep-edit[ray]'")
        super().__init__()
        # sockets lie in it, whose paths must be short
        self._folder = tempfile.mkdtemp(prefix="jeep-ray-") if address == LOCAL else ""
        self._terms = ClusterTerms(
            address,
            actors,
            cpus,
            gpus,
            threads,
            memory_bytes,
            wait_s,
            self._folder,
            variables_of_ray(),
        )
        self.capacity = 2 * actors
        self._without = without
        self._tried = 0.0

    @property
    def workers(self) -> int:
        """How many units are done at a time."""
        return self._terms.actors

    def close(self) -> None:
        """End what was started; actors end with it."""
        super().close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _target(self) -> tuple[Callable[..., None], tuple[Any, ...]]:
        return driver.main, (self._terms,)

    def _may_start(self) -> bool:
        now = time.monotonic()
        if now - self._tried < AGAIN_S:
            return False
        self._tried = now
        return True

    def _died(self, run: Run, link: Link) -> None:
        """The cluster's end often ends the process that spoke to it: its units wait again."""
        where = "on this machine" if self._terms.address == LOCAL else f"at {self._terms.address}"
        what = f"the Ray cluster {where} cannot be reached, or has ended"
        self._is_away(run, link, f"{what} (its client: {ending(link.process)})")

    def _refused(self, run: Run, link: Link, error: BaseException) -> None:
        if not isinstance(error, NoCluster):
            raise error
        self._is_away(run, link, str(error))

    def _is_away(self, run: Run, link: Link, why: str) -> None:
        log.warning("waiting for the cluster: %s", why)
        for number in sorted(link.busy):
            run.ledger.back(number)
        if run.away is None:
            run.since = time.monotonic()
            before, run.left = run.left, len(run.ledger.left)
            run.ends = run.ends + 1 if run.left == before else 1
        run.away = why
        # what was under way begins again
        run.seen = run.ledger.progressed

    def _look(self, run: Run) -> None:
        if run.away is None:
            return
        if run.ledger.progressed > run.seen:
            run.away = None
        elif run.ends >= ENDS:
            self._give_up(run, f"it went away {ENDS} times in the same part of the work")
        elif time.monotonic() - run.since > self._terms.wait_s:
            self._give_up(run, f"it stayed away for {self._terms.wait_s:g} s")
        run.seen = run.ledger.progressed

    def _give_up(self, run: Run, how: str) -> None:
        """Let the work fail without its cluster, or go on here."""
        why, run.away = run.away, None
        if self._without == "fail":
            raise NoCluster(f"{why}; {how}")
        log.warning("%s; %s: the work goes on here", why, how)
        _go_on_here(run)


def _go_on_here(run: Run) -> None:
    """Do the units without a result in this process."""
    function, ledger = function_of(run.work.task), run.ledger
    for number in ledger.left:
        try:
            ledger.done(
                number, function(run.quiet(number), run.work.common, run.work.units[number])
            )
        except Exception as error:
            ledger.failed(number, error)
            return
