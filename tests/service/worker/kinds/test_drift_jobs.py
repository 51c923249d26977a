"""Drift jobs on a small random model: figures, the worst places, and the facts that moved them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.library import tiny
from support.service.edit_runner import FACT, MODEL, ReadBench

import jeep_core
from jeep_core.errors import Cancelled
from jeep_core.evaluation import drift as measuring
from jeep_core.evaluation.drift import PROMPTS, Passage, divergence, drift, next_token
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.source import DEFAULT_CORPUS
from jeep_core.monitor import Monitor
from service.contracts.jobs import Job, JobKind, new_id, now
from service.contracts.schemas.effects.drift import DriftPayload, DriftResult, DriftText
from service.worker.editing.unrelated import unrelated_facts, unrelated_text
from service.worker.failures import Refused
from service.worker.kinds import drifts
from service.worker.versions import causes as causing

TEXTS = [DriftText(text=text, kind=kind) for text, kind in zip(tiny.TEXTS[:4], "abab", strict=True)]
PARIS = {"subject": "Paris", "prompt": "{} belongs to", "target_new": "Peru"}
ASKED = ["Lyon lies in", "Oslo is a city in"]


class Bench(ReadBench):
    """A way to run drifts; head stays where it is."""

    def run(self, **payload: Any) -> DriftResult:
        job_id = new_id("job")
        given = {
            "drift_id": "drift_" + job_id[4:], "version": "v1", "against": "v0",
            "texts": TEXTS, "prompts": ASKED, "max_tokens": 1000, "worst": 6, "explained": 2,
        }  # fmt: skip
        filled = DriftPayload.model_validate(given | payload)
        job = Job(
            id=job_id, kind=JobKind.DRIFT, payload=filled.model_dump(mode="json"), created_at=now()
        )
        return drifts.run(self.task(job))


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return jeep_core.load(str(MODEL), device="cpu")


@pytest.fixture
def bench(base: LoadedModel, tmp_path: Path) -> Bench:
    return Bench(base, tmp_path)


def test_figures_are_the_library_s(bench: Bench) -> None:
    bench.edit(FACT, PARIS)
    found = bench.run()
    after = ModelView(bench.base, bench.views.get("v1").replaced)
    passages = [Passage(text, PROMPTS, prompt=True) for text in ASKED]
    passages += [Passage(one.text, one.kind) for one in TEXTS]
    expected = drift(ModelView(bench.base), after, passages, worst=6)
    by_kind = {one.kind: one for one in found.figures}
    assert set(by_kind) == {"prompts", "a", "b", "all texts"}
    assert by_kind["prompts"].passages == 2
    kl = sum(one.kl for one in expected.passages[2:])
    tokens = sum(one.tokens for one in expected.passages[2:])
    assert by_kind["all texts"].kl.value == pytest.approx(kl / tokens, rel=1e-4)
    assert [place.kl for place in found.worst] == pytest.approx([s.kl for s in expected.worst])
    assert found.worst[0].context.startswith(passages[found.worst[0].passage].text[:3])
    assert (found.texts, found.prompts) == ("texts of the request", "prompts of the request")
    assert "KL(v0 ‖ v1)" in found.protocol.judged


def test_a_comparison_ends_inside_a_batch(
    base: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two products with the vocabulary, too, where no matrix of a block is."""
    monkeypatch.setattr(measuring, "LOGITS_TOGETHER", 1)
    passes = [0]

    def give_way() -> None:
        passes[0] += 1
        if passes[0] == 3:
            raise Cancelled

    view, passages = ModelView(base), [Passage(tiny.TEXTS[0])]
    with pytest.raises(Cancelled):
        drift(view, view, passages, monitor=Monitor(give_way=give_way))


def test_the_worst_places_are_explained_by_facts(bench: Bench) -> None:
    bench.edit(FACT, PARIS)
    found = bench.run()
    assert found.not_explained is None
    assert [place.facts is not None for place in found.worst] == [True, True, *[False] * 4]
    [lyon] = [place for place in found.worst if place.context == "Lyon lies in"]
    assert lyon.facts is not None
    assert lyon.facts[0].subject == "Lyon"
    assert lyon.facts[0].kl_without < lyon.kl
    # without both facts nothing is left
    view = ModelView(bench.base, bench.views.get("v1").replaced)
    ids = list(bench.base.tokenizer.encode("Lyon lies in").ids)
    old, new = next_token(ModelView(bench.base), ids), next_token(view, ids)
    assert lyon.kl == pytest.approx(divergence(old, new), rel=1e-4)


