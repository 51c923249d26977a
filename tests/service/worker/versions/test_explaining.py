"""Explanations of answers by the facts of a version, from real edits of a tiny model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.service.edit_runner import FACT, HPARAMS, MODEL, an_edit, edit_on, give_moments
from support.service.edit_runner import runner_and_views as made

import jeep_core
from jeep_core.evaluation.explanation import Cause
from jeep_core.models.delta import Update
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from service.contracts.jobs import now
from service.contracts.schemas import Manifest, WorkerRequest
from service.contracts.schemas.effects.explanation import ExplainResult
from service.store import Store
from service.worker.failures import Refused, failure
from service.worker.kinds.edits import EditRunner
from service.worker.versions import tensors
from service.worker.versions.causes import NOT_EXPLAINABLE, causes_of
from service.worker.versions.explaining import Explanations
from service.worker.versions.views import VersionViews, updates_of

PARIS = {"subject": "Paris", "prompt": "{} belongs to", "target_new": "Peru"}
OSLO = {"subject": "Oslo", "prompt": "{} lies in", "target_new": "Chile"}


class Place:
    """A store with edits of a tiny model."""

    def __init__(self, base: LoadedModel, root: Path) -> None:
        self.base, self.store = base, Store.open(root / "store")
        give_moments(base, self.store, root)
        self.runner: EditRunner
        self.views: VersionViews
        self.runner, self.views = made(base, self.store)
        self.turns = 0

    def edit(self, *facts: dict[str, Any], **more: Any) -> str:
        parent = self.store.head.read().version
        number = int(parent[1:]) + 1
        manifest, _ = edit_on(self.runner, an_edit(*facts, number=number, **more), parent)
        return self.commit(manifest.id, parent)

    def commit(self, version: str, parent: str) -> str:
        self.store.head.move(version, expected=parent, job_id=None, fence=1, who="test", why="edit")
        return version

    def add(self, editor: str, updates: dict[str, Update], facts: list[dict[str, Any]]) -> str:
        """A version by another editor, with these updates."""
        parent = self.store.head.read().version
        line = self.store.versions.lineage(parent)
        view = self.views.editing(line)
        for name, update in updates.items():
            view.update(name, update)
        parts = {f"{p}.{n}": t for n, u in updates.items() for p, t in u.parts().items()}
        version = self.store.versions.new_id()
        self.store.versions.write(
            Manifest.model_validate(
                {
                    "id": version, "parent": parent, "editor": editor, "edit_id": "edit_x",
                    "facts": facts, "created_at": now(),
                    "tensors": [tensors.put(self.store, n, t) for n, t in view.replaced.items()],
                    "artifacts": [tensors.put(self.store, n, t) for n, t in parts.items()],
                    "weights_sha256": view.weights_sha256(),
                }
            )
        )  # fmt: skip
        return self.commit(version, parent)

    def explain(self, prompt: str, version: str = "", seconds: float = 60, **more: Any) -> Any:
        def turn(look: Callable[[], None]) -> None:
            self.turns += 1
            look()

        request = WorkerRequest(
            id="ask_1", kind="explain", deadline=time.time() + seconds,
            versions=[version or self.store.head.read().version],
            body={"prompt": prompt, **more},
        )  # fmt: skip
        return Explanations(self.base, self.store, self.views, turn).explain(request)


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return jeep_core.load(str(MODEL), device="cpu")


@pytest.fixture
def place(base: LoadedModel, tmp_path: Path) -> Place:
    return Place(base, tmp_path)


def probability(base: LoadedModel, view: ModelView, found: ExplainResult) -> float:
    ids = list(base.tokenizer.encode("".join(found.tokens)).ids)
    with torch.no_grad():
        logits = view.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    own = [float(logits[i - 1, ids[i]]) for i in range(found.answer_at, len(ids))]
    return float(torch.tensor(own).mean().exp())


def test_the_facts_of_all_batches_are_named(place: Place) -> None:
    first = place.edit(FACT, PARIS)
    second = place.edit(OSLO)
    found = place.explain("Lyon lies in", answer="Peru", top=3)
    assert found.version == second
    assert {(f.version, f.index, f.subject) for f in found.facts} == {
        (first, 0, "Lyon"), (first, 1, "Paris"), (second, 0, "Oslo"),
    }  # fmt: skip
    assert sum(fact.share for fact in found.facts) == pytest.approx(1.0)
    assert [abs(f.share) for f in found.facts] == sorted(
        (abs(f.share) for f in found.facts), reverse=True
    )
    assert found.facts[0].subject == "Lyon"
    assert "".join(found.tokens).startswith("Lyon lies in")
    assert [matrix.layer for matrix in found.matrices] == HPARAMS["low"]["layers"]
    for matrix in found.matrices:
        assert [one.position for one in matrix.places] == list(range(len(found.tokens) - 1))
    assert place.turns > 0, "decoding may run in between"


def test_probabilities_are_those_of_the_versions(place: Place) -> None:
    place.edit(FACT)
    found = place.explain("Lyon lies in", answer="Peru")
    view = ModelView(place.base, place.views.get(found.version).replaced)
    assert found.probability == pytest.approx(probability(place.base, view, found), rel=1e-5)
    base = probability(place.base, ModelView(place.base), found)
    assert found.base_probability == pytest.approx(base, rel=1e-5)
    assert sum(one.change for one in found.layers) == pytest.approx(found.probability - base)
    [fact] = found.facts
    assert fact.without == pytest.approx(base, rel=1e-4), "it is the only fact"


def test_without_an_answer_the_likeliest_token_is_explained(place: Place) -> None:
    place.edit(FACT)
    found = place.explain("Lyon lies in")
    assert found.answer_at == len(found.tokens) - 1
    assert found.answer == found.tokens[-1]
    view = place.views.get(found.version)
    ids = place.base.tokenizer.encode("Lyon lies in").ids
    with torch.no_grad():
        best = int(view.model(torch.tensor([ids])).logits[0, -1].argmax())
    assert found.tokens[-1] == place.base.tokenizer.decode([best], skip_special_tokens=False)


def test_the_base_model_was_moved_by_nothing(place: Place) -> None:
    found = place.explain("Lyon lies in", "v0", answer="Peru")
    assert (found.facts, found.matrices, found.layers) == ([], [], [])
    assert found.probability == found.base_probability


def test_a_fact_that_was_edited_again_is_superseded(place: Place) -> None:
    place.edit(FACT)
    place.edit({**FACT, "target_new": "Chile"})
    found = place.explain("Lyon lies in", answer="Peru")
    assert {(f.target_new, f.state) for f in found.facts} == {
        ("Peru", "superseded"), ("Chile", "live"),
    }  # fmt: skip


class TestWhatCannotBeSplit:
    def dense(self, base: LoadedModel) -> dict[str, Update]:
        name = base.family.weight_name(0)
        shape = base.model.get_parameter(name).shape
        return {name: Update(dense=0.01 * torch.ones(shape))}

    def factors(self, base: LoadedModel, columns: int) -> dict[str, Update]:
        name = base.family.weight_name(0)
        rows, inner = base.model.get_parameter(name).shape
        return {
            name: Update(left=torch.ones(rows, columns), right=0.01 * torch.ones(inner, columns))
        }

    @pytest.mark.parametrize(
        ("editor", "columns", "why"),
        [
            ("ft-wd", 0, "'ft-wd' have no column for each fact"),
            ("mend", 6, "'mend' have no column for each fact"),
            ("gone", 1, "'gone' is not installed here"),
            ("memit", 0, "kept as whole matrices"),
            ("memit", 3, "not those of 2 facts"),
        ],
    )
    def test_the_refusal_has_the_reason(
        self, editor: str, columns: int, why: str, place: Place
    ) -> None:
        updates = self.factors(place.base, columns) if columns else self.dense(place.base)
        place.add(editor, updates, [FACT, OSLO])
        with pytest.raises(Refused, match=why) as caught:
            place.explain("Lyon lies in", answer="Peru")
        assert failure(caught.value).code == NOT_EXPLAINABLE

    def test_beside_others_it_counts_as_a_whole(self, place: Place) -> None:
        first = place.edit(FACT)
        second = place.add("ft-wd", self.dense(place.base), [OSLO])
        found = place.explain("Lyon lies in", answer="Peru")
        [whole] = [fact for fact in found.facts if fact.index is None]
        assert (whole.version, whole.subject) == (second, None)
        assert whole.why is not None
        assert [said.partition(":")[0] for said in found.warnings] == [second]
        view = ModelView(place.base, place.views.get(first).replaced)
        alone = probability(place.base, view, found)
        assert whole.without == pytest.approx(alone, rel=1e-4)


def test_causes_are_columns_of_the_stored_updates(place: Place) -> None:
    version = place.edit(FACT, PARIS)
    causes = causes_of(place.base, place.store, place.views, version)
    [manifest] = causes.batches
    updates = updates_of(tensors.TensorCache(place.store), manifest)
    name = causes.attribution.names[0]
    left, right = updates[name].left, updates[name].right
    assert left is not None
    assert right is not None
    x = torch.randn(3, right.shape[0], generator=torch.Generator().manual_seed(0)).double()
    for fact, subject in enumerate(("Lyon", "Paris")):
        expected = (x @ right[:, [fact]].double()) @ left[:, [fact]].double().T
        assert torch.allclose(causes.attribution.vectors(name, Cause(0, fact), x), expected)
        assert causes.described(Cause(0, fact), 0.5).subject == subject


@pytest.mark.parametrize(
    ("prompt", "more", "code"),
    [
        ("", {"answer": "Peru"}, "empty"),
        ("Lyon lies in " * 400, {"answer": "Peru"}, "too_long"),
        ("Lyon lies in " * 400, {}, "too_long"),
        ("Lyon lies in", {"seconds": -1}, "worker_timeout"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    prompt: str, more: dict[str, Any], code: str, place: Place
) -> None:
    place.edit(FACT)
    with pytest.raises(Refused) as caught:
        place.explain(prompt, **more)
    assert caught.value.code == code
