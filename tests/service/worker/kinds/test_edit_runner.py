"""One edit job's own part: settings of the second moments, and remaining times."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from redis import Redis
from support.service.edit_runner import (
    FACT,
    HPARAMS,
    LAYERS,
    MODEL,
    an_edit,
    control,
    edit_on,
    give_moments,
    runner_and_views,
    runner_on,
)
from support.service.played_worker.jobs import edit_job
from support.service.played_worker.worker import PlayedWorker

from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.errors import Cancelled, MissingMoments
from jeep_core.evaluation.perplexity import perplexity
from jeep_core.executors.threads import use_threads
from jeep_core.models import views as views_module
from jeep_core.models.giving_way import giving_way
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from jeep_core.moments.published import Imported
from jeep_core.spec import facts as facts_module
from service.contracts.jobs import JobStatus, Progress
from service.contracts.schemas import EditPayload, FactRecord, Manifest
from service.store import Store
from service.worker.editing import measured as measured_module
from service.worker.kinds import edits as edits_module
from service.worker.lanes import control as control_module
from service.worker.lanes.control import JobControl
from service.worker.threads import edit_threads


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load(str(MODEL), device="cpu", dtype="float32")


def test_imported_moments_stand_in_for_a_corpus(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    runner = runner_on(base, store, tmp_path)
    imported = Imported(store.base.moments_folder, "wikipedia")
    manifest, _ = edit_on(runner, an_edit(), "v0")
    assert manifest.inputs["moment.0"] == imported.key(base, 0)
    assert manifest.inputs["moment.1"] == imported.key(base, 1)


def test_a_layer_that_was_not_imported_is_named(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    runner = runner_on(base, store, tmp_path)
    Imported(store.base.moments_folder, "wikipedia").path(base, 1).unlink()
    with pytest.raises(MissingMoments, match=r"layer 1 .* jeep moments import --name wikipedia"):
        edit_on(runner, an_edit(), "v0")


def test_a_warning_of_the_api_is_in_the_result(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    manifest, _ = edit_on(runner_on(base, store, tmp_path), an_edit(warnings=["doubtful"]), "v0")
    assert manifest.result is not None
    assert manifest.result.warnings[0] == "doubtful"


def test_a_fact_of_an_older_store_is_applied_again_as_it_was(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    """It has no ``join``, and its target was put after a blank, whatever script it is in."""
    runner = runner_on(base, store, tmp_path)
    old = {"subject": "Lyon", "prompt": "{} lies in", "target_new": "東京"}
    first, _ = edit_on(runner, an_edit(old), "v0")
    again = runner.reapply(
        an_edit(old, number=2), first, [store.versions.read("v0")], "v0", control()
    )
    assert again.weights_sha256 == first.weights_sha256
    said = {
        join: edit_on(runner, an_edit({**old, "join": join}, number=i), "v0")[0]
        for i, join in enumerate(("space", "auto", "none"), start=3)
    }
    assert said["space"].weights_sha256 == first.weights_sha256
    assert said["auto"].weights_sha256 == said["none"].weights_sha256
    assert said["auto"].weights_sha256 != first.weights_sha256
    assert [version.facts[0].join for version in said.values()] == list(said)
    [kept] = Manifest.model_validate_json(said["auto"].model_dump_json()).facts
    assert kept.join == "auto"


def counting(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: Counter[str]) -> None:
    """Count the calls of a function where ``owner`` has it."""
    function = getattr(owner, name)

    def counted(*args: Any, **more: Any) -> Any:
        calls[name] += 1
        return function(*args, **more)

    monkeypatch.setattr(owner, name, counted)


def test_a_job_is_read_and_checked_once(
    base: LoadedModel, client: Redis, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the queue to the version: payload, facts, hyper-parameters, matrices."""
    give_moments(base, store, tmp_path)
    computing = runner_and_views(base, store)
    calls: Counter[str] = Counter()
    counting(monkeypatch, facts_module, "_parse_fact", calls)
    counting(monkeypatch, views_module, "materialise", calls)
    counting(monkeypatch, edits_module, "fact_of", calls)
    validate = MemitHParams.model_validate.__func__
    read = EditPayload.model_validate.__func__

    def validated(cls: type[MemitHParams], *args: Any, **more: Any) -> Any:
        calls["hparams"] += 1
        return validate(cls, *args, **more)

    def read_once(cls: type[EditPayload], *args: Any, **more: Any) -> Any:
        calls["payload"] += 1
        return read(cls, *args, **more)

    monkeypatch.setattr(MemitHParams, "model_validate", classmethod(validated))
    monkeypatch.setattr(EditPayload, "model_validate", classmethod(read_once))
    facts = [FactRecord(**{**FACT, "subject": name}) for name in ("Lyon", "Nice", "Caen")]
    job = edit_job(store, facts=facts, editor="memit", hparams=HPARAMS)
    PlayedWorker(
        client, store.root, weights=base.weights_sha256, computing=lambda _: computing
    ).work()
    ended = store.journal.read(job.id)
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    expected = {"payload": 1, "hparams": 1, "fact_of": len(facts), "materialise": len(LAYERS)}
    assert calls == expected