def test_only_facts_between_the_two_versions_explain(bench: Bench) -> None:
    first = bench.edit(PARIS).id
    bench.store.head.move(first, expected="v0", job_id=None, fence=1, who="test", why="edit")
    second = bench.edit(FACT).id
    found = bench.run(version=second, against=first)
    versions = {f.version for place in found.worst for f in place.facts or []}
    assert versions == {second}


def test_why_places_are_not_explained(bench: Bench) -> None:
    bench.edit(FACT)
    other = bench.edit(PARIS).id  # on base, beside the first
    found = bench.run(version="v1", against=other)
    assert found.not_explained is not None
    assert f"v1 is not built on {other}" in found.not_explained
    assert all(place.facts is None for place in found.worst)
    assert bench.run(explained=0).not_explained is None


def test_an_editor_that_cannot_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.edit(FACT)
    other = replace(causing.available()[0]["memit"], columns_per_fact=False)
    monkeypatch.setattr(causing, "available", lambda: ({"memit": other}, []))
    found = bench.run()
    assert found.not_explained is not None
    assert "no column for each fact" in found.not_explained
    assert found.worst


def test_what_ships_is_compared_on_where_nothing_is_given(bench: Bench) -> None:
    bench.edit({"subject": "France", "prompt": "{} lies in", "target_new": "Peru"})
    found = bench.run(texts=None, prompts=None, max_tokens=200, worst=0, explained=0)
    assert (found.texts, found.prompts) == ("English text that ships", "general knowledge")
    by_kind = {one.kind: one for one in found.figures}
    assert set(by_kind) == {"prompts", "text"}
    assert by_kind["prompts"].passages == 256
    assert 150 <= by_kind["text"].tokens <= 200


def test_what_ships_names_no_subject_of_either_version(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other version may be on another branch, or above."""
    left_out: list[set[str]] = []
    whole = drifts.unrelated_facts

    def noted(model: str, subjects: set[str]) -> Any:
        left_out.append(subjects)
        facts, source = whole(model, subjects)
        return facts[:2], source

    monkeypatch.setattr(drifts, "unrelated_facts", noted)
    bench.edit({"subject": "France", "prompt": "{} lies in", "target_new": "Peru"})
    other = bench.edit(FACT).id  # on base, beside the first
    few = {"texts": [], "prompts": None, "worst": 0, "explained": 0}
    for version, against in (("v1", other), (other, "v1"), ("v0", "v1"), ("v1", "v0")):
        bench.run(version=version, against=against, **few)
    both = {"France", FACT["subject"]}
    assert left_out == [both, both, {"France"}, {"France"}]


def test_nothing_to_compare_on_is_refused(bench: Bench) -> None:
    bench.edit(FACT)
    with pytest.raises(Refused, match="no text and no prompt"):
        bench.run(texts=[], prompts=[])
    with pytest.raises(Refused, match="no text has a token"):
        bench.run(texts=[DriftText(text="a")], prompts=[])


class TestUnrelated:
    def test_facts_about_edited_subjects_are_left_out(self) -> None:
        every, source = unrelated_facts("mine", [])
        some, _ = unrelated_facts("mine", ["france ", ""])
        assert source == "general knowledge"
        assert any("France" in fact.text for fact in every)
        assert not any("France" in fact.text for fact in some)
        assert len(every) == len(some) == 256

    def test_a_bundled_model_has_its_own(self) -> None:
        facts, source = unrelated_facts("atlas-gptj", [])
        assert source == "atlas-counterfact-validation"
        assert all(fact.target_true for fact in facts)
        assert unrelated_text("atlas-gptj", None)[1] == "held-out text of atlas-gptj"

    def test_a_text_that_is_given_comes_first(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.txt"
        file.write_text("One.\nTwo.\n")
        assert unrelated_text("atlas-gptj", file) == (["One.", "Two."], "mine.txt")
        documents, source = unrelated_text("other", None)
        assert source == "English text that ships"
        assert "\n".join(documents)[:40] == DEFAULT_CORPUS.read_text()[:40]


def test_places_say_what_was_likely_before_and_is_now(bench: Bench) -> None:
    bench.edit(FACT)
    found = bench.run()
    place = found.worst[0]
    view = ModelView(bench.base, bench.views.get("v1").replaced)
    for tokens, version in ((place.before, ModelView(bench.base)), (place.after, view)):
        ids = list(bench.base.tokenizer.encode(place.context).ids)
        best = torch.topk(next_token(version, ids), 3)
        decoded = [bench.base.tokenizer.decode([i]) for i in best.indices.tolist()]
        assert [one.text for one in tokens] == decoded
