"""Reverts with a real queue, a real store and a real model: the chain without one batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from support.service.edit_runner import HPARAMS, MODEL, give_moments, runner_and_views
from support.service.played_worker.jobs import edit_job, revert_job
from support.service.played_worker.worker import PlayedWorker

from jeep_core.models.loading import LoadedModel, load
from service.contracts.jobs import Job, JobStatus
from service.contracts.schemas import EditPayload, FactRecord, Manifest, RevertResult
from service.store import Store
from service.store.maintenance.usage import usage
from service.worker.versions.earlier_edits import STATE

Work = Callable[..., Job]

LYON = FactRecord(subject="Lyon", prompt="{} lies in", target_new="Peru")
LYON_AGAIN = LYON.model_copy(update={"target_new": "Oslo"})
NICE = FactRecord(subject="Nice", prompt="{} lies in", target_new="Rome")
ANN = FactRecord(subject="Ann", prompt="{} lives in", target_new="Peru")


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load(str(MODEL), device="cpu", dtype="float32")


class Chain:
    """A store whose jobs are really computed, each by a separate worker."""

    def __init__(self, client: Redis, base: LoadedModel, root: Path) -> None:
        self.client, self.base, self.store = client, base, Store.open(root / "store")
        give_moments(base, self.store, root)
        self.computing = runner_and_views(base, self.store)

    def edit(self, *facts: FactRecord, **hparams: Any) -> str:
        """Edit and commit; the edit's id."""
        return self.edit_by("memit", list(facts), {**HPARAMS, **hparams})

    def edit_by(self, editor: str, facts: list[FactRecord], hparams: dict[str, Any]) -> str:
        """The same by an editor with these hyper-parameters."""
        job = self.work(edit_job(self.store, facts=facts, editor=editor, hparams=hparams))
        assert job.status is JobStatus.SUCCEEDED, job.error
        return str(job.payload["edit_id"])

    def roll_back(self, version: str) -> None:
        head = self.store.head
        now = head.read()
        head.move(
            version, expected=now.version, job_id=None, fence=now.fence, who="test", why="rollback"
        )

    def revert(self, edit_id: str, **payload: Any) -> RevertResult:
        job = self.work(revert_job(self.store, edit_id, **payload))
        assert job.status is JobStatus.SUCCEEDED, job.error
        return RevertResult.model_validate(job.result)

    def work(self, job: Job) -> Job:
        PlayedWorker(
            self.client,
            self.store.root,
            weights=self.base.weights_sha256,
            computing=lambda store: self.computing,
        ).work()
        return self.store.journal.read(job.id)

    @property
    def head(self) -> str:
        return self.store.head.read().version

    @property
    def edits(self) -> list[str | None]:
        """The batches of head's history."""
        return [version.edit_id for version in self.store.versions.lineage(self.head)[1:]]

    def content(self) -> list[tuple[object, ...]]:
        """All that head's history holds, but for what names a version or a time."""
        return [
            (
                [(ref.name, ref.sha256) for ref in (*version.tensors, *version.artifacts)],
                version.weights_sha256,
                version.inputs,
                version.hparams,
                version.facts,
                version.result and version.result.facts,
            )
            for version in self.store.versions.lineage(self.head)
        ]


@pytest.fixture
def chain(client: Redis, base: LoadedModel, tmp_path: Path) -> Chain:
    (tmp_path / "one").mkdir()
    return Chain(client, base, tmp_path / "one")


@pytest.fixture
def other(client: Redis, base: LoadedModel, tmp_path: Path) -> Chain:
    (tmp_path / "two").mkdir()
    return Chain(client, base, tmp_path / "two")


def others(warnings: list[str]) -> list[str]:
    """The warnings but for those about facts that did not take: the model is a random one."""
    return [text for text in warnings if "no fact of this edit took" not in text]


def test_a_batch_in_the_middle_leaves_the_bytes_of_a_chain_without_it(
    chain: Chain, other: Chain
) -> None:
    """The middle batch has taken the first one's key out of the preserved set: it is back."""
    first, middle, last = chain.edit(LYON), chain.edit(LYON_AGAIN), chain.edit(NICE, ANN)
    with_it, head = chain.content(), chain.head
    result = chain.revert(middle, snapshot_name="clean")
    other.edit(LYON)
    other.edit(NICE, ANN)
    assert chain.content() == other.content()
    assert chain.content()[-1] != with_it[-1]
    assert chain.edits == [first, last]
    assert (result.version, result.previous) == (chain.head, head)
    assert result.weights_sha256 == chain.store.versions.read(chain.head).weights_sha256
    [again] = result.reapplied
    assert (again.edit_id, again.previous_version, again.version) == (last, head, chain.head)
    assert (others(result.warnings), chain.store.names.all()) == ([], {"clean": chain.head})
    assert chain.store.head.reflog()[-1].why == f"revert {middle}"


