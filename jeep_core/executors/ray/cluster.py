"""The executor of a Ray cluster, as its caller sees it."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Literal

from jeep_core.errors import NoCluster
from jeep_core.executors.crew import Crew, Run
from jeep_core.executors.link import Link, ending
from jeep_core.executors.ray import driver
from jeep_core.executors.ray.beside import where
from jeep_core.executors.ray.terms import LOCAL, ClusterTerms, variables_of_ray
from jeep_core.executors.threads import with_threads
from jeep_core.executors.version import Source
from jeep_core.executors.work import Bench, Keep, Work, function_of, keep_nothing
from jeep_core.models.loading import LoadedModel

log = logging.getLogger(__name__)
AGAIN_S = 2.0
"""How long a cluster that is away is left alone."""
BRIEFLY_S = 1.0
"""How long it is looked for by work after work that went on without it: no longer than it takes to
hear that it is ready again."""
ENDS = 3
"""How often it may go away before one more unit is done: the third time a unit may be the reason.
"""


class RayCluster(Crew):
    """So many actors in a Ray cluster, each with the model, started at first use.

    An actor that dies is replaced and its unit done again.  Work waits for ``wait_s`` while no
    actor is ready, for whatever reason, and then fails, or goes on here; so it does at once if the
    cluster has gone away three times before one more unit was done.  After work that went on here
    the next one asks only whether the cluster is ready again; it is joined meanwhile.

    Args:
        actors: how many.
        address: host:port of the cluster, or ``local``: one is started on this machine.
        cpus: set aside by Ray for each actor.
        gpus: likewise.
        threads: of each actor's matrix products.
        memory_bytes: what an actor may have in all.
        wait_s: how long work waits while no actor is ready.
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
        self._folder = ""
        self._terms = ClusterTerms(
            address,
            actors,
            cpus,
            gpus,
            threads,
            memory_bytes,
            "",
            variables_of_ray(),
        )
        self.capacity = 2 * actors
        self._wait_s, self._without = wait_s, without
        self._tried = 0.0
        # whether work went on without it and it was not ready since; and why no worker is
        self._given_up, self._lacking = False, ""

    @property
    def workers(self) -> int:
        """How many units are done at a time."""
        return self._terms.actors

    def run(self, work: Work, bench: Bench, keep: Keep = keep_nothing) -> list[Any]:
        """As of any crew; its actors where the caller computes make way for others with it."""
        self._terms = replace(self._terms, where=where(bench.view.base.devices))
        return super().run(work, bench, keep)

    def close(self) -> None:
        """End what was started; actors end with it."""
        super().close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    def _source_of(self, base: LoadedModel) -> Source:
        """An actor sees its own GPUs alone, of which the first has the number 0."""
        source = super()._source_of(base)
        return source if len(base.devices) > 1 else replace(source, device=base.device.type)

    def _target(self) -> tuple[Callable[..., None], tuple[Any, ...]]:
        if self._terms.address == LOCAL and not self._folder:
            # sockets lie in it, whose paths must be short
            self._folder = tempfile.mkdtemp(prefix="jeep-ray-")
        self._lacking = ""
        return driver.main, (replace(self._terms, folder=self._folder),)

    def _may_start(self) -> bool:
        now = time.monotonic()
        if now - self._tried < AGAIN_S:
            return False
        self._tried = now
        return True

    def _told(self, run: Run, link: Link, kind: str, *rest: Any) -> None:
        if kind == "waits":
            link.ready, self._lacking = False, str(rest[0])
        elif kind == "warns":
            log.warning("%s", rest[0])
        else:
            super()._told(run, link, kind, *rest)

    def _died(self, run: Run, link: Link) -> None:
        """The cluster's end often ends the process that spoke to it: its units wait again."""
        what = f"{self._named} cannot be reached, or has ended"
        self._is_away(run, link, f"{what} (its client: {ending(link.process)})")

    def _refused(self, run: Run, link: Link, error: BaseException) -> None:
        if not isinstance(error, NoCluster):
            raise error
        self._is_away(run, link, str(error))

    @property
    def _named(self) -> str:
        where = "on this machine" if self._terms.address == LOCAL else f"at {self._terms.address}"
        return f"the Ray cluster {where}"

    def _is_away(self, run: Run, link: Link, why: str) -> None:
        if not self._given_up:
            log.warning("waiting for the cluster: %s", why)
        for number in sorted(link.busy):
            run.ledger.back(number)
        if link.ready:
            before, run.left = run.left, len(run.ledger.left)
            run.ends = run.ends + 1 if run.left == before else 1
        run.why, self._lacking = why, ""

    def _look(self, run: Run) -> None:
        now = time.monotonic()
        if any(link.ready and not link.leaving for link in self._links):
            if self._given_up:
                log.warning("%s is ready again", self._named)
            run.since, self._given_up = None, False
            return
        if run.since is None:
            run.since = now
        wait_s = min(BRIEFLY_S, self._wait_s) if self._given_up else self._wait_s
        if run.ends >= ENDS:
            self._give_up(run, f"it went away {ENDS} times in the same part of the work")
        elif now - run.since > wait_s:
            self._give_up(run, f"no worker was ready for {wait_s:g} s")

    def _give_up(self, run: Run, how: str) -> None:
        """Let the work fail without its cluster, or go on here."""
        again, self._given_up = self._given_up, self._without == "here"
        # one that looks for the cluster after that is left to it for as long as it may take
        if not again or time.monotonic() - self._tried > self._wait_s:
            for link in self._links:
                link.leave()
        why = f"{self._lacking or run.why or f'{self._named} does not answer'}; {how}"
        if self._without == "fail":
            raise NoCluster(why)
        log.log(logging.INFO if again else logging.WARNING, "%s: the work goes on here", why)
        with with_threads(self._terms.threads):  # as its workers, so that results have their bits
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
