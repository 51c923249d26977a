"""HTTP to a target: where it goes, what it shows of a key, what it believes."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from support.service.outward.played_targets import PlayedVllm

from service.contracts.schemas.targets import NewTarget, TargetKind, TargetRecord
from service.ops.addresses import Allowed
from service.store import Store
from service.worker.outgoing.exchange import MOST_BYTES
from service.worker.outgoing.foreign_text import Blank, shortened
from service.worker.targets.connection import Connection, TargetFailed

KEY = "sk-what-nobody-may-read"
MakeRecord = Callable[..., TargetRecord]


@pytest.fixture
def record(store: Store, vllm: PlayedVllm) -> MakeRecord:
    def make(**more: str) -> TargetRecord:
        given = {"name": "smol", "kind": TargetKind.VLLM, "address": vllm.url, **more}
        return store.targets.add(NewTarget.model_validate(given), 16)

    return make


def connect(
    record: TargetRecord,
    secrets: Path | None = None,
    timeout: float = 5.0,
    allow: str = "127.0.0.1",
) -> Connection:
    return Connection(record, Allowed(allow), secrets, timeout)


def failure(call: Callable[[], object]) -> TargetFailed:
    with pytest.raises(TargetFailed) as caught:
        call()
    assert KEY not in str(caught.value)
    return caught.value


def test_the_key_comes_from_its_file_each_time(
    record: MakeRecord, vllm: PlayedVllm, tmp_path: Path
) -> None:
    file = tmp_path / "vllm-key"
    file.write_text(f"{KEY}\n")
    vllm.key = KEY
    connection = connect(record(secret="vllm-key"), tmp_path)
    assert connection.get("/v1/models").good
    assert vllm.asked[-1][3]["Authorization"] == f"Bearer {KEY}"
    file.write_text("another")
    refused = failure(lambda: connection.get("/v1/models").json())
    assert (refused.code, refused.lasting) == ("key_refused", True)


def test_a_key_that_the_server_repeats_is_blanked(
    record: MakeRecord, vllm: PlayedVllm, tmp_path: Path
) -> None:
    (tmp_path / "k").write_text(KEY)
    vllm.broken = (500, {"error": {"message": f"internal: Bearer {KEY} is odd"}})
    answer = connect(record(secret="k"), tmp_path).post("/v1/load_lora_adapter", {})
    assert KEY not in answer.text
    assert "Bearer … is odd" in str(failure(lambda: answer.json()))


def spelt(text: str) -> str:
    """Each character by its number."""
    return "".join(f"\\u{ord(one):04x}" for one in text)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda key: key,
    "as JSON": lambda key: json.dumps(key)[1:-1],
    "as JSON with all slashes escaped": lambda key: json.dumps(key)[1:-1].replace("/", "\\/"),
    "as JSON in JSON": lambda key: json.dumps(json.dumps(key))[3:-3],
    "by numbers": spelt,
    "by numbers in JSON": lambda key: json.dumps(spelt(key))[1:-1],
    "in an address": lambda key: quote(key, safe=""),
    "in HTML": html.escape,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("key", ['abc/d"ef-key', "a\\b\\\\/c", "us00 x"])
def test_a_key_is_blanked_however_it_is_spelt(key: str, spelling: str) -> None:
    text = f"<{SPELLINGS[spelling](key)}>"
    assert Blank(key)(text) == "<…>"
    assert Blank("another" + key)(text) == text


def test_a_text_of_nothing_but_backslashes_takes_no_time() -> None:
    began = time.monotonic()
    for key in ("a\\\\b", "\\\\\\\\a", "ab"):
        assert Blank(key)("\\" * 200_000).count("\\") > 100_000
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("spelling", ["as JSON", "by numbers", "as JSON in JSON"])
def test_a_key_is_blanked_in_what_is_decoded(
    spelling: str, status: int, record: MakeRecord, vllm: PlayedVllm, tmp_path: Path
) -> None:
    key = 'abc/d"ef-key'
    (tmp_path / "k").write_text(key)
    inner = SPELLINGS[spelling](key)
    vllm.broken = (status, f'{{"error": {{"message": "Bearer {inner}", "{inner}": ["{inner}"]}}}}')
    answer = connect(record(secret="k"), tmp_path).post("/v1/load_lora_adapter", {})
    shown = [answer.text, answer.message, str(answer.refusal()), str(answer.strange())]
    if status == 200:
        shown.append(json.dumps(answer.json()))
    assert answer.message == "Bearer …"
    for text in shown:
        assert "…" in text or "\\u2026" in text
        assert "ef-key" not in text
        assert spelt("ef-key") not in text


def test_what_cannot_be_written_is_cleaned_or_no_answer(
    record: MakeRecord, vllm: PlayedVllm
) -> None:
    connection = connect(record())
    vllm.broken = (500, r'{"message": "half \ud800 of a \u202e pair"}')
    assert connection.get("/").message == "half \ufffd of a pair"
    vllm.broken = (200, r'{"data": [{"id": "\ud800"}]}')
    assert failure(lambda: connection.get("/").json()).code == "bad_answer"


@pytest.mark.parametrize("text", ["[" * 200_000, "[" * 200 + "]" * 200, "1" * 5000])
def test_nonsense_is_no_answer(text: str, record: MakeRecord, vllm: PlayedVllm) -> None:
    connection = connect(record())
    vllm.broken = (200, text)
    assert failure(lambda: connection.get("/").json()).code == "bad_answer"
    vllm.broken = (500, text)
    refusal = failure(lambda: connection.get("/").json())
    assert (refusal.code, len(str(refusal)) < 600) == ("refused", True)


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_server_that_sends_a_byte_now_and_then_is_slow(
    part: str, record: MakeRecord, vllm: PlayedVllm
) -> None:
    vllm.drips = part
    began = time.monotonic()
    slow = failure(lambda: connect(record(), timeout=0.6).post("/v1/completions", {}))
    assert slow.code == "slow"
    assert 0.5 < time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), ("", "holds no key"), ("a\nb", "holds no key")]
)
def test_a_key_that_is_none_is_said(
    content: str | None, said: str, record: MakeRecord, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "k").write_text(content)
    found = failure(lambda: connect(record(secret="k"), tmp_path).get("/"))
    assert found.code == "no_secret"
    assert said in str(found)


def test_a_key_outside_the_folder_is_not_read(record: MakeRecord, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (tmp_path / "outside").write_text(KEY)
    (folder / "link").symlink_to(tmp_path / "outside")
    found = failure(lambda: connect(record(secret="link"), folder).get("/"))
    assert found.code == "no_secret"
    assert "a link out of that folder" in str(found)


def test_without_a_folder_of_keys_nothing_is_sent(record: MakeRecord, vllm: PlayedVllm) -> None:
    found = failure(lambda: connect(record(secret="k")).get("/"))
    assert found.code == "no_secret"
    assert "JEEP_TARGETS_SECRETS" in str(found)
    assert vllm.asked == []


def test_a_redirect_is_not_followed(record: MakeRecord, vllm: PlayedVllm) -> None:
    vllm.moved = "http://127.0.0.1:1"
    found = failure(lambda: connect(record()).get("/v1/models"))
    assert (found.code, found.lasting, len(vllm.asked)) == ("redirected", True, 1)


def test_an_address_that_is_no_longer_allowed_is_not_spoken_to(
    record: MakeRecord, vllm: PlayedVllm
) -> None:
    found = failure(lambda: connect(record(), allow="10.0.0.0/8").get("/v1/models"))
    assert (found.code, vllm.asked) == ("address_refused", [])


def test_a_proxy_of_the_environment_is_not_used(
    record: MakeRecord, vllm: PlayedVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert connect(record()).get("/v1/models").good


def test_a_server_that_is_away_or_slow_is_said(record: MakeRecord, vllm: PlayedVllm) -> None:
    connection = connect(record(), timeout=0.3)
    vllm.delay_s = 1.0
    slow = failure(lambda: connection.post("/v1/load_lora_adapter", {}))
    assert slow.code == "slow"
    assert "within 0 s" not in str(slow)
    vllm.stop()
    away = failure(lambda: connection.get("/v1/models"))
    assert (away.code, away.lasting) == ("away", False)


def test_an_answer_without_end_is_cut_off(record: MakeRecord, vllm: PlayedVllm) -> None:
    vllm.broken = (200, "x" * (MOST_BYTES + 1))
    assert failure(lambda: connect(record()).get("/v1/models")).code == "bad_answer"


def test_messages_of_others_are_one_short_line() -> None:
    assert shortened("a\x1b[31m\n\tb\x00") == "a [31m b"
    assert shortened("x" * 1000) == "x" * 399 + "…"