def test_an_exact_batch_is_applied_again_as_exactly(chain: Chain, other: Chain) -> None:
    """The manifest says it, and a revert has the bytes of an exact edit, not of a quick one."""
    exact = {"exact": True, "n_prefixes": 6}
    first = chain.edit(NICE)
    chain.edit(LYON, ANN, **exact)
    assert chain.store.versions.read(chain.head).hparams["exact"] is True
    chain.revert(first)
    other.edit(LYON, ANN, **exact)
    assert chain.content() == other.content()
    assert chain.store.versions.read(chain.head).hparams["exact"] is True


def test_the_first_batch_of_three_makes_two_new_versions(chain: Chain, other: Chain) -> None:
    first, *rest = chain.edit(LYON), chain.edit(NICE), chain.edit(ANN)
    moves = len(chain.store.head.reflog())
    result = chain.revert(first)
    other.edit(NICE)
    other.edit(ANN)
    assert chain.content() == other.content()
    assert chain.edits == rest == [one.edit_id for one in result.reapplied]
    assert len(chain.store.head.reflog()) == moves + 1


def test_the_last_batch_leads_back_to_its_parent(chain: Chain) -> None:
    chain.edit(LYON)
    parent, before = chain.head, chain.content()
    last = chain.edit(NICE)
    versions = chain.store.versions.all()
    result = chain.revert(last)
    assert (result.version, result.reapplied) == (parent, [])
    assert result.weights_sha256 == chain.store.versions.read(parent).weights_sha256
    assert chain.content() == before
    assert chain.store.versions.all() == versions


def test_a_batch_that_was_applied_again_can_be_reverted_too(chain: Chain, other: Chain) -> None:
    first, second, third = chain.edit(LYON), chain.edit(NICE), chain.edit(ANN)
    chain.revert(first)
    chain.revert(second)
    other.edit(ANN)
    assert chain.content() == other.content()
    assert chain.edits == [third]


def test_other_inputs_than_the_first_time_are_said(chain: Chain) -> None:
    first, second = chain.edit(LYON), chain.edit(NICE, n_prefixes=2)
    chain.store.base.prefixes_file.write_text('["", "Another text"]')
    result = chain.revert(first)
    assert others(result.warnings) == [f"{second} was first computed with other prefixes"]


def test_what_is_recorded_is_enough_for_the_same_request(chain: Chain) -> None:
    """Places in the request survive, also where a fact was given twice."""
    first = chain.edit(LYON)
    facts = [NICE, ANN]
    given = EditPayload(
        edit_id="edit_x",
        facts=facts,
        editor="memit",
        preset=None,
        hparams=HPARAMS,
        indices=[0, 2],
        duplicates=[{"index": 1, "kept": 0}],
    )
    chain.work(edit_job(chain.store, **dict(given)))
    chain.revert(first)
    result = chain.store.versions.read(chain.head).result
    assert result is not None
    assert [outcome.index for outcome in result.facts] == [0, 2]
    assert [(one.index, one.kept) for one in result.duplicates] == [(1, 0)]


ULTRAEDIT = {"layers": [0, 1], "step_size": 0.01}


def state_of(version: Manifest) -> dict[str, str]:
    """Hashes, by name, of what a version holds for its editor's next batch."""
    kept = (ref for ref in version.artifacts if ref.name.startswith(STATE))
    return {ref.name: ref.sha256 for ref in kept}


def test_a_rollback_brings_an_editors_state_back_bit_for_bit(chain: Chain) -> None:
    """Standardised by three batches, or by one: the batch that follows is another."""
    chain.edit_by("ultraedit", [LYON, NICE], ULTRAEDIT)
    one, store = chain.head, chain.store
    chain.edit_by("ultraedit", [ANN, LYON_AGAIN], ULTRAEDIT)
    two, content = chain.head, chain.content()
    chain.edit(NICE)  # another editor leaves it alone
    chain.edit_by("ultraedit", [ANN, LYON_AGAIN], ULTRAEDIT)
    states = [state_of(store.versions.read(version)) for version in (one, two, chain.head)]
    assert [len(state) for state in states] == [6, 6, 6]
    assert len({state["state.mean.0"] for state in states}) == 3
    chain.roll_back(one)
    chain.edit_by("ultraedit", [ANN, LYON_AGAIN], ULTRAEDIT)
    assert chain.head != two
    assert chain.content() == content
    assert usage(store)["states of editors"].files > 0


def test_a_revert_takes_the_batchs_part_out_of_the_state(chain: Chain, other: Chain) -> None:
    first = chain.edit_by("ultraedit", [LYON, NICE], ULTRAEDIT)
    chain.edit_by("ultraedit", [ANN, LYON_AGAIN], ULTRAEDIT)
    chain.revert(first)
    other.edit_by("ultraedit", [ANN, LYON_AGAIN], ULTRAEDIT)
    assert chain.content() == other.content()
