"""A driver of two actors, played, and what it says."""

from __future__ import annotations

from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest
from support.played_ray import TERMS, Actors

from jeep_core.executors.ray.driver import Driver


@pytest.fixture
def driver() -> tuple[Driver, Connection]:
    ours, theirs = Pipe()
    found = Driver(Actors(), theirs, [0, 0, 0], TERMS, None)
    found._fill()
    return found, ours
