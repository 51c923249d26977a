"""The facts that a version is meant to say, and what a view of a model answers to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from jeep_core.editors import BrokenEditor, hparams_class
from jeep_core.errors import JeepError
from jeep_core.evaluation.outcomes import ANSWER_TOKENS
from jeep_core.evaluation.units import Told, replies
from jeep_core.models.giving_way import giving_way
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Contexts, contexts_of, validate_hparams
from service.contracts.schemas import FactEntry, Manifest
from service.store.history import facts_of
from service.worker.versions.views import fact_of


@dataclass(frozen=True)
class Edited:
    """A live fact of a version: where it was edited, and in which contexts."""

    version: str
    index: int
    fact: Fact
    contexts: Contexts

    @property
    def place(self) -> tuple[str, int]:
        """Version and index, which name it in a line."""
        return self.version, self.index


def live_facts(line: Sequence[Manifest], n_layers: int) -> list[Edited]:
    """The facts that a version is meant to say, oldest batch first."""
    entries: dict[str, list[FactEntry]] = defaultdict(list)
    for entry in facts_of(line):
        entries[entry.version].append(entry)
    return [
        Edited(manifest.id, entry.index, fact_of(record), contexts_in(manifest, n_layers))
        for manifest in line
        for entry, record in zip(entries[manifest.id], manifest.facts, strict=True)
        if entry.state == "live"
    ]


def told_by(
    view: ModelView, facts: Sequence[Edited], monitor: Monitor, tokens: int = ANSWER_TOKENS
) -> list[Told]:
    """A view's answers to facts, each asked in the ways in which it was edited.

    Answers have so many ``tokens``, and one more than the new answer at least, by which it is known
    whether a fact holds.

    Raises:
        NumericalError: a probability is not finite.
        Whatever ``monitor.check`` raises.
    """
    found: dict[int, Told] = {}
    with giving_way(view, monitor):
        for contexts, places in _by_contexts(facts):
            monitor.report("ask", len(found), len(facts))
            told = replies(view, [facts[i].fact for i in places], contexts, monitor, tokens)
            found.update(zip(places, told, strict=True))
    monitor.report("ask", len(facts), len(facts))
    return [found[i] for i in range(len(facts))]


def _by_contexts(facts: Sequence[Edited]) -> list[tuple[Contexts, list[int]]]:
    """The places of the facts that are asked in the same way."""
    groups: dict[Contexts, list[int]] = {}
    for i, one in enumerate(facts):
        groups.setdefault(one.contexts, []).append(i)
    return list(groups.items())


def contexts_in(manifest: Manifest, n_layers: int) -> Contexts:
    """How the facts of a batch were asked; plainly, if its editor is not installed any more."""
    try:
        cls = hparams_class(str(manifest.editor))
        return contexts_of(validate_hparams(cls, manifest.hparams, n_layers))
    except (BrokenEditor, JeepError):
        return "plain"
