"""Guards: what is measured for them, when they trip, and what a tripped one leaves behind."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
from redis import Redis
from support.library.tiny import bigram_view
from support.service.edit_runner import FACT, MODEL, an_edit, edit_on, runner_on
from support.service.played_worker.jobs import edit_job
from support.service.played_worker.worker import PlayedWorker

from jeep_core.errors import Cancelled, JeepError
from jeep_core.evaluation.drift import Drift, Moved, Passage, drift
from jeep_core.evaluation.outcomes import Figures, Surroundings
from jeep_core.evaluation.perplexity import perplexity
from jeep_core.models.loading import LoadedModel, load, texts_of
from jeep_core.moments.source import DEFAULT_CORPUS
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.facts import Fact
from service.contracts.jobs import JobStatus
from service.contracts.schemas import Guards
from service.store import Store
from service.worker.editing import guards as guarding
from service.worker.editing.guards import GuardMeter, check
from service.worker.failures import GuardFailed, Refused, failure

TABLE = {
    "in": {"Rome": 0.6, "Oslo": 0.3},
    "by": {"Rome": 0.2, "Oslo": 0.7},
    "near": {"Rome": 0.9},
}
PARENT = bigram_view(TABLE)
EDITED = bigram_view({**TABLE, "by": {"Rome": 0.7, "Oslo": 0.2}})
NAMED = Fact("x", "{} in", "Rome", "Oslo", (), ("y in", "y by"))


class TestFigures:
    def test_only_what_is_asked_for_is_measured(self, tmp_path: Path) -> None:
        meter = GuardMeter(tmp_path / "missing.txt", 100)
        for guards in (None, Guards(min_efficacy=0.5)):
            found = meter.measure(PARENT, "a", [NAMED], guards, NOTHING)
            assert found == Surroundings()

    def test_perplexity_is_measured_once_for_the_same_weights(self, tmp_path: Path) -> None:
        text, guards = tmp_path / "text.txt", Guards(max_perplexity_ratio=2)
        text.write_text("y by Oslo\n\ny in Rome\n")
        meter, calls = GuardMeter(text, 100), []
        monitor = Monitor(check=lambda: calls.append(1))
        for weights in ("a", "b", "a"):
            found = meter.measure(PARENT, weights, [], guards, monitor)
            assert found.perplexity == perplexity(PARENT, ["y by Oslo", "y in Rome"])
        assert len(calls) == 2

    def test_measuring_figures_can_be_cancelled(self, tmp_path: Path) -> None:
        def stop() -> None:
            raise Cancelled

        text = tmp_path / "text.txt"
        text.write_text("y by Oslo\n")
        for guards in (Guards(min_locality=0.5), Guards(max_perplexity_ratio=2)):
            with pytest.raises(Cancelled):
                GuardMeter(text, 100).measure(PARENT, "a", [NAMED], guards, Monitor(check=stop))


KNOWN = [Fact(name, "{} by", "Rome", "Oslo") for name in "abcdefgh"]


class TestBothVersions:
    """Figures of the version before and the new one together."""

    def meter(self, tmp_path: Path) -> GuardMeter:
        text = tmp_path / "text.txt"
        text.write_text("y by Oslo\ny in Rome\n")
        return GuardMeter(text, 100)

    def test_only_what_is_asked_for_is_measured(self, tmp_path: Path) -> None:
        meter = GuardMeter(tmp_path / "missing.txt", 100)
        assert meter.between(PARENT, EDITED, [NAMED], Guards(min_efficacy=1), NOTHING) == {}

    def test_drift_is_the_mean_kl_on_the_text(self, tmp_path: Path) -> None:
        found = self.meter(tmp_path).between(PARENT, EDITED, [], Guards(max_drift=1), NOTHING)
        texts = [Passage("y by Oslo"), Passage("y in Rome")]
        assert found == {"drift": drift(PARENT, EDITED, texts).kl}
        assert found["drift"] > 0

    def test_a_text_on_which_nothing_can_drift_keeps_no_limit(self, tmp_path: Path) -> None:
        text = tmp_path / "short.txt"
        text.write_text("y\n")
        with pytest.raises(JeepError, match=r"max_drift .*short\.txt has no token to predict"):
            GuardMeter(text, 100).between(PARENT, EDITED, [], Guards(max_drift=1), NOTHING)

    def test_without_a_text_the_one_that_ships_is_taken(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def seen(before: object, after: object, texts: list[Passage], **options: object) -> Drift:
            asked.extend(one.text for one in texts)
            return Drift([Moved("text", tokens=1)], [])

        monkeypatch.setattr(guarding, "drift", seen)
        GuardMeter(None, 100).between(PARENT, EDITED, [], Guards(max_drift=1), NOTHING)
        assert asked == texts_of(DEFAULT_CORPUS)

    def test_ability_is_the_share_of_what_was_known(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[set[str]] = []

        def facts(model: str, subjects: set[str]) -> tuple[list[Fact], str]:
            asked.append(subjects)
            return KNOWN, "a table"

        monkeypatch.setattr(guarding, "unrelated_facts", facts)
        guards = Guards(min_ability=0.5)
        kept = self.meter(tmp_path).between(PARENT, PARENT, [NAMED], guards, NOTHING)
        assert kept == {"ability": 1.0, "ability_facts": 8}
        lost = self.meter(tmp_path).between(PARENT, EDITED, [NAMED], guards, NOTHING)
        assert lost == {"ability": 0.0, "ability_facts": 8}
        assert asked == [{"x"}, {"x"}], "what the batch edits is not asked"

    def test_a_model_that_knows_too_little_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        few = (KNOWN[:7], "a table")
        monkeypatch.setattr(guarding, "unrelated_facts", lambda *_: few)
        with pytest.raises(Refused, match=r"of 7 facts \(a table\) the model knows 7") as caught:
            self.meter(tmp_path).between(PARENT, PARENT, [], Guards(min_ability=0.5), NOTHING)
        assert caught.value.code == "no_ability"

    def test_measuring_can_be_cancelled(self, tmp_path: Path) -> None:
        def stop() -> None:
            raise Cancelled

        for guards in (Guards(max_drift=1), Guards(min_ability=0.5)):
            with pytest.raises(Cancelled):
                self.meter(tmp_path).between(PARENT, EDITED, [], guards, Monitor(check=stop))


FOUND = Figures(
    efficacy=0.9,
    efficacy_before=0,
    success=0.5,
    success_before=0,
    locality=0.75,
    perplexity_ratio=1.2,
    drift=0.02,
    ability=0.9,
)


class TestLimits:
    @pytest.mark.parametrize(
        "guards",
        [
            Guards(),
            Guards(min_efficacy=0.9, min_locality=0.75, max_perplexity_ratio=1.2),
            Guards(max_perplexity_ratio=5.0),
            Guards(max_drift=0.02, min_ability=0.9),
            Guards(min_success=0.5, min_efficacy=0.9),
        ],
    )
    def test_a_figure_at_its_limit_passes(self, guards: Guards) -> None:
        check(guards, FOUND)

    def test_every_guard_that_trips_is_named_with_its_figure(self) -> None:
        with pytest.raises(GuardFailed) as caught:
            check(Guards(min_efficacy=0.91, min_locality=0.8, max_perplexity_ratio=1.1), FOUND)
        error = failure(caught.value)
        assert error.code == "guard_failed"
        assert error.message == (
            "efficacy is 0.9, below 0.91; locality is 0.75, below 0.8; "
            "the perplexity ratio is 1.2, above 1.1"
        )
        assert [(e["pointer"], e["limit"], e["figure"]) for e in error.errors] == [
            ("/guards/min_efficacy", 0.91, 0.9),
            ("/guards/min_locality", 0.8, 0.75),
            ("/guards/max_perplexity_ratio", 1.1, 1.2),
        ]

    def test_what_is_probable_and_not_written_trips_success(self) -> None:
        with pytest.raises(GuardFailed) as caught:
            check(Guards(min_success=0.6, min_efficacy=0.9), FOUND)
        [error] = failure(caught.value).errors
        assert (error["pointer"], error["figure"]) == ("/guards/min_success", 0.5)
        assert "the share of facts that are written is 0.5, below 0.6" in str(caught.value)

    def test_drift_and_ability_trip_too(self) -> None:
        with pytest.raises(GuardFailed, match=r"0\.02, above 0\.01; ability is 0\.9, below"):
            check(Guards(max_drift=0.01, min_ability=0.95), FOUND)

    @pytest.mark.parametrize("ratio", [inf, nan])
    def test_a_broken_version_keeps_no_limit(self, ratio: float) -> None:
        found = replace(FOUND, perplexity_ratio=ratio)
        with pytest.raises(GuardFailed) as caught:
            check(Guards(max_perplexity_ratio=1e9), found)
        assert failure(caught.value).errors[0]["figure"] == str(ratio)


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load(str(MODEL), device="cpu", dtype="float32")


NEIGHBORLY = {**FACT, "target_true": "Rome", "neighborhood_prompts": ["Nice lies in", "He is in"]}


class TestEdits:
    def test_figures_are_in_the_result(
        self, base: LoadedModel, store: Store, tmp_path: Path
    ) -> None:
        text = tmp_path / "text.txt"
        text.write_text("Nice lies in the south.\nHe is in Rome.\n")
        guards = {
            "min_efficacy": 0, "min_locality": 0, "max_perplexity_ratio": 1e9, "max_drift": 1e9,
        }  # fmt: skip
        runner = runner_on(base, store, tmp_path, perplexity_text=text)
        manifest, _ = edit_on(runner, an_edit(NEIGHBORLY, guards=guards), "v0")
        assert manifest.result is not None
        found = manifest.result.guards
        assert found is not None
        assert found.efficacy == manifest.result.efficacy
        assert found.success == manifest.result.greedy_success
        assert found.success_before == 0
        assert found.perplexity_ratio is not None
        assert found.perplexity_ratio > 0
        assert found.locality_before in (0, 0.5, 1)
        assert found.drift is not None
        assert found.drift > 0
        assert found.ability is None

    def test_a_tripped_guard_writes_no_version(
        self, base: LoadedModel, store: Store, tmp_path: Path
    ) -> None:
        text = tmp_path / "text.txt"
        text.write_text("Nice lies in the south.\n")
        runner = runner_on(base, store, tmp_path, perplexity_text=text)
        job = an_edit(NEIGHBORLY, guards={"max_perplexity_ratio": 1e-6})
        with pytest.raises(GuardFailed, match="above 1e-06"):
            edit_on(runner, job, "v0")
        assert [version.id for version in store.versions.all()] == ["v0"]
        assert store.head.read().version == "v0"

    def test_the_job_fails_with_the_figure(self, client: Redis, based: Store) -> None:
        def trip(*_: object) -> None:
            check(Guards(min_locality=0.8), FOUND)

        job = edit_job(based)
        PlayedWorker(client, based.root, trip).work()
        ended = based.journal.read(job.id)
        assert ended.status is JobStatus.FAILED
        assert ended.error is not None
        assert (ended.error.code, ended.error.errors[0]["figure"]) == ("guard_failed", 0.75)
        assert based.head.read().version == "v0"
