"""The gate between the lanes, with a simulated clock: nothing here depends on real time."""

from __future__ import annotations

import threading

import pytest

from service.worker.gate import LOOK_S, Gate


class World:
    """A clock that advances by working and by waiting."""

    def __init__(self, share: float, ends_after: float = float("inf")) -> None:
        self.now, self.worked, self.waited = 0.0, 0.0, 0.0
        self._ends_after = ends_after
        self.gate = Gate(share, slice_s=0.01, wait=self._wait, clock=lambda: self.now)

    def _wait(self, seconds: float) -> None:
        self.now += seconds
        self.waited += seconds
        if self.now >= self._ends_after:
            self.gate.idle()

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.worked += seconds


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("piece", [0.0005, 0.004, 0.03, 0.5])
def test_editing_keeps_its_share_under_permanent_load(share: float, piece: float) -> None:
    world = World(share)
    world.gate.busy()
    while world.worked < 10:
        world.gate.pause()
        world.work(piece)
    reached = world.worked / world.now
    assert reached >= share * 0.99
    assert reached <= share + (1 - share) * max(piece, 0.01) / 0.04, "decoding has the rest"


def test_editing_waits_at_its_first_pause_after_something_came() -> None:
    world = World(0.2)
    world.gate.pause()
    world.work(0.001)
    assert world.waited == 0
    world.gate.busy()
    world.gate.pause()
    assert world.waited == pytest.approx(0.04)


def test_without_load_editing_never_waits() -> None:
    world = World(0.1)
    for _ in range(1000):
        world.gate.pause()
        world.work(0.05)
    assert world.waited == 0


def test_after_the_load_editing_never_waits() -> None:
    world = World(0.1, ends_after=1.0)
    world.gate.busy()
    for _ in range(100):
        world.gate.pause()
        world.work(0.05)
    assert world.waited < 1.5
    waited = world.waited
    world.gate.pause()
    assert world.waited == waited


def test_reading_keeps_a_share_of_its_own() -> None:
    waits: list[float] = []
    gate = Gate(0.5, slice_s=0.01, wait=waits.append, clock=lambda: 0.0, read_share=0.2)
    gate.busy()
    gate.pause()
    gate.pause_reading()
    assert waits == pytest.approx([0.01, 0.04])


def test_reading_waits_for_the_end_of_an_edit() -> None:
    gate, looked, told = Gate(1.0), threading.Event(), []

    def read() -> None:
        gate.wait_for_edit(looked.set)
        told.append("read")

    with gate.writing():
        reader = threading.Thread(target=read)
        reader.start()
        assert looked.wait(10)
        told.append("edited")
    reader.join(timeout=10)
    assert told == ["edited", "read"]


def test_a_check_may_end_the_wait_for_an_edit() -> None:
    def cancelled() -> None:
        raise KeyError

    gate = Gate(1.0)
    with gate.writing(), pytest.raises(KeyError):
        gate.wait_for_edit(cancelled)


def test_the_end_of_decoding_ends_a_wait() -> None:
    gate = Gate(0.000001)
    gate.busy()
    paused = threading.Thread(target=gate.pause)
    paused.start()
    assert gate.contended
    gate.idle()
    paused.join(timeout=10)
    assert not paused.is_alive()


def test_a_long_wait_for_decoding_can_be_ended() -> None:
    """A matrix that took seconds is followed by minutes of decoding."""
    for name in ("pause", "pause_reading"):
        world, looks = World(0.05), list[float]()
        pause = getattr(world.gate, name)

        def look(world: World = world, looks: list[float] = looks) -> None:
            looks.append(world.now)
            if len(looks) == 3:
                raise KeyError

        world.gate.busy()
        pause(look)
        world.work(5.0)
        with pytest.raises(KeyError):
            pause(look)
        assert looks[-1] - looks[0] == pytest.approx(2 * LOOK_S)


def test_the_end_of_decoding_ends_a_long_wait() -> None:
    world = World(0.05, ends_after=6.0)
    world.gate.busy()
    world.gate.pause()
    world.work(5.0)
    world.gate.pause()
    assert world.now <= 6.0 + LOOK_S


def test_a_short_gap_in_decoding_ends_a_wait_though_it_is_over_again() -> None:
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return True  # it was idle, and is not any more

    gate = Gate(0.001, slice_s=1.0, wait=wait, clock=lambda: 0.0)
    gate.busy()
    gate.pause()
    assert len(waits) == 1


def test_a_job_that_ends_while_it_waits_leaves_nothing_to_the_next_one() -> None:
    world = World(0.5)
    world.gate.busy()
    world.gate.pause()
    world.work(100)

    def end() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        world.gate.pause(end)
    world.now += 1000
    before = world.waited
    world.gate.pause()
    assert world.waited - before == pytest.approx(0.01)
