"""The inputs of a kind of job that writes versions, and the ways in which it may change head."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from jeep_core.models.views import ModelView
from service.contracts.jobs import Job
from service.contracts.schemas import EditPayload, EditResult, Manifest, RevertResult
from service.store import Move, NameTaken, Store, StoreError
from service.worker.failures import Refused
from service.worker.lanes.control import JobControl
from service.worker.versions.views import VersionViews

log = logging.getLogger(__name__)
Result = TypeVar("Result", EditResult, RevertResult)


class Edits(Protocol):
    """Computes versions; head does not move."""

    def run(
        self, job: Job, payload: EditPayload, parent: str, control: JobControl
    ) -> tuple[Manifest, ModelView]:
        """Edit on top of ``parent`` and write the new version."""
        ...

    def reapply(
        self, job: Job, source: Manifest, line: Sequence[Manifest], head: str, control: JobControl
    ) -> Manifest:
        """Reapply the batch of ``source`` on top of ``line``; writes nothing but tensors."""
        ...


@dataclass(frozen=True)
class WriteTask:
    """The inputs of a runner of the write lane.

    ``job.base_version`` is the version that was head when this attempt began.  ``move`` is the
    move of head that an interrupted attempt has made.  ``check_limits`` refuses a job that was
    tried too often, or that has no room; ``commit(to, expected, why)`` moves head.
    """

    job: Job
    control: JobControl
    store: Store
    views: VersionViews
    edits: Edits
    move: Move | None
    check_limits: Callable[[], None]
    commit: Callable[[str, str, str], Move]

    @property
    def parent(self) -> str:
        """The version that the job starts on."""
        return str(self.job.base_version)

    def started_on(self, version: str | None) -> WriteTask:
        """The task of a job whose earlier attempt started on ``version``."""
        return replace(self, job=self.job.model_copy(update={"base_version": version}))

    def begin(self, parent: str | None, name: str | None) -> None:
        """Check that the work may begin.

        ``parent`` is the head that the request insists on, ``name`` the one it wants to give.

        Raises:
            Refused: the job was tried too often, head is another version, or the name is taken.
            StoreFull: there is no room.
        """
        self.check_limits()
        wanted = parent and self.store.names.resolve(parent)
        if wanted and wanted != self.parent:
            raise Refused(
                "precondition_failed",
                f"head is {self.parent}, not {parent}: send it again with the new parent, or "
                "without one",
            )
        names = self.store.names.all() if name else {}
        if name and name in names:
            raise Refused("name_taken", str(NameTaken(name, names[name])))

    def named(self, result: Result, name: str | None) -> Result:
        """The result of a finished job: its version has the requested name, or a warning."""
        if name is None:
            return result
        try:
            self.store.names.give(name, result.version)
        except (StoreError, OSError) as error:  # head has moved: the edit remains valid
            log.warning("%s is committed without its name: %s", result.version, error)
            warnings = [*result.warnings, f"not named {name!r}: {error}"]
            return result.model_copy(update={"snapshot_name": None, "warnings": warnings})
        return result.model_copy(update={"snapshot_name": name})
