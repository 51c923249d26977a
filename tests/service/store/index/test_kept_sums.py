"""Files of running sums are kept as long as a state that goes on with them needs them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from support.service.builders import add_version

from service.store import Store
from service.store.index.sums import KEPT, Running, Summed, Sums


def a_state(sums: Sums, version: str) -> Running:
    """A state with a sum of its own."""
    total = sums.put("matrix", [2], version.encode().ljust(16))
    return Running(
        version=version, weights_sha256=version, matrices={"matrix": Summed(total=total)}
    )


def test_sums_that_are_carried_over_are_kept_until_their_state_is_saved(based: Store) -> None:
    """Another thread saves its states meanwhile, and the one before is not among the kept."""
    sums, tip = based.sums, add_version(based, "v0")
    before = a_state(sums, "v7")
    sums.save(before)
    with sums.adding(before), ThreadPoolExecutor(1) as threads:
        for number in range(KEPT + 1):
            threads.submit(sums.save, a_state(sums, f"v{10 + number}")).result()
        after = Running(version=tip, weights_sha256=tip, matrices=before.matrices)
        sums.save(after)
    assert Sums(based.root).find(based.versions.read(tip)) == after


def test_a_remembered_state_whose_sum_was_removed_is_forgotten(based: Store) -> None:
    sums, tip = based.sums, add_version(based, "v0")
    state = a_state(sums, tip)
    sums.remember(state)
    assert sums.find(based.versions.read(tip)) == state
    assert sums.tidy() == 1
    assert sums.find(based.versions.read(tip)) is None
