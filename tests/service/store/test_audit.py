"""The audit log on disk: appended, durable, read from its end, even after a crash."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.contracts.jobs import now
from service.contracts.schemas.access import AuditEntry
from service.store import Store


def entry(target: str) -> AuditEntry:
    return AuditEntry(when=now(), who="key_1", action="submit_edit", target=target, status=202)


def targets(store: Store, before: int | None = None) -> list[str]:
    return [one.target for _, one in store.audit.entries(before)]


def test_lines_come_back_newest_first(store: Store) -> None:
    assert targets(store) == []
    for number in range(5):
        store.audit.append(entry(str(number)))
    assert targets(store) == ["4", "3", "2", "1", "0"]
    places = [place for place, _ in store.audit.entries()]
    assert targets(store, before=places[1]) == ["2", "1", "0"]
    assert targets(store, before=0) == []
    assert targets(store, before=10**9) == ["4", "3", "2", "1", "0"]


@pytest.mark.parametrize("block", [1, 7, 300])
def test_reading_backwards_does_not_depend_on_the_block(
    store: Store, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("service.store.audit._BLOCK", block)
    wanted = [str(n) * (n * 30) + "é" for n in range(1, 9)]
    for target in wanted:
        store.audit.append(entry(target))
    assert targets(store) == wanted[::-1]
    for place, one in store.audit.entries():
        assert targets(store, before=place) == wanted[: wanted.index(one.target)][::-1]


def test_a_line_that_a_crash_cut_off_costs_no_other(store: Store) -> None:
    store.audit.append(entry("a"))
    with (store.root / "audit.jsonl").open("ab") as file:
        file.write(b'{"when": "2026')
    store.audit.append(entry("b"))
    assert targets(store) == ["b", "a"]


def test_what_looks_like_a_new_line_in_a_target_makes_none(store: Store) -> None:
    store.audit.append(entry('x\n{"who": "root"}\u2028\r\0'))
    assert targets(store) == ['x\n{"who": "root"}\u2028\r\0']
    assert (store.root / "audit.jsonl").read_bytes().count(b"\n") == 1


def test_lines_of_simultaneous_writers_stay_whole(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: Store.open(store.root).audit.append(entry(str(n))), range(100)))
    assert sorted(map(int, targets(store))) == list(range(100))
