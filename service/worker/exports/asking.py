"""The edited facts, asked again of what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jeep_core.evaluation.units import Told
from service.contracts.schemas.exports import LOST_SHOWN, Check, LostFact, Proof
from service.worker.editing.asking import Edited, told_by
from service.worker.exports.writing import Evidence, Version
from service.worker.metrics import EXPORTED_FACTS


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
        advice=evidence.advice if lost else None,
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
