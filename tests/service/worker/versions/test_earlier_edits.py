"""Keys and states of earlier edits: only what is asked for is read; it is what all would give."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from support.service.builders import add_version, move
from support.service.trees import batch

from jeep_core.spec.facts import Fact
from service.contracts.schemas import Manifest, TensorRef
from service.store import Store
from service.store.index.line import Line
from service.worker.versions import tensors
from service.worker.versions.earlier_edits import KeysOfLine, LiveKeys, States
from service.worker.versions.views import fact_of

CONTEXTS = 2


class Counted(tensors.TensorCache):
    """A cache that notes what is asked of it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.asked: list[str] = []

    def get(self, ref: TensorRef) -> torch.Tensor:
        self.asked.append(ref.name)
        return super().get(ref)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A tree whose versions have keys of one or two layers, a state, or neither."""
    store = Store.open(tmp_path_factory.mktemp("tree") / "store")
    store.create_base("weights")
    rng, numbers = random.Random(1), torch.Generator().manual_seed(0)
    for number in range(24):
        facts = batch(rng)
        head = store.head.read().version
        named: dict[str, torch.Tensor] = {}
        if rng.random() < 0.7:
            for layer in rng.sample([1, 2], rng.randint(1, 2)):
                keys = torch.randn(CONTEXTS * len(facts), 3, generator=numbers)
                named[f"keys.low.{layer}"] = keys
        if rng.random() < 0.5:
            named["state.count.1"] = torch.tensor([number])
        parent = head if rng.random() < 0.8 else f"v{rng.choice(sorted(store.versions.numbers()))}"
        version = add_version(
            store, parent, editor=rng.choice(["jeep", "ultraedit"]), facts=facts,
            artifacts=[tensors.put(store, name, one) for name, one in named.items()],
        )  # fmt: skip
        move(store, version, expected=head)
    return store


def plainly(
    store: Store, line: Sequence[Manifest], edited: Sequence[Fact]
) -> dict[tuple[str, int], torch.Tensor]:
    taken = {fact.key for fact in edited}
    found: dict[tuple[str, int], list[torch.Tensor]] = defaultdict(list)
    for manifest in reversed(line):  # what a later batch edits again has no key
        facts = [fact_of(record) for record in manifest.facts]
        rows = [i for i, fact in enumerate(facts) if fact.key not in taken]
        taken |= {fact.key for fact in facts}
        for ref in manifest.artifacts:
            kind, _, place = ref.name.partition(".")
            if kind == "keys" and rows:
                region, _, layer = place.rpartition(".")
                keys = tensors.get(store, ref)
                by_context = keys.view(-1, len(facts), keys.shape[1])
                found[region, int(layer)].insert(0, by_context[:, rows].flatten(0, 1))
    return {where: torch.cat(keys) for where, keys in found.items()}


def test_live_keys_are_those_of_a_plain_reading(store: Store) -> None:
    """Also where lines change from one branch to another, as after a rollback."""
    batches, rng = KeysOfLine(), random.Random(2)
    for _ in range(60):
        line = Line(store, f"v{rng.choice(sorted(store.versions.numbers()))}")
        edited = [fact_of(record) for record in batch(rng)]
        found = LiveKeys(batches, tensors.TensorCache(store), line, edited)
        wanted = plainly(store, list(line), edited)
        assert list(found) == list(wanted)
        for place, keys in wanted.items():
            assert torch.equal(found[place], keys)
        assert found.get(("high", 9)) is None


def test_keys_are_read_when_they_are_asked_for(store: Store, tmp_path: Path) -> None:
    cache = Counted(store)
    line = Line(store, store.head.read().version)
    found = LiveKeys(KeysOfLine(), cache, line, [])
    assert cache.asked == []
    assert len(found[("low", 1)])
    assert set(cache.asked) == {"keys.low.1"}


def test_only_new_versions_of_a_line_are_read(store: Store) -> None:
    batches, head = KeysOfLine(), store.head.read().version
    batches.of(Line(store, head))
    parent = str(store.versions.read(head).parent)
    draft = store.versions.read(head).model_copy(update={"id": "v99", "parent": parent})
    line = Line(store, parent, [draft])
    found = [one.version for one in batches.of(line)]
    assert found == [manifest.id for manifest in line]
    read: list[str] = []

    class Noted(Line):
        def __reversed__(self):  # type: ignore[no-untyped-def]
            for manifest in super().__reversed__():
                read.append(manifest.id)
                yield manifest

    batches.of(Noted(store, parent, [draft]))
    assert read == ["v99"]


def test_states_come_in_order_and_the_newest_is_read_alone(store: Store) -> None:
    line = Line(store, store.head.read().version)
    wanted = [
        int(tensors.get(store, ref))
        for manifest in line
        if manifest.editor == "ultraedit"
        for ref in manifest.artifacts
        if ref.name.startswith("state.")
    ]
    assert len(wanted) > 1
    cache = Counted(store)
    states = States(cache, line, "ultraedit")
    assert cache.asked == []
    assert int(next(reversed(states))["count.1"]) == wanted[-1]
    assert int(states[-1]["count.1"]) == wanted[-1]
    assert cache.asked == ["state.count.1"]
    assert [int(state["count.1"]) for state in states] == wanted
    assert len(states) == len(wanted)
    assert len(cache.asked) == len(wanted), "no state is read twice"
    assert not States(cache, Line(store, "v0"), "ultraedit")
