"""Facts of earlier batches: which an edit breaks, which it mends, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.service.edit_runner import FACT, MODEL, an_edit, control, edit_on, give_moments
from support.service.edit_runner import runner_and_views as made

import jeep_core
from jeep_core.evaluation import outcomes as measuring
from jeep_core.evaluation.units import Told
from jeep_core.models.loading import LoadedModel
from jeep_core.monitor import NOTHING
from jeep_core.spec.hparams import Contexts
from service.contracts.schemas import EditPayload, Guards, Manifest
from service.contracts.schemas.effects.earlier import EarlierFacts
from service.store import Store
from service.store.history import facts_of
from service.worker.editing import asking, earlier
from service.worker.editing.asking import Edited, live_facts
from service.worker.editing.earlier import SEED, Found, Sample, ask, sample, to_mend, with_missing
from service.worker.versions.views import fact_of

SUBJECTS = ("Paris", "Oslo", "Rome", "Bern", "Kiev")
FACTS = [{"subject": one, "prompt": "{} lies in", "target_new": "Chile"} for one in SUBJECTS]


class Place:
    """A store with edits of a tiny model, which a test answers for."""

    def __init__(self, base: LoadedModel, root: Path, **settings: Any) -> None:
        self.base, self.store = base, Store.open(root / "store")
        give_moments(base, self.store, root)
        self.runner, self.views = made(base, self.store, **settings)
        self.number = 0

    def edit(self, *facts: dict[str, Any], **more: Any) -> Manifest:
        parent, self.number = self.store.head.read().version, self.number + 1
        manifest, _ = edit_on(self.runner, an_edit(*facts, number=self.number, **more), parent)
        self.store.head.move(
            manifest.id, expected=parent, job_id=None, fence=1, who="test", why="edit"
        )
        return manifest


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return jeep_core.load(str(MODEL), device="cpu")


@pytest.fixture
def place(base: LoadedModel, tmp_path: Path) -> Place:
    return Place(base, tmp_path)


class Answers:
    """Plays what views say to earlier facts: subjects that the new version, and its parent, says.

    A second edit of a job mends what ``mended`` names.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *new: str, parent: tuple[str, ...]) -> None:
        self.new, self.parent, self.mended = set(new), set(parent), set[str]()
        self.asked: list[list[str]] = []
        monkeypatch.setattr(earlier, "told_by", self)

    def __call__(
        self, view: Any, facts: list[Edited], monitor: Any, tokens: int | None = None
    ) -> list[Told]:
        if tokens is None:  # what a version writes instead, all of it
            return [Told(f"{one.fact.subject}!", False) for one in facts]
        first = len(self.asked) % 2 == 0
        says = self.new | (self.mended if len(self.asked) >= 2 else set()) if first else self.parent
        self.asked.append([one.fact.subject for one in facts])
        return [Told("", one.fact.subject in says) for one in facts]


class TestSample:
    def line(self, place: Place) -> list[Manifest]:
        place.edit(*FACTS)
        place.edit({**FACTS[0], "target_new": "Peru"})
        return place.store.versions.lineage("v2")

    def test_live_facts_that_the_batch_leaves_alone_are_asked(self, place: Place) -> None:
        line = self.line(place)
        again = [fact_of(line[1].facts[1])]
        found = sample(line, again, place.base.n_layers, "all")
        assert found.live == 4
        assert [(one.version, one.index, one.fact.target_new) for one in found.facts] == [
            ("v1", 2, "Chile"), ("v1", 3, "Chile"), ("v1", 4, "Chile"), ("v2", 0, "Peru"),
        ]  # fmt: skip

    def test_some_are_drawn_the_same_way_each_time(self, place: Place) -> None:
        line = self.line(place)
        first, second = (sample(line, [], place.base.n_layers, 3) for _ in range(2))
        assert [one.index for one in first.facts] == [one.index for one in second.facts]
        assert (first.live, len(first.facts)) == (5, 3)
        assert sample(line, [], place.base.n_layers, 0) == Sample(0, [])
        assert len(sample(line, [], place.base.n_layers, 9).facts) == 5