def test_the_remaining_time_leaves_out_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A resumed pass: 800 of 1,000 were there, then 100 took ten seconds."""
    clock = iter([100.0, 110.0, 120.0, 130.0])
    monkeypatch.setattr(control_module.time, "monotonic", lambda: next(clock))
    told: list[Progress] = []
    control = JobControl(publish=told.append, checkpoint=lambda: None)
    control.progress("moments", 800, 1000)
    control.progress("moments", 900, 1000)
    control.progress("optimise", 0, 10)
    control.progress("optimise", 5, 10)
    assert [progress.eta_seconds for progress in told] == [None, 10.0, None, 10.0]


def test_the_reason_for_an_editor_is_recorded_and_stays_when_it_is_reapplied(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    runner = runner_on(base, store, tmp_path)
    job = an_edit(editor_reason="it was ahead")
    manifest, _ = edit_on(runner, job, "v0")
    assert manifest.result is not None
    assert manifest.result.editor_reason == "it was ahead"
    line = store.versions.lineage("v0")
    again = runner.reapply(job, manifest, line, "v0", control())
    assert again.result is not None
    assert again.result.editor_reason == "it was ahead"
    plain, _ = edit_on(runner, an_edit(number=2), "v0")
    assert plain.result is not None
    assert plain.result.editor_reason is None


def test_a_probe_that_is_not_read_again_stays_recorded_and_is_no_difference(
    base: LoadedModel, store: Store, tmp_path: Path
) -> None:
    runner = runner_on(base, store, tmp_path)
    job = an_edit()
    first, _ = edit_on(runner, job, "v0")
    assert first.result is not None
    chosen = first.result.model_copy(update={"source": "kept probe", "rule": 2})
    inputs = {**first.inputs, "probe": "5e1f", "prefixes": "of another file"}
    source = first.model_copy(update={"inputs": inputs, "result": chosen})
    again = runner.reapply(job, source, store.versions.lineage("v0"), "v0", control())
    assert again.result is not None
    assert again.inputs == {**first.inputs, "probe": "5e1f"}
    assert (again.result.source, again.result.rule) == ("kept probe", 2)
    [said] = [one for one in again.result.warnings if "first computed" in one]
    assert said == "edit_1 was first computed with other prefixes"


def test_an_edit_ends_between_two_matrices(
    base: LoadedModel, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing else looks: one batch of what guards measure may take minutes."""
    monkeypatch.setattr(control_module, "LOOK_EVERY_S", 0.0)
    runner = runner_on(base, store, tmp_path)

    def end() -> None:
        raise Cancelled

    monitor = runner._monitor(JobControl(publish=lambda progress: None, checkpoint=end))
    inside = replace(monitor, check=lambda: None)
    view = ModelView(base)
    with giving_way(view, inside), pytest.raises(Cancelled):
        perplexity(view, ["Lyon lies in Peru"], monitor=inside)


def test_a_parent_is_measured_beside_the_edit_where_a_thread_is_left(
    base: LoadedModel, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And earlier facts beside the new version; answers and weights are those of one thread."""
    ran_in: list[tuple[str, str]] = []

    def noted(name: str) -> None:
        function = getattr(measured_module, name)

        def called(*args: Any) -> Any:
            ran_in.append((name, threading.current_thread().name.partition("_")[0]))
            return function(*args)

        monkeypatch.setattr(measured_module, name, called)

    noted("said")
    noted("ask")
    runner, before = runner_on(base, store, tmp_path), torch.get_num_threads()
    first, _ = edit_on(runner, an_edit({**FACT, "subject": "Paris"}, number=9), "v0")
    store.head.move(first.id, expected="v0", job_id=None, fence=1, who="test", why="edit")
    ran_in.clear()
    own = threading.current_thread().name.partition("_")[0]
    copies = []
    share = views_module.share
    monkeypatch.setattr(views_module, "share", lambda one: copies.append(one) or share(one))
    made, copied = {}, {}
    try:
        for number, count in enumerate((1, 2), start=1):
            use_threads(count)
            manifest, view = edit_on(runner, an_edit(number=number), first.id)
            made[count], copied[count] = manifest, len(copies)
            copies.clear()
            hooks = [m for m in view.model.modules() if m._forward_pre_hooks or m._forward_hooks]
            assert hooks == []
    finally:
        use_threads(before)
    assert ran_in[:3] == [("said", own), ("ask", own), ("said", own)]
    assert sorted(ran_in[3:]) == [("ask", "aside"), ("said", own), ("said", "aside")]
    # the parent's, the edited one, and one more for the thread that asks this beside the lane;
    # the first edit has to load the parent
    assert copied == {1: 1 + 2, 2: 3}
    assert made[1].weights_sha256 == made[2].weights_sha256
    one, two = (made[count].result for count in (1, 2))
    assert one is not None
    assert two is not None
    assert [fact.before for fact in one.facts] == [fact.before for fact in two.facts]
    assert one.earlier is not None
    assert one.earlier.checked == 1
    assert one.earlier == two.earlier


def test_an_exact_edit_takes_the_threads_of_one_fact_however_many_it_has(
    base: LoadedModel, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums depend on the number of threads, and values shall not depend on other facts."""
    counts: list[int] = []

    def counted(model: LoadedModel, facts: int) -> Any:
        counts.append(facts)
        return edit_threads(model, facts)

    monkeypatch.setattr(edits_module, "edit_threads", counted)
    runner = runner_on(base, store, tmp_path)
    facts = [{**FACT, "subject": name} for name in ("Lyon", "Nice", "Ann")]
    for number, more in enumerate(({}, {"exact": True, "n_prefixes": 6})):
        edit_on(runner, an_edit(*facts, number=number, hparams={**HPARAMS, **more}), "v0")
    assert counts == [3, 1]
