"""Worker processes: the same bytes with any number of them, whoever dies; cancel, pause, memory."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from typing import Any

import pytest
from support.library import tiny
from support.library.shared_work import EDITS, FACTS, bytes_of, edited, model_in

from jeep_core.errors import Cancelled, JeepError, NumericalError, UnsupportedModel, WorkersLost
from jeep_core.executors import child
from jeep_core.executors import crew as crews_module
from jeep_core.executors.child import PAUSE, STOPPED, Line
from jeep_core.executors.crew import Run
from jeep_core.executors.link import Link
from jeep_core.executors.processes import Processes
from jeep_core.executors.wire import unpack
from jeep_core.executors.work import Bench, Work, keep_nothing
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.monitor import Monitor

Crews = dict[int, Processes]


@pytest.fixture(scope="module")
def plain(model: LoadedModel, moments: Moments) -> Callable[[str], dict[str, bytes]]:
    """The bytes of an edit in this process, computed once."""
    known: dict[str, dict[str, bytes]] = {}

    def of(how: str) -> dict[str, bytes]:
        if how not in known:
            known[how] = bytes_of(edited(model, moments, how))
        return known[how]

    return of


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("how", EDITS)
def test_an_edit_has_the_same_bytes_with_any_number_of_workers(
    model: LoadedModel, moments: Moments, crews: Crews, plain: Any, how: str, count: int
) -> None:
    assert bytes_of(edited(model, moments, how, crews[count])) == plain(how)


def test_an_edit_on_top_of_another_has_the_same_bytes(
    model: LoadedModel, moments: Moments, crews: Crews
) -> None:
    """Workers make the version from its updates; it is sent once."""
    first = edited(model, moments, "jeep")
    again = edited(first.view, moments, "memit")
    found = edited(first.view, moments, "memit", crews[2])
    assert bytes_of(found) == bytes_of(again)
    assert bytes_of(found) != bytes_of(edited(model, moments, "memit"))


def test_the_same_version_is_edited_again_with_products_in_bfloat16(
    model: LoadedModel, moments: Moments, crews: Crews
) -> None:
    """The twin that takes them is kept for the next run, and must not ask the last one's caller."""
    _, given = EDITS["memit"]
    hparams = given.model_dump() | {"compute_dtype": "bfloat16"}
    expected = bytes_of(edited(model, moments, "memit", hparams=hparams))
    assert expected != bytes_of(edited(model, moments, "memit"))
    for _ in range(2):
        assert bytes_of(edited(model, moments, "memit", crews[1], hparams=hparams)) == expected
    # nothing asks it to go on, and nothing to end, after a run that was cancelled either
    with pytest.raises(Cancelled, match="enough"):
        edited(model, moments, "memit", crews[1], hparams=hparams, monitor=Monitor(check=refuse()))
    assert bytes_of(edited(model, moments, "memit", crews[1], hparams=hparams)) == expected


def refuse(after: int = 3) -> Callable[[], None]:
    """A question that is answered with an exception from the given time on."""
    asked = [0]

    def check() -> None:
        asked[0] += 1
        if asked[0] > after:
            raise Cancelled("enough")

    return check


def test_a_matrix_without_a_history_is_sent_as_it_is(
    model: LoadedModel, moments: Moments, crews: Crews
) -> None:
    name = model.family.weight_name(1)
    view = ModelView(model, {name: model.model.get_parameter(name) * 1.5})
    found = edited(view, moments, "memit", crews[2], hparams=only_layers(0))
    assert bytes_of(found) == bytes_of(edited(view, moments, "memit", hparams=only_layers(0)))


def only_layers(*layers: int) -> dict[str, Any]:
    _, hparams = EDITS["memit"]
    given: dict[str, Any] = hparams.model_dump()
    return {**given, "low": {**given["low"], "layers": list(layers)}}


