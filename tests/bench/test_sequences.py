"""Long sequences: which facts are in which batch, and what is measured on the last version."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support import TINY_GPTJ
from support.service.edit_runner import HPARAMS, ReadBench

import jeep_core
from bench.editors import repaired, sequences
from jeep_core.evaluation.matching import Match
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.spec.facts import Fact
from service.client import Client
from service.contracts.jobs import JobStatus
from service.contracts.schemas.effects.earlier import EarlierFacts


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return jeep_core.load(str(TINY_GPTJ))


def fact(number: int) -> Fact:
    return Fact(f"Lyon {number}", "{} lies in", " Peru")


BATCHES = [[fact(0), fact(1)], [fact(2), fact(3)], [fact(4)]]


@pytest.mark.parametrize(
    ("batches", "first", "middle", "last"),
    [(1, [0], [0], [0]), (3, [0], [1], [2]), (10, [0], [5], [9]), (20, [0, 1], [10, 11], [18, 19])],
)
def test_a_tenth_has_one_batch_at_least(
    batches: int, first: list[int], middle: list[int], last: list[int]
) -> None:
    found = {name: list(places) for name, places in sequences.tenths(batches).items()}
    assert found == {"first": first, "middle": middle, "last": last}


def test_a_question_that_is_asked_twice_is_edited_with_its_last_answer(tmp_path: Path) -> None:
    rows = [
        {"subject": name, "prompt": "{} lies in", "target_new": new, "target_true": "Chad"}
        for name, new in (("Lyon", "Peru"), ("Oslo", "Chile"), ("Lyon", "Mali"), ("Rome", "Fiji"))
    ]
    (tmp_path / "suite.json").write_text(json.dumps(rows))
    batches = sequences.batches_of(str(tmp_path / "suite.json"), 4, 2)
    said = [[(one.subject, one.target_new.strip()) for one in batch] for batch in batches]
    assert said == [[("Lyon", "Mali"), ("Oslo", "Chile")], [("Rome", "Fiji")]]
    assert len(sequences.batches_of(str(tmp_path / "suite.json"), 1, 2)) == 1


def test_a_record_stands_for_its_longest_field(tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(["plain", {"kind": "a", "text": "longer"}]))
    assert sequences.texts_of(tmp_path / "texts.json") == ["plain", "longer"]


def test_every_tenth_is_measured_on_its_own_facts(
    base: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def played(view: ModelView, facts: list[Fact]) -> list[Match]:
        asked.append(len(facts))
        holds = [one.subject in ("Lyon 0", "Lyon 4") for one in facts]
        return [Match(exact=False, contains=one, f1=0.0) for one in holds]

    monkeypatch.setattr(sequences, "written", played)
    view = ModelView(base)
    found = sequences.figures(view, BATCHES, ["Through the town flows a river."], view)
    assert asked == [5]  # all together: a call for each batch of one fact takes far longer
    assert {name: one["contains"] for name, one in found["end"].items()} == {
        "first": 50.0, "middle": 0.0, "last": 100.0,
    }  # fmt: skip
    assert found["all"]["contains"] == 40.0
    assert found["drift"] == pytest.approx(0.0, abs=1e-6)
    assert found["perplexity_ratio"] == 1.0


def test_versions_of_a_store_are_measured_as_they_were_and_as_they_are(
    base: LoadedModel, tmp_path: Path
) -> None:
    bench = ReadBench(base, tmp_path)
    record = {"subject": "Lyon 0", "prompt": "{} lies in", "target_new": "Peru"}
    manifest = bench.edit(record, hparams=HPARAMS)
    sent = repaired.Sent([manifest.id], repaired=2, missing=1, seconds=3.0)
    found, view = repaired.measure(base, bench.store, sent, [[fact(0)]], ["A river."])
    assert view.weights_sha256() == bench.views.get(manifest.id).weights_sha256()
    assert found["perplexity_ratio"] != 1.0
    assert max(found["norms"].values()) > 0
    assert (found["mended"], found["missing"], found["seconds_a_fact"]) == (2, 1, 3.0)
    assert found["written"]["first"] == found["end"]["first"]
    assert sequences.row("repair", found).count("|") == sequences.HEAD.split("\n")[0].count("|")


class Played:
    """A client whose edits become versions, or fail from the third one on."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def edit(self, facts: list[dict[str, Any]], **body: Any) -> SimpleNamespace:
        self.bodies.append({"facts": facts, **body})
        return SimpleNamespace(id=f"job_{len(self.bodies)}")

    def wait(self, job: str, timeout: float) -> SimpleNamespace:
        status = JobStatus.FAILED if job == "job_4" else JobStatus.SUCCEEDED
        return SimpleNamespace(status=status, error="why", edit_id=job.replace("job", "edit"))

    def edit_result(self, edit: str) -> SimpleNamespace:
        number = int(edit.removeprefix("edit_"))
        report = None
        if number > 1:
            missing = {"v1": list(range(4 - number))}
            report = EarlierFacts(live=2, checked=2, seed=0, missing=missing, repaired=number)
        return SimpleNamespace(result=SimpleNamespace(version=f"v{number}", earlier=report))


def test_batches_are_sent_one_after_another_and_what_is_mended_is_counted() -> None:
    client = Played()
    sent = repaired.send(cast(Client, client), BATCHES, {**repaired.MENDING, "preset": "jeep"})
    assert (sent.versions, sent.repaired, sent.missing) == (["v1", "v2", "v3"], 5, 1)
    assert [len(one["facts"]) for one in client.bodies] == [2, 2, 1]
    first = client.bodies[0]
    assert first["facts"][0] == {
        "subject": "Lyon 0", "prompt": "{} lies in", "target_new": " Peru", "join": "auto",
    }  # fmt: skip
    assert (first["check_earlier"], first["repair"], first["preset"]) == ("all", True, "jeep")
    with pytest.raises(RuntimeError, match="batch 1 failed: why"):
        repaired.send(cast(Client, client), BATCHES, repaired.MENDING)