def test_lost_is_what_the_parent_says_and_the_new_version_does_not(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.edit(*FACTS)
    answers = Answers(monkeypatch, "Paris", "Rome", parent=("Paris", "Oslo"))
    facts = live_facts(place.store.versions.lineage("v1"), place.base.n_layers)
    view: Any = None
    found = ask(Sample(5, facts), view, view, NOTHING)
    assert [one.fact.subject for one in found.held] == ["Paris", "Rome"]
    assert [one.fact.subject for one in found.missing] == ["Oslo", "Bern", "Kiev"]
    assert [(one.fact.subject, text) for one, text in found.lost] == [("Oslo", "Oslo!")]
    assert answers.asked[1] == ["Oslo", "Bern", "Kiev"], "only they are asked of the parent"


def test_whether_facts_hold_is_asked_without_decoding_their_whole_answers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.edit(*FACTS)
    facts = live_facts(place.store.versions.lineage("v1"), place.base.n_layers)
    lengths: list[tuple[int, Any]] = []

    def told(view: Any, some: list[Edited], monitor: Any, *tokens: int) -> list[Told]:
        lengths.append((len(some), tokens))
        return [Told("", len(lengths) == 2 and i == 1) for i in range(len(some))]

    monkeypatch.setattr(earlier, "told_by", told)
    view: Any = None
    found = ask(Sample(5, facts), view, view, NOTHING)
    # of the new version and its parent; then what is written instead of the one that is lost
    assert lengths == [(5, (1,)), (5, (1,)), (1, ())]
    assert [one for one, _ in found.lost] == [facts[1]]


def test_an_edit_reports_what_it_broke(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    first = place.edit(*FACTS)
    assert first.result is not None
    assert first.result.earlier is None, "there was nothing earlier"
    Answers(monkeypatch, "Paris", "Bern", parent=("Paris", "Oslo", "Bern"))
    second = place.edit(FACT)
    assert second.result is not None
    found = second.result.earlier
    assert found is not None
    assert (found.live, found.checked, found.seed, found.repaired) == (5, 5, SEED, 0)
    assert found.held == {"v1": [0, 3]}
    assert (found.missing, found.missing_before) == ({"v1": [1, 2, 4]}, 2)
    [lost] = found.lost
    assert (lost.version, lost.index, lost.prompt) == ("v1", 1, "Oslo lies in")
    assert (lost.target_new.strip(), lost.answer) == ("Chile", "Oslo!")


def test_answers_are_those_of_the_two_versions(place: Place) -> None:
    first = place.edit(*FACTS)
    second = place.edit(FACT, check_earlier="all")
    assert second.result is not None
    found = second.result.earlier
    assert found is not None
    facts = live_facts(place.store.versions.lineage("v1"), place.base.n_layers)
    told = asking.told_by(place.views.get("v2"), facts, NOTHING)
    held = [one.index for one, said in zip(facts, told, strict=True) if said.holds]
    assert found.held.get(first.id, []) == held
    assert sorted([*held, *found.missing.get(first.id, [])]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("given", "checked"), [(None, 2), (3, 3), ("all", 5), (0, None)])
def test_a_request_or_the_setting_says_how_many(
    given: Any, checked: int | None, base: LoadedModel, tmp_path: Path
) -> None:
    place = Place(base, tmp_path, check_earlier=2)
    place.edit(*FACTS)
    result = place.edit(FACT, check_earlier=given).result
    assert result is not None
    assert (result.earlier.checked if result.earlier else None) == checked


def test_a_check_that_an_earlier_release_has_written_is_read() -> None:
    written = {"live": 3, "checked": 3, "seed": 0, "missing": {"v1": [1, 2]}, "repaired": 2}
    lost = {"version": "v1", "index": 1, "prompt": "", "target_new": "", "answer": ""}
    found = EarlierFacts.model_validate({**written, "lost": [lost]})
    assert (found.missing_before, found.repaired_before) == (1, 0)
    assert EarlierFacts.model_validate_json(found.model_dump_json()) == found


class TestRepair:
    def test_lost_facts_are_edited_again_with_the_batch(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place.edit(*FACTS)
        answers = Answers(
            monkeypatch, "Paris", "Rome", "Kiev", parent=("Paris", "Rome", "Oslo", "Bern", "Kiev")
        )
        second = place.edit(FACT, repair=True)
        assert [fact.subject for fact in second.facts] == ["Lyon", "Oslo", "Bern"]
        assert second.facts[1].target_new.strip() == "Chile"
        result = second.result
        assert result is not None
        assert [one.index for one in result.facts] == [0, 1, 2]
        found = result.earlier
        assert found is not None
        assert (found.repaired, found.repaired_before) == (2, 0)
        assert (found.live, found.checked, found.lost) == (3, 3, [])
        assert (found.held, found.missing, found.missing_before) == ({"v1": [0, 2, 4]}, {}, 0)
        assert answers.asked[2] == ["Paris", "Rome", "Kiev"], "the others are the batch's now"
        line = place.store.versions.lineage(second.id)
        states = {(one.version, one.subject): one.state for one in facts_of(line)}
        assert states["v1", "Oslo"] == "superseded"
        assert states["v2", "Oslo"] == "live"
        assert len(place.store.versions.lineage(second.id)) == 3, "one version, not two"

    def test_facts_that_an_earlier_batch_broke_unseen_are_edited_again_too(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place.edit(*FACTS)
        Answers(monkeypatch, "Paris", "Rome", "Kiev", parent=("Paris", "Rome", "Bern", "Kiev"))
        second = place.edit(FACT, repair=True)
        # the one that this batch broke comes first
        assert [fact.subject for fact in second.facts] == ["Lyon", "Bern", "Oslo"]
        assert [(m.index, m.first_edit, m.first_index) for m in second.mended] == [
            (1, "edit_1", 3), (2, "edit_1", 1),
        ]  # fmt: skip
        assert second.result is not None
        found = second.result.earlier
        assert found is not None
        assert (found.repaired, found.repaired_before, found.missing) == (2, 1, {})

    def test_what_it_cannot_write_is_named_and_tried_again_by_the_next(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place.edit(*FACTS)
        played = measuring.outcomes

        def outcomes(facts: Any, *more: Any) -> list[Any]:
            taken = ("Lyon", "Bern", "Nice")
            return [
                replace(one, after=replace(one.after, writes_new=fact.subject in taken))
                for fact, one in zip(facts, played(facts, *more), strict=True)
            ]

        monkeypatch.setattr(measuring, "outcomes", outcomes)
        for number, more in ((2, {}), (3, {"guards": Guards(min_efficacy=0)})):
            fact = FACT if number == 2 else {**FACT, "subject": "Nice"}
            Answers(monkeypatch, "Paris", "Bern", parent=("Bern",)).mended = {"Lyon"}
            result = place.edit(fact, repair=True, check_earlier="all", **more).result
            assert result is not None
            [said] = [one for one in result.warnings if one.startswith("edited again and still")]
            assert "3 facts of earlier batches ('Oslo lies in' 'Chile', " in said
            assert result.earlier is not None
            assert (result.earlier.repaired, len(result.facts)) == (3 + (number == 3), number + 2)

    def test_guards_go_by_the_facts_that_were_sent(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place.edit(*FACTS)
        Answers(monkeypatch, parent=())
        counts: list[int] = []
        figures = measuring.figures
        monkeypatch.setattr(
            measuring,
            "figures",
            lambda found, *more: counts.append(len(found)) or figures(found, *more),  # type: ignore[func-returns-value]
        )
        second = place.edit(FACT, repair=True, guards=Guards(min_efficacy=0))
        assert (len(second.facts), counts) == (6, [1])

    def test_without_a_loss_nothing_is_edited_twice(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place.edit(*FACTS)
        Answers(monkeypatch, *SUBJECTS, parent=SUBJECTS)
        second = place.edit(FACT, repair=True)
        assert [fact.subject for fact in second.facts] == ["Lyon"]

    def test_what_is_lost_is_only_told_unless_it_is_to_be_mended(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place.edit(*FACTS)
        Answers(monkeypatch, parent=SUBJECTS)
        second = place.edit(FACT)
        assert [fact.subject for fact in second.facts] == ["Lyon"]
        assert second.result is not None
        assert second.result.earlier is not None
        assert len(second.result.earlier.lost) == 5
        assert [one for one in second.result.warnings if one.startswith("do not hold")] == [
            "do not hold: 5 of 5 earlier facts that were asked, 5 of them lost by this batch; "
            '"repair": true with "check_earlier": "all" edits all such facts again'
        ]

    def test_mended_facts_have_numbers_that_the_request_does_not_have(self, place: Place) -> None:
        place.edit(*FACTS)
        line = place.store.versions.lineage("v1")
        lost = live_facts(line, place.base.n_layers)[:2]
        payload = EditPayload.model_validate(
            {
                "edit_id": "edit_9", "facts": [FACT], "editor": "memit", "preset": None,
                "hparams": {}, "indices": [4], "duplicates": [{"index": 6, "kept": 4}],
            }
        )  # fmt: skip
        assert with_missing(payload, lost, line).sent_as == [4, 7, 8]


class TestReverts:
    """Batches that have mended facts, applied again without a batch below them."""

    def mended_twice(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> list[Manifest]:
        """Oslo was taught in v1, broken and mended in v2, and again in v3; Bern in v2 alone."""
        place.edit(*FACTS)
        held = ("Paris", "Rome", "Kiev")
        Answers(monkeypatch, *held, parent=(*held, "Oslo", "Bern")).mended = set(SUBJECTS)
        place.edit(FACT, repair=True)
        Answers(monkeypatch, "Paris", "Rome", "Kiev", "Lyon", "Bern", parent=("Oslo",))
        place.edit({**FACT, "subject": "Nice"}, repair=True, check_earlier="all")
        line = place.store.versions.lineage("v3")
        assert [fact.subject for fact in line[2].facts] == ["Lyon", "Oslo", "Bern"]
        assert [fact.subject for fact in line[3].facts] == ["Nice", "Oslo"]
        return line

    def applied_again(self, place: Place, source: Manifest, line: list[Manifest]) -> Manifest:
        return place.runner.reapply(an_edit(number=9), source, line, "v3", control())

    def test_mended_facts_go_with_the_batch_that_taught_them(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base, _, second, third = self.mended_twice(place, monkeypatch)
        assert [(m.index, m.first_edit, m.first_index) for m in second.mended] == [
            (1, "edit_1", 1), (2, "edit_1", 3),
        ]  # fmt: skip
        again = self.applied_again(place, second, [base])
        assert [fact.subject for fact in again.facts] == ["Lyon"]
        assert (again.mended, again.result and [one.index for one in again.result.facts]) == (
            [], [0],
        )  # fmt: skip
        assert again.result is not None
        said = "edit_2 was edited without 2 facts that it had mended, as their batch is gone"
        assert said in again.result.warnings
        last = self.applied_again(place, third, [base, again])
        assert [fact.subject for fact in last.facts] == ["Nice"], "first taught by edit_1, too"

    def test_they_stay_where_only_another_batch_that_mended_them_is_reverted(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base, first, _, third = self.mended_twice(place, monkeypatch)
        again = self.applied_again(place, third, [base, first])
        assert [fact.subject for fact in again.facts] == ["Nice", "Oslo"]
        assert [(m.index, m.first_edit, m.first_index) for m in again.mended] == [(1, "edit_1", 1)]
        assert again.result is not None
        assert not any("mended" in said for said in again.result.warnings)


class TestWhatCanBeMended:
    def found(self, place: Place, *contexts: Contexts) -> Found:
        place.edit(*FACTS)
        facts = live_facts(place.store.versions.lineage("v1"), place.base.n_layers)
        lost = [replace(one, contexts=how) for one, how in zip(facts, contexts, strict=False)]
        return Found([], lost, [(one, "") for one in lost])

    def test_a_fact_of_other_ways_of_asking_is_not_mended_in_some_of_them(
        self, place: Place
    ) -> None:
        found = self.found(place, "plain", "both", "chat")
        fit, [said] = to_mend(found, "plain", 9)
        assert [one.contexts for one in fit] == ["plain"]
        assert said.startswith("missing and not edited again: 2 facts of earlier batches, edited")
        fit, [said] = to_mend(found, "chat", 9)
        assert [one.contexts for one in fit] == ["chat"]
        fit, none = to_mend(found, "both", 9)
        assert ([one.contexts for one in fit], none) == (["plain", "both", "chat"], [])

    def test_facts_given_as_messages_are_asked_in_their_chat_whatever_the_batch_does(
        self, place: Place
    ) -> None:
        found = self.found(place, "both")
        fact = replace(found.lost[0][0].fact, messages=(("user", "Where is Paris?"),))
        one = replace(found.lost[0][0], fact=fact)
        assert to_mend(Found([], [one], [(one, "")]), "plain", 9) == ([one], [])

    def test_a_batch_grows_to_the_limit_of_facts_at_most(
        self, base: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = Place(base, tmp_path, max_facts=3)
        place.edit(*FACTS)
        Answers(monkeypatch, parent=SUBJECTS)
        second = place.edit(FACT, repair=True)
        assert [fact.subject for fact in second.facts] == ["Lyon", "Paris", "Oslo"]
        assert second.result is not None
        assert second.result.earlier is not None
        assert (second.result.earlier.repaired, second.result.earlier.live) == (2, 3)
        assert [one.index for one in second.result.earlier.lost] == [2, 3, 4]
        assert any("3 facts of earlier batches, for which" in s for s in second.result.warnings)


def test_facts_show_whether_they_held_when_they_were_last_asked(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.edit(*FACTS)
    Answers(monkeypatch, "Paris", "Oslo", parent=())
    place.edit(FACT, check_earlier="all")
    Answers(monkeypatch, "Rome", parent=())
    place.edit({**FACT, "subject": "Nice"}, check_earlier=3)
    line = place.store.versions.lineage("v3")
    third = line[3].result
    assert third is not None
    assert third.earlier is not None
    asked = {i for part in (third.earlier.held, third.earlier.missing) for i in part.get("v1", [])}
    assert asked
    for one in facts_of(line):
        if one.version == "v3":
            assert one.checked_in == "v3"
        elif one.version == "v1":
            again = one.index in asked
            assert one.checked_in == ("v3" if again else "v2")
            said = {"Rome"} if again else {"Paris", "Oslo"}
            assert one.holds == (one.subject in said)
    # the version itself is the first check, and says nothing of what came later
    for one in facts_of(line[:2]):
        own = line[1].result
        assert own is not None
        assert (one.holds, one.checked_in) == (own.facts[one.index].success, "v1")
