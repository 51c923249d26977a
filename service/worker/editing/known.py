"""The facts that a line of versions was taught, by number, without reading the whole line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Protocol

from jeep_core.spec.facts import normalise, question_key
from service.contracts.schemas import Manifest
from service.store.index.database import NoIndex
from service.store.index.facts import FactsOf, Taught
from service.store.index.line import Line
from service.worker.editing.asking import Edited, contexts_in, live_facts
from service.worker.versions.views import fact_of

Key = tuple[str, str]


class Known(Protocol):
    """Facts by number: in the order of the line, and of the batch, from 0."""

    def counts(self) -> tuple[int, int]:
        """How many facts were taught, and how many of their questions there are."""
        ...

    def knows(self, key: Key) -> bool:
        """Whether a fact has this question."""
        ...

    def live(self, number: int) -> Edited | None:
        """The fact with a number; None if it was edited again."""
        ...

    def every(self) -> list[Edited]:
        """Every live fact, in order."""
        ...

    def of_version(self, version: str) -> list[Edited]:
        """The live facts that a version of the line taught, in order."""
        ...

    def about(self, subject: str) -> list[Edited]:
        """The live facts about a subject, in order; compared as lists of facts compare it."""
        ...


def known_facts(line: Sequence[Manifest], n_layers: int) -> Known:
    """The facts of a line, by the index where it can be used: both say the same.

    Raises:
        UnknownVersion, CorruptFile: a version that must be read cannot be.
    """
    if isinstance(line, Line):
        try:
            return _Indexed(line, n_layers)
        except NoIndex:
            pass
    return Read(list(line), n_layers)


class Read:
    """The facts of a line all of whose versions were read."""

    def __init__(self, line: Sequence[Manifest], n_layers: int) -> None:
        self._places = [(one, place) for one in line for place in range(len(one.facts))]
        keys = [question_key(f.subject, f.prompt) for one in line for f in one.facts]
        self._last = {key: number for number, key in enumerate(keys)}
        self._keys, self._line, self._n_layers = keys, line, n_layers

    def counts(self) -> tuple[int, int]:
        """How many facts were taught, and how many of their questions there are."""
        return len(self._places), len(self._last)

    def knows(self, key: Key) -> bool:
        """Whether a fact has this question."""
        return key in self._last

    def questions(self) -> list[Key]:
        """Every question, once."""
        return list(self._last)

    def live(self, number: int) -> Edited | None:
        """The fact with a number; None if it was edited again."""
        if self._last[self._keys[number]] != number:
            return None
        manifest, position = self._places[number]
        return edited(manifest, position, self._n_layers)

    def every(self) -> list[Edited]:
        """Every live fact, in order."""
        return live_facts(self._line, self._n_layers)

    def of_version(self, version: str) -> list[Edited]:
        """The live facts that a version of the line taught, in order."""
        return [one for one in self.every() if one.version == version]

    def about(self, subject: str) -> list[Edited]:
        """The live facts about a subject, in order; compared as lists of facts compare it."""
        wanted = normalise(subject)
        return [one for one in self.every() if normalise(one.fact.subject) == wanted]


class _Indexed:
    """The facts of a line whose versions are in the index, with those of the drafts on top."""

    def __init__(self, line: Line, n_layers: int) -> None:
        self._line, self._n_layers = line, n_layers
        self._stored = FactsOf(line.store.catalogue, line.version)
        self._facts, self._live = self._stored.counts()
        self._drafts = Read(line.drafts, n_layers)

    def counts(self) -> tuple[int, int]:
        """How many facts were taught, and how many of their questions there are."""
        more, questions = self._drafts.counts()
        both = sum(1 for key in self._drafts.questions() if self._stored.knows("\0".join(key)))
        return self._facts + more, self._live + questions - both

    def knows(self, key: Key) -> bool:
        """Whether a fact has this question."""
        return self._drafts.knows(key) or self._stored.knows("\0".join(key))

    def live(self, number: int) -> Edited | None:
        """The fact with a number; None if it was edited again."""
        if number >= self._facts:
            return self._drafts.live(number - self._facts)
        found = self._stored.live(number)
        if found is None:
            return None
        one = edited(self._line.read(found.version), found.position, self._n_layers)
        return None if self._drafts.knows(one.fact.key) else one

    def every(self) -> list[Edited]:
        """Every live fact, in order."""
        newest = islice(self._stored.newest(), self._live)  # the rest are edited again
        return [*self._in_order(newest), *self._drafts.every()]

    def of_version(self, version: str) -> list[Edited]:
        """The live facts that a version of the line taught, in order."""
        if any(draft.id == version for draft in self._line.drafts):
            return self._drafts.of_version(version)
        return self._in_order(self._stored.of_version(version))

    def about(self, subject: str) -> list[Edited]:
        """The live facts about a subject, in order; compared as lists of facts compare it."""
        return [*self._in_order(self._stored.about(subject)), *self._drafts.about(subject)]

    def _in_order(self, newest: Iterable[Taught]) -> list[Edited]:
        """Stored facts that no draft edits again; the newest batch came first, each in its own
        order.
        """
        by_version: dict[str, list[Edited]] = {}
        for taught in newest:
            one = edited(self._line.read(taught.version), taught.position, self._n_layers)
            if not self._drafts.knows(one.fact.key):
                by_version.setdefault(one.version, []).append(one)
        return [one for some in reversed(by_version.values()) for one in some]


def edited(manifest: Manifest, position: int, n_layers: int) -> Edited:
    """The fact at a position of a version's batch."""
    record = manifest.facts[position]
    index = manifest.result.facts[position].index if manifest.result else position
    return Edited(manifest.id, index, fact_of(record), contexts_in(manifest, n_layers))
