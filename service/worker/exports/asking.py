"""The edited facts, asked again of what was written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jeep_core.editors import BrokenEditor, hparams_class
from jeep_core.errors import JeepError
from jeep_core.evaluation.outcomes import Answer, said
from jeep_core.models.giving_way import giving_way
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import Contexts, contexts_of, validate_hparams
from service.contracts.schemas import Manifest
from service.contracts.schemas.exports import LOST_SHOWN, Check, LostFact, Proof
from service.store.history import facts_of
from service.worker.exports.writing import Evidence
from service.worker.metrics import EXPORTED_FACTS
from service.worker.versions.views import fact_of


@dataclass(frozen=True)
class Edited:
    """A live fact of a version: where it was edited, and in which contexts."""

    version: str
    index: int
    fact: Fact
    contexts: Contexts


@dataclass(frozen=True)
class Asked:
    """A fact with the answers of the version and of what was written."""

    edited: Edited
    in_version: Answer
    in_written: Answer
    holds_in_version: bool
    holds: bool

    def line(self) -> dict[str, object]:
        """One line of the report."""
        return {
            "version": self.edited.version,
            "index": self.edited.index,
            "prompt": self.edited.fact.text,
            "target_new": self.edited.fact.target_new,
            "in_version": self.in_version.text,
            "in_written": self.in_written.text,
            "p_in_version": self.in_version.p_new,
            "p_in_written": self.in_written.p_new,
            "holds_in_version": self.holds_in_version,
            "holds": self.holds,
        }


def live_facts(line: Sequence[Manifest], n_layers: int) -> list[Edited]:
    """The facts that a version is meant to say, oldest batch first."""
    superseded = {
        (entry.version, entry.subject, entry.prompt)
        for entry in facts_of(line)
        if entry.state == "superseded"
    }
    return [
        Edited(manifest.id, index, fact_of(record), _contexts(manifest, n_layers))
        for manifest in line
        for index, record in enumerate(manifest.facts)
        if (manifest.id, record.subject, record.prompt) not in superseded
    ]


def ask(
    version: ModelView, written: ModelView, facts: Sequence[Edited], monitor: Monitor
) -> list[Asked]:
    """Ask both in the ways in which each fact was edited.

    Raises:
        NumericalError: a probability is not finite.
        Whatever ``monitor.check`` raises.
    """
    found: list[Asked] = []
    with giving_way(version, monitor), giving_way(written, monitor):
        for contexts, group in _by_contexts(facts):
            plain = [one.fact for one in group]
            monitor.report("ask", len(found), len(facts))
            there = said(version, plain, contexts, monitor)
            here = said(written, plain, contexts, monitor)
            for i, one in enumerate(group):
                both = [
                    answers.answers[i].writes_new
                    and (not answers.chat or answers.chat[i].writes_new)
                    for answers in (there, here)
                ]
                found.append(Asked(one, there.answers[i], here.answers[i], *both))
    monitor.report("ask", len(facts), len(facts))
    return found


def proof_of(evidence: Evidence, n_facts: int, asked: Sequence[Asked] | None) -> Proof:
    """The proof sheet."""
    fine = all(check.ok for check in evidence.checks)
    if asked is None:
        why = evidence.not_asked
        return Proof(facts=n_facts, checks=list(evidence.checks), not_asked=why, ok=fine)
    lost = [one for one in asked if one.holds_in_version and not one.holds]
    return Proof(
        facts=n_facts,
        hold_in_version=sum(one.holds_in_version for one in asked),
        hold=sum(one.holds for one in asked),
        n_lost=len(lost),
        lost=[
            LostFact(
                version=one.edited.version,
                index=one.edited.index,
                prompt=one.edited.fact.text,
                target_new=one.edited.fact.target_new,
                answer=one.in_written.text,
            )
            for one in lost[:LOST_SHOWN]
        ],
        checks=list(evidence.checks),
        ok=fine and not lost,
    )


def count_asked(format: str, asked: Sequence[Asked]) -> None:
    """Count the facts that the version says, by whether they were kept."""
    for one in asked:
        if one.holds_in_version:
            EXPORTED_FACTS.labels(format, "held" if one.holds else "lost").inc()


def check(name: str, said: str, value: float, limit: float | None = None) -> Check:
    """A figure, and whether it is within its limit."""
    ok = limit is None or value <= limit
    return Check(name=name, said=said, value=value, limit=limit, ok=ok)


def _by_contexts(facts: Sequence[Edited]) -> Iterator[tuple[Contexts, list[Edited]]]:
    """The facts in groups that are asked in the same way."""
    groups: dict[Contexts, list[Edited]] = {}
    for one in facts:
        groups.setdefault(one.contexts, []).append(one)
    yield from groups.items()


def _contexts(manifest: Manifest, n_layers: int) -> Contexts:
    """How the facts of a batch were asked; plainly, if its editor is not installed any more."""
    try:
        cls = hparams_class(str(manifest.editor))
        return contexts_of(validate_hparams(cls, manifest.hparams, n_layers))
    except (BrokenEditor, JeepError):
        return "plain"
