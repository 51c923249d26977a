"""The inputs of a kind of job that writes versions, and the ways in which it may change head."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, Self, TypeVar

from service.contracts.jobs import Job
from service.store import Move, NameTaken, Store, StoreError
from service.worker.failures import Refused
from service.worker.lanes.control import JobControl
from service.worker.versions.views import VersionViews

log = logging.getLogger(__name__)


class WritesVersion(Protocol):
    """The fields that results of all kinds that write versions have; they are pydantic models.

    ``version`` is the one that was written, ``snapshot_name`` the name it was given.
    """

    version: str
    snapshot_name: str | None
    warnings: list[str]

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self:
        """As pydantic's."""
        ...


Result = TypeVar("Result", bound=WritesVersion)
Edits = TypeVar("Edits")


@dataclass(frozen=True)
class WriteTask(Generic[Edits]):
    """The inputs of a runner of the write lane.

    ``edits`` computes versions: the lane passes it on as it was given, kinds say what they need.
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

    def started_on(self, version: str | None) -> WriteTask[Edits]:
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
