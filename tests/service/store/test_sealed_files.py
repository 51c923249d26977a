"""Every record carries the hash of its own bytes: a flipped bit is always found."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel
from support.service.builders import add_version, move

from jeep_core.storage.records import sealed, unsealed
from service.store import CorruptFile, StaleFence, Store
from service.store.files import encode, read, replace


class Record(BaseModel):
    text: str
    numbers: dict[str, int]


class Empty(RootModel[dict[str, str]]):
    pass


@given(text=st.text(), numbers=st.dictionaries(st.text(), st.integers()), data=st.data())
def test_a_flipped_bit_is_found(text: str, numbers, data) -> None:
    record = Record(text=text, numbers=numbers)
    whole = encode(record)
    assert Record.model_validate_json(unsealed(whole)) == record
    place = data.draw(st.integers(0, 8 * len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place // 8] ^= 1 << place % 8
    with pytest.raises(ValueError, match="hash"):
        unsealed(bytes(flipped))


def test_a_file_with_another_content_than_was_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    replace(path, encode(Record(text="Peru", numbers={})))
    path.write_bytes(path.read_bytes().replace(b"Peru", b"Cuba"))
    with pytest.raises(CorruptFile, match=r"record\.json is damaged: .* hash"):
        read(path, Record)


def test_records_of_earlier_releases_are_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b'{"text":"Peru","numbers":{}}')
    assert read(path, Record) == Record(text="Peru", numbers={})


def test_an_empty_record_has_a_hash_too() -> None:
    assert unsealed(encode(Empty({}))) == b"{}"
    assert sealed(b"{}").startswith(b'{"sha256')


class TestClaim:
    """A worker that was suspended while another one took over may not know that yet."""

    def test_nothing_of_an_older_worker_becomes_real(self, based: Store) -> None:
        older, newer = Store.open(based.root), Store.open(based.root)
        older.head.claim(1)
        version = add_version(older)
        newer.head.claim(2)
        with pytest.raises(StaleFence):
            move(older, version, expected="v0", fence=1)
        with pytest.raises(StaleFence):
            add_version(older)
        with pytest.raises(StaleFence):
            older.head.check_claim()
        assert len(based.versions.all()) == 2
        assert based.head.read().version == "v0"
        move(newer, version, expected="v0", fence=2)

    def test_a_claim_is_no_move(self, based: Store) -> None:
        before = based.head.reflog()
        based.head.claim(7)
        assert based.head.reflog() == before
        assert (based.head.read().version, based.head.read().fence) == ("v0", 7)
        with pytest.raises(StaleFence):
            Store.open(based.root).head.claim(6)
