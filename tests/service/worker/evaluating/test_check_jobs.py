"""Check jobs on a small random model: they judge as edits do, go on after a kill, and are shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.service.edit_runner import FACT, MODEL, ReadBench

import jeep_core
from jeep_core.errors import Cancelled, NumericalError
from jeep_core.evaluation import units as asking
from jeep_core.evaluation.units import Told, asked_apart
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.spec.facts import Fact
from service.contracts.jobs import Job, JobKind, JobStatus, new_id, now
from service.contracts.schemas import FactIn, Manifest
from service.contracts.schemas.effects.checks import (
    ANSWERS_FILE,
    MISSING_FILE,
    CheckPayload,
    CheckResult,
)
from service.store.index import listing
from service.store.index.database import NoIndex
from service.worker.editing.asking import live_facts, told_by
from service.worker.kinds import checks

SUBJECTS = ("Paris", "Oslo", "Rome", "Bern", "Kiev")
FACTS = [{"subject": one, "prompt": "{} lies in", "target_new": "Chile"} for one in SUBJECTS]


class Bench(ReadBench):
    """Every edit moves head; a way to run checks."""

    def edit(self, *facts: dict[str, Any], **more: Any) -> Manifest:
        parent = self.store.head.read().version
        manifest = super().edit(*facts, **more)
        self.store.head.move(
            manifest.id, expected=parent, job_id=None, fence=1, who="test", why="edit"
        )
        return manifest

    def job(self, **payload: Any) -> Job:
        job_id = new_id("job")
        given = {"check_id": "check_" + job_id[4:], "version": "v1", "facts": "all", "seed": 0}
        filled = CheckPayload.model_validate(given | payload)
        job = Job(id=job_id, kind=JobKind.CHECK, payload=filled.model_dump(), created_at=now())
        self.store.journal.add(job)
        return job

    def run(self, job: Job) -> CheckResult:
        """One attempt."""
        return checks.run(self.task(job))

    def ended(self, **payload: Any) -> CheckResult:
        """A check that has ended, as the lane ends it."""
        job = self.job(**payload)
        result = self.run(job)
        self.store.reports.seal(job.id)
        done = {"status": JobStatus.SUCCEEDED, "result": result.model_dump(mode="json")}
        self.store.journal.save(job.model_copy(update=done))
        return result

    def report(self, result: CheckResult, name: str) -> list[dict[str, Any]]:
        job_id = result.check_id.replace("check_", "job_")
        lines = self.store.reports.path(job_id, name).read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return jeep_core.load(str(MODEL), device="cpu")


@pytest.fixture
def bench(base: LoadedModel, tmp_path: Path) -> Bench:
    return Bench(base, tmp_path)


def played(monkeypatch: pytest.MonkeyPatch, *says: str) -> list[list[str]]:
    """Have versions say the facts about some subjects; the subjects that were asked, by call."""
    asked: list[list[str]] = []

    def replies(
        view: Any, facts: list[Fact], contexts: str, monitor: Any = None, tokens: int = 10
    ) -> list[Told]:
        asked.append([fact.subject for fact in facts])
        return [Told(f"{fact.subject}!"[:tokens], fact.subject in says) for fact in facts]

    monkeypatch.setattr(asking, "replies", replies)
    return asked


def test_facts_are_judged_as_those_that_an_edit_asks(bench: Bench) -> None:
    bench.edit(*FACTS)
    second = bench.edit(FACT, check_earlier="all")
    assert second.result is not None
    earlier = second.result.earlier
    assert earlier is not None
    found = bench.ended(version="v2")
    facts = live_facts(bench.store.versions.lineage("v2"), bench.base.n_layers)
    told = told_by(bench.views.get("v2"), facts, Monitor())
    held = [one.place for one, said in zip(facts, told, strict=True) if said.holds]
    assert (found.live, found.asked, found.held, found.unasked) == (6, 6, len(held), 0)
    assert found.missing == 6 - len(held)
    texts = {one.place: said.text for one, said in zip(facts, told, strict=True)}
    assert {(one.version, one.index): one.answer for one in found.missing_facts} == {
        place: text for place, text in texts.items() if place not in held
    }
    [first, *_] = bench.report(found, ANSWERS_FILE)
    assert first["missing"] == earlier.missing.get("v1", [])
    assert first["held"] == earlier.held.get("v1", [])
    assert "6 live facts of v2" in found.protocol.asked


def test_lists_show_what_the_check_has_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.edit(*FACTS)
    bench.edit(FACT)
    played(monkeypatch, "Paris", "Oslo", "Lyon")
    found = bench.ended(version="v2")
    missing = list(listing.facts(bench.store, "v2", holds=False))
    assert [one.subject for one in missing] == ["Rome", "Bern", "Kiev"]
    assert {(one.checked_in, one.check_id) for one in missing} == {("v2", found.check_id)}
    held = list(listing.facts(bench.store, "v2", holds=True))
    assert [one.subject for one in held] == ["Lyon", "Paris", "Oslo"]
    assert {one.check_id for one in listing.facts(bench.store, "v1")} == {None}


def test_missing_facts_are_written_as_they_are_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fact = {**FACT, "target_true": "France", "neighborhood_prompts": ["Nice lies in"]}
    bench.edit(fact, *FACTS)
    played(monkeypatch, *SUBJECTS)
    found = bench.ended()
    [sent] = bench.report(found, MISSING_FILE)
    assert FactIn.model_validate(sent).neighborhood_prompts == ["Nice lies in"]
    again = bench.edit(sent)
    assert again.facts[0].target_true is not None
    assert again.facts[0].target_true.strip() == "France"
    assert listing.live_count(bench.store, again.id) == 6, "the same question"


def test_some_facts_are_drawn_by_the_seed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.edit(*FACTS)
    played(monkeypatch)
    drawn = {}
    for seed in range(8):
        found = bench.ended(facts=2, seed=seed)
        assert (found.live, found.asked, found.missing, found.seed) == (5, 2, 2, seed)
        drawn[seed] = [one.index for one in found.missing_facts]
    assert len({tuple(some) for some in drawn.values()}) > 1
    again = bench.ended(facts=2, seed=3)
    assert [one.index for one in again.missing_facts] == drawn[3]
    assert bench.ended(facts=9).asked == 5


@pytest.mark.parametrize(
    ("asked", "subjects"),
    [
        ({"subject": " Lyon "}, ["Lyon"]),
        ({"edit_id": "edit_1"}, ["Oslo", "Rome", "Bern", "Kiev"]),
        ({"edit_id": "edit_2"}, ["Lyon", "Paris"]),
        ({"edit_id": "edit_1", "subject": "Lyon"}, []),
        ({"edit_id": "edit_1", "facts": 1}, ["Rome"]),
    ],
)
def test_live_facts_of_a_subject_or_a_batch_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], subjects: list[str]
) -> None:
    bench.edit(*FACTS)
    bench.edit(FACT, {**FACTS[0], "target_new": "Peru"})
    played(monkeypatch)
    found = bench.ended(version="v2", **asked)
    shown = [one.prompt.removesuffix(" lies in") for one in found.missing_facts]
    if "facts" in asked:
        assert (found.live, len(shown)) == (4, 1)
        assert shown[0] in ("Oslo", "Rome", "Bern", "Kiev")
    else:
        assert shown == subjects


@pytest.mark.parametrize("asked", [{"subject": "Lyon"}, {"edit_id": "edit_2"}])
def test_an_index_that_is_found_damaged_on_the_way_hinders_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    def broken(*_: object) -> None:
        raise NoIndex("a row is damaged")

    bench.edit(*FACTS)
    bench.edit(FACT)
    played(monkeypatch)
    monkeypatch.setattr("service.store.index.facts._later", broken)
    found = bench.ended(version="v2", **asked)
    assert [one.prompt for one in found.missing_facts] == ["Lyon lies in"]


def test_a_version_without_facts_holds_all_of_none(bench: Bench) -> None:
    found = bench.ended(version="v0")
    assert (found.live, found.asked, found.held, found.missing) == (0, 0, 0, 0)
    assert bench.report(found, MISSING_FILE) == []


def test_a_result_writes_out_the_first_ones(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LISTED", 2)
    bench.edit(*FACTS)
    played(monkeypatch)
    found = bench.ended()
    assert (found.missing, len(found.missing_facts)) == (5, 2)
    assert len(bench.report(found, MISSING_FILE)) == 5


class TestAFactThatCannotBeAsked:
    def refusing(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        def replies(view: Any, facts: list[Fact], *more: Any) -> list[Told]:
            if any(fact.subject == "Rome" for fact in facts):
                raise error
            return [Told("", fact.subject == "Oslo") for fact in facts]

        monkeypatch.setattr(asking, "replies", replies)

    def test_is_counted_and_takes_no_other_with_it(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench.edit(*FACTS)
        before = {one.index: one.holds for one in listing.facts(bench.store, "v1")}
        self.refusing(monkeypatch, NumericalError("not finite"))
        found = bench.ended()
        assert (found.asked, found.held, found.missing, found.unasked) == (5, 1, 3, 1)
        [one] = found.unasked_facts
        assert (one.index, one.code, one.why) == (2, "numerical_error", "not finite")
        shown = {one.index: one for one in listing.facts(bench.store, "v1")}
        assert (shown[2].holds, shown[2].check_id) == (before[2], None), "nobody knows more of it"

    def test_a_cancel_is_none(self, base: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refusing(monkeypatch, Cancelled())
        facts = [Fact(one, "{} lies in", "Chile") for one in ("Oslo", "Rome")]
        with pytest.raises(Cancelled):
            asked_apart(ModelView(base), [("plain", fact) for fact in facts])


class TestAJobThatGoesOn:
    def killed(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Job:
        """A check whose worker died after two units of two facts each."""
        monkeypatch.setattr(asking, "FACTS_TOGETHER", 2)
        bench.edit(*FACTS)
        played(monkeypatch, "Paris", "Bern")
        first = asking.replies

        def replies(view: Any, facts: list[Fact], *more: Any) -> list[Told]:
            if facts[0].subject == "Kiev":
                raise KeyboardInterrupt
            return first(view, facts, *more)

        monkeypatch.setattr(asking, "replies", replies)
        job = bench.job()
        with pytest.raises(KeyboardInterrupt):
            bench.run(job)
        return job

    def test_asks_only_what_it_has_not_asked(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = self.killed(bench, monkeypatch)
        asked = played(monkeypatch, "Kiev")
        found = bench.run(job)
        assert asked == [["Kiev"]]
        assert (found.held, [one.index for one in found.missing_facts]) == (3, [1, 2])
        assert {(one.done, one.total) for one in bench.told} >= {(5, 5)}

    def test_asks_all_again_where_facts_are_asked_otherwise_now(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = self.killed(bench, monkeypatch)
        chosen = checks._chosen

        def otherwise(*given: Any) -> Any:
            found = chosen(*given)
            return replace(found, facts=[replace(one, contexts="chat") for one in found.facts])

        monkeypatch.setattr(checks, "_chosen", otherwise)
        asked = played(monkeypatch, "Oslo")
        found = bench.run(job)
        assert [subject for some in asked for subject in some if some][:2] == ["Paris", "Oslo"]
        assert (found.held, found.missing) == (1, 4)