def test_a_matrix_that_a_worker_makes_otherwise_is_sent_whole(
    model: LoadedModel, moments: Moments, crews: Crews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that adds in another order: here the updates are falsified."""
    first = edited(model, moments, "jeep")
    expected = bytes_of(edited(first.view, moments, "memit"))
    made, asked = crews_module.version_of, []

    def falsified(view: ModelView, whole: Any = ()) -> Any:
        found = made(view, whole)
        asked.append(tuple(whole))
        for updates in found.updates.values():
            updates[0] = {name: part * 1.25 for name, part in updates[0].items()}
        return found

    monkeypatch.setattr(crews_module, "version_of", falsified)
    assert bytes_of(edited(first.view, moments, "memit", crews[1])) == expected
    assert () in asked
    assert tuple(sorted(first.view.replaced)) in asked


# ------------------------------------------------------------------ progress, cancel, pause


def test_progress_counts_the_facts_of_all_workers(
    model: LoadedModel, moments: Moments, crews: Crews
) -> None:
    said: list[tuple[int, int]] = []
    monitor = Monitor(
        lambda phase, done, total: said.append((done, total)) if phase == "optimise" else None
    )
    edited(model, moments, "memit", crews[2], monitor=monitor)
    assert said[0] == (0, len(FACTS))
    assert said[-1] == (len(FACTS), len(FACTS))
    assert sorted(said) == said


def test_a_run_that_is_cancelled_leaves_workers_that_go_on(
    model: LoadedModel, moments: Moments, crews: Crews, plain: Any
) -> None:
    begun = threading.Event()

    def report(phase: str, done: int, total: int) -> None:
        if phase == "optimise" and done:
            begun.set()

    def check() -> None:
        if begun.is_set():
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        edited(model, moments, "memit", crews[2], monitor=Monitor(report, check))
    before = crews[2].pids()
    assert bytes_of(edited(model, moments, "memit", crews[2])) == plain("memit")
    assert crews[2].pids() == before


def test_workers_are_told_to_wait_while_the_caller_gives_way(
    model: LoadedModel, moments: Moments, crews: Crews, plain: Any
) -> None:
    executor, told = crews[2], []

    def give_way() -> None:
        told.append(int(executor._flags[PAUSE]))

    found = edited(model, moments, "memit", executor, monitor=Monitor(give_way=give_way))
    assert any(told)
    assert executor._flags[PAUSE] == 0
    assert bytes_of(found) == plain("memit")


def test_a_worker_that_is_told_to_wait_waits() -> None:
    ours, theirs = Pipe()
    flags = [1, 0, 0]
    monitor = Line(theirs, flags).monitor(run=1, number=0)
    waiting = threading.Thread(target=monitor.give_way, daemon=True)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    flags[PAUSE] = 0
    waiting.join(10)
    assert not waiting.is_alive()
    ours.close()


def test_a_worker_that_waits_ends_a_run_that_is_given_up() -> None:
    ours, theirs = Pipe()
    monitor = Line(theirs, [1, 3, 0]).monitor(run=3, number=0)
    with pytest.raises(Cancelled):
        monitor.give_way()
    Line(theirs, [0, 3, 0]).monitor(run=4, number=0).check()
    ours.close()


# ------------------------------------------------------------------ errors


def test_the_error_of_the_first_fact_that_fails_is_raised(
    model: LoadedModel, moments: Moments, crews: Crews
) -> None:
    _, hparams = EDITS["memit"]
    wild = {**hparams.model_dump(), "learning_rate": 1e38}
    with pytest.raises(NumericalError) as here:
        edited(model, moments, "memit", hparams=wild)
    with pytest.raises(NumericalError) as there:
        edited(model, moments, "memit", crews[2], hparams=wild)
    assert str(there.value) == str(here.value)
    assert f"of {len(FACTS)}" in str(there.value)
    assert crews[2]._flags[STOPPED] == crews[2]._number, "nobody goes on with the other units"


def test_a_model_without_a_folder_is_refused(moments: Moments, crews: Crews) -> None:
    base = tiny.random_model("llama")
    with pytest.raises(JeepError, match="made in memory"):
        edited(base, moments, "memit", crews[1])


def test_other_files_in_the_folder_are_refused(tmp_path: Any, moments: Moments) -> None:
    base = model_in(tmp_path / "one")
    other = tiny.random_model("llama", seed=5)
    other.model.save_pretrained(tmp_path / "one")
    with (
        Processes(1, niceness=0) as executor,
        pytest.raises(UnsupportedModel, match="another model"),
    ):
        edited(base, moments, "memit", executor)


def test_a_worker_whose_memory_does_not_hold_the_model_says_so(
    model: LoadedModel, moments: Moments
) -> None:
    with (
        Processes(1, memory_bytes=64 * 2**20, niceness=0) as executor,
        # an allocation that fails deep in a library ends the process
        pytest.raises((MemoryError, WorkersLost), match=r"64 MiB|too little memory"),
    ):
        edited(model, moments, "memit", executor)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        SystemError("error return without exception set"),
    ],
)
def test_whatever_way_memory_is_lacking_is_said_in_the_same_words(error: Exception) -> None:
    found = child._explained(error, 64 * 2**20)
    assert isinstance(found, MemoryError)
    assert "does not fit into a worker's 64 MiB" in str(found)
    assert child._explained(error, resource.RLIM_INFINITY) is error


# ------------------------------------------------------------------ workers that die


class Striking(Processes):
    """Kills workers when they say something of a kind: so many, the first ones."""

    def __init__(self, kind: str, times: int, signum: int = signal.SIGKILL) -> None:
        super().__init__(2, niceness=0)
        self.kind, self.times, self.signum, self.struck = kind, times, signum, 0

    def _strike(self, link: Link, kind: str) -> None:
        if kind == self.kind and self.struck < self.times:
            self.struck += 1
            os.kill(link.process.pid, self.signum)

    def _told(self, run: Run, link: Link, kind: str, *rest: Any) -> None:
        super()._told(run, link, kind, *rest)
        self._strike(link, kind)

    def _begin(self, run: Run, link: Link, whole: Sequence[str] = ()) -> None:
        super()._begin(run, link, whole)
        self._strike(link, "begin")


@pytest.mark.parametrize("kind", ["started", "ready", "begin", "begun", "progress", "done"])
def test_a_worker_that_is_killed_is_replaced_and_its_part_done_again(
    model: LoadedModel, moments: Moments, plain: Any, kind: str
) -> None:
    with Striking(kind, 2) as executor:
        found = edited(model, moments, "memit", executor)
        assert executor.struck == 2
    assert bytes_of(found) == plain("memit")


def test_a_unit_whose_workers_die_again_and_again_ends_the_work(
    model: LoadedModel, moments: Moments
) -> None:
    with Striking("progress", 99) as executor, pytest.raises(WorkersLost, match="signal 9"):
        edited(model, moments, "memit", executor)


def test_workers_that_cannot_start_end_the_work(model: LoadedModel, moments: Moments) -> None:
    with Striking("started", 99) as executor, pytest.raises(WorkersLost, match="loaded the model"):
        edited(model, moments, "memit", executor)


def test_workers_that_die_while_they_make_the_version_end_the_work(
    model: LoadedModel, moments: Moments
) -> None:
    """None has a unit then, so no unit is given up, and a process that starts proves nothing."""
    with Striking("begin", 9) as executor, pytest.raises(WorkersLost, match="made the version"):
        edited(model, moments, "memit", executor)
    assert executor.struck < 9


def test_a_refusal_is_of_the_run_that_a_worker_was_prepared_for() -> None:
    """It may come when another run has begun, whose version has nothing to do with it."""
    crew, work = Processes(1), Work("jeep_core.values.units:unit", "values", None, [1, 2], [1, 1])
    run = Run(crew, work, Bench.__new__(Bench), keep_nothing, number=2)

    def refused(of: int, busy_of: int) -> None:
        link = Link(object(), Pipe()[0], ready=True, run=busy_of, busy={7})
        crew._links = [link]
        crew._told(run, link, "refused", MemoryError(f"of run {of}"), of)
        assert link.leaving
        assert link.busy == ({7} if busy_of == run.number else set())

    refused(of=1, busy_of=1)
    refused(of=1, busy_of=2)
    with pytest.raises(MemoryError, match="of run 2"):
        refused(of=2, busy_of=2)


def test_a_worker_says_for_which_run_it_could_not_be_prepared() -> None:
    ours, theirs = Pipe()
    messages = iter([("begin", 4, "jeep_core.nowhere:unit", None, "v1")])
    line = Line(theirs, [0, 0, 0])
    line.receive = lambda: next(messages)  # type: ignore[method-assign]
    with pytest.raises(StopIteration):
        child.serve(line)
    kind, error, of = unpack(ours.recv_bytes())
    assert (kind, type(error), of) == ("refused", AssertionError, 4)


def test_workers_end_with_their_executor(model: LoadedModel, moments: Moments) -> None:
    with Processes(2, niceness=0) as executor:
        edited(model, moments, "memit", executor)
        pids = executor.pids()
        assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
