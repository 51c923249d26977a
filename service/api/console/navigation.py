"""The pages of the console in the order of its navigation: one line each."""

from __future__ import annotations

from dataclasses import dataclass

from service.api.http.sessions import CONSOLE
from service.contracts.schemas.access import Caller, Scope


@dataclass(frozen=True)
class Entry:
    """A page: its title, its path below the console's, and the scope that its route needs."""

    title: str
    name: str
    scope: Scope

    @property
    def path(self) -> str:
        """The path of the page."""
        return f"{CONSOLE}/{self.name}"


NAVIGATION = (
    Entry("Ask", "ask", Scope.GENERATE),
    Entry("Edit", "edit", Scope.EDIT),
    Entry("History", "history", Scope.READ),
    Entry("Facts", "facts", Scope.READ),
    Entry("Evaluations", "evaluations", Scope.READ),
    Entry("Probes", "probes", Scope.READ),
    Entry("State", "state", Scope.READ),
)
START = Entry("Start", "start", Scope.READ)
"""Where a store without edits begins; in the navigation only for that long."""


def offered(caller: Caller | None) -> tuple[Entry, ...]:
    """The pages that a caller may open."""
    if caller is None:
        return ()
    return tuple(entry for entry in NAVIGATION if caller.may(entry.scope))
