"""The edited facts, asked again of what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jeep_core.editors import BrokenEditor, hparams_class
from jeep_core.errors import JeepError
from jeep_core.evaluation.outcomes import said
from jeep_core.models.giving_way import giving_way
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.spec.hparams import Contexts, contexts_of, validate_hparams
from service.contracts.schemas import Manifest
from service.contracts.schemas.exports import LOST_SHOWN, Check, LostFact, Proof
from service.store.history import facts_of
from service.worker.exports.writing import Edited, Evidence, Told, Version
from service.worker.metrics import EXPORTED_FACTS
from service.worker.versions.views import fact_of


@dataclass(frozen=True)
class Asked:
    """A fact with the answers of the version and of what was written."""

    edited: Edited
    in_version: Told
    in_written: Told

    @property
    def is_lost(self) -> bool:
        """Whether the version says it and what was written does not."""
        return self.in_version.holds and not self.in_written.holds

    def line(self) -> dict[str, object]:
        """One line of the report."""
        return {
            "version": self.edited.version,
            "index": self.edited.index,
            "prompt": self.edited.fact.text,
            "target_new": self.edited.fact.target_new,
            "in_version": self.in_version.text,
            "in_written": self.in_written.text,
            "holds_in_version": self.in_version.holds,
            "holds": self.in_written.holds,
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


def ask_both(version: Version, evidence: Evidence) -> list[Asked] | None:
    """The facts with both answers; None if what was written cannot be asked.

    Raises:
        NumericalError: a probability is not finite.
        Whatever the job's control raises.
    """
    facts, monitor = version.facts, version.monitor
    if evidence.view is not None:
        written = told_by(evidence.view, facts, monitor)
    elif evidence.told is not None:
        written = list(evidence.told)
    else:
        return None
    there = told_by(version.view, facts, monitor)
    return [Asked(*three) for three in zip(facts, there, written, strict=True)]


def told_by(view: ModelView, facts: Sequence[Edited], monitor: Monitor) -> list[Told]:
    """A view's answers to facts, each asked in the ways in which it was edited.

    Raises:
        NumericalError: a probability is not finite.
        Whatever ``monitor.check`` raises.
    """
    found: dict[int, Told] = {}
    with giving_way(view, monitor):
        for contexts, places in _by_contexts(facts):
            monitor.report("ask", len(found), len(facts))
            heard = said(view, [facts[i].fact for i in places], contexts, monitor)
            for n, i in enumerate(places):
                every = (heard.answers[n], *heard.chat[n : n + 1])
                found[i] = Told(heard.answers[n].text, all(one.writes_new for one in every))
    monitor.report("ask", len(facts), len(facts))
    return [found[i] for i in range(len(facts))]


def proof_of(evidence: Evidence, n_facts: int, asked: Sequence[Asked] | None) -> Proof:
    """The proof sheet."""
    fine = all(check.ok for check in evidence.checks)
    if asked is None:
        why = evidence.not_asked
        return Proof(facts=n_facts, checks=list(evidence.checks), not_asked=why, ok=fine)
    lost = [one for one in asked if one.is_lost]
    return Proof(
        facts=n_facts,
        hold_in_version=sum(one.in_version.holds for one in asked),
        hold=sum(one.in_written.holds for one in asked),
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
        if one.in_version.holds:
            EXPORTED_FACTS.labels(format, "lost" if one.is_lost else "held").inc()


def check(name: str, said: str, value: float, limit: float | None = None) -> Check:
    """A figure, and whether it is within its limit."""
    ok = limit is None or value <= limit
    return Check(name=name, said=said, value=value, limit=limit, ok=ok)


def _by_contexts(facts: Sequence[Edited]) -> list[tuple[Contexts, list[int]]]:
    """The places of the facts that are asked in the same way."""
    groups: dict[Contexts, list[int]] = {}
    for i, one in enumerate(facts):
        groups.setdefault(one.contexts, []).append(i)
    return list(groups.items())


def _contexts(manifest: Manifest, n_layers: int) -> Contexts:
    """How the facts of a batch were asked; plainly, if its editor is not installed any more."""
    try:
        cls = hparams_class(str(manifest.editor))
        return contexts_of(validate_hparams(cls, manifest.hparams, n_layers))
    except (BrokenEditor, JeepError):
        return "plain"
