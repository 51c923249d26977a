"""Workers of an executor that are killed at random moments; the work must come to the same.

A moment is a message: that a process has started or is ready, that a version was made, that a unit
goes on or is done.  So the kills are those of a seed, as far as workers say the same in each run.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jeep_core.executors.crew import Crew, Run
from jeep_core.executors.here import HERE
from jeep_core.executors.link import Link
from jeep_core.executors.work import Executor
from jeep_core.models.loading import LoadedModel
from jeep_core.moments.cache import Moments
from jeep_core.monitor import NOTHING
from jeep_core.values import units
from support.executors.kinds_of_work import KINDS, cut_into_small_parts
from support.library import shared_work
from support.library.shared_work import bytes_of, edited

Job = Callable[[Executor], Any]
DIVIDED = ("keys", "gradients", "cases", "free answers", "readings")
"""Kinds of work that are killed, beside the optimisation of values."""


class Struck(Crew):
    """A mixin of executors: some process is killed when the message of a number is heard.

    ``victims`` are the processes that may be; ``struck`` says at what each was.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.chance = random.Random()
        self.at: list[int] = []
        self.heard = 0
        self.struck: list[str] = []

    def victims(self) -> Sequence[tuple[str, int]]:
        """Who may be killed now: by what it is, its process id."""
        raise NotImplementedError

    def aim(self, at: list[int]) -> None:
        """Have somebody killed at each of these messages from now on."""
        self.heard, self.at = 0, sorted(at)

    def _told(self, run: Run, link: Link, kind: str, *rest: Any) -> None:
        super()._told(run, link, kind, *rest)
        if kind in ("waits", "warns"):
            return
        self.heard += 1
        if self.at and self.heard >= self.at[0]:
            there = [one for one in self.victims() if is_alive(one[1])]
            if there:  # else at the next message
                who, pid = self.chance.choice(there)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.struck.append(f"{who} at {kind!r}")
                    del self.at[0]


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def jobs(model: LoadedModel, moments: Moments, folder: Path) -> dict[str, Job]:
    """What is done with workers that are killed, by kind of work."""

    def of(kind: str) -> Job:
        return lambda executor: KINDS[kind][0](model, executor, NOTHING, folder)

    found: dict[str, Job] = {
        "values": lambda executor: bytes_of(edited(model, moments, "memit", executor))
    }
    return found | {kind: of(kind) for kind in DIVIDED}


def under_kills(
    executor: Struck, folder: Path, monkeypatch: pytest.MonkeyPatch, kills: int, seed: int
) -> None:
    """Every kind of work of a tiny model in small parts gives what it gives in this process."""
    cut_into_small_parts(monkeypatch)
    monkeypatch.setattr(units, "unit_facts", lambda device: 2)
    model = shared_work.model_in(folder / "tiny")
    all_jobs = jobs(model, shared_work.moments_of(model), folder)
    print(strike_at_random(executor, all_jobs, kills, seed))
    assert len(executor.struck) == kills


def strike_at_random(executor: Struck, all_jobs: dict[str, Job], kills: int, seed: int) -> str:
    """Kill so many, one or two in a job; each must give what it gives in this process.

    Returns a line that says what was struck.
    """
    chance = executor.chance = random.Random(seed)
    expected = {kind: job(HERE) for kind, job in all_jobs.items()}
    heard, counts = dict[str, int](), Counter[str]()
    for kind, job in all_jobs.items():  # without kills
        executor.aim([])
        assert job(executor) == expected[kind], kind
        heard[kind] = executor.heard
    kinds = list(all_jobs)
    for number in range(4 * kills):
        left = kills - len(executor.struck)
        if not left:
            break
        kind, before = kinds[number % len(kinds)], len(executor.struck)
        together = min(left, chance.choice((1, 2)))
        executor.aim([chance.randint(1, heard[kind]) for _ in range(together)])
        assert all_jobs[kind](executor) == expected[kind], (kind, executor.struck[before:])
        counts[kind] += len(executor.struck) - before
    at = Counter(executor.struck)
    return (
        f"seed {seed}: {len(executor.struck)} kills; of "
        f"{', '.join(f'{kind} {count}' for kind, count in counts.items())}; "
        f"{', '.join(f'{what}: {count}' for what, count in sorted(at.items()))}"
    )
