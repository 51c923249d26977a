"""A file asked in llama.cpp's server, and the sheet of its answers beside the version's."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.library import played_llama
from support.library.exported import loaded

from jeep_core.errors import Cancelled, MissingProgram, NotExportable
from jeep_core.exports.gguf.proof import (
    Asked,
    Compared,
    ProofSheet,
    Question,
    compared,
    prove_file,
    questions_of,
    replies_of,
)
from jeep_core.exports.gguf.server import LlamaServer, Reply
from jeep_core.exports.gguf.tools import LlamaCpp
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor, stop_if
from jeep_core.spec.facts import Fact
from jeep_core.text.encoding import encode
from jeep_core.text.joining import joined

FACT = Fact(
    "Lyon",
    "{} is a city in",
    "Japan",
    paraphrase_prompts=("Where is Lyon? In",),
    neighborhood_prompts=("Paris is a city in",),
)
IDS = (5, 6, 7)


def server(folder: Path, monitor: Monitor | None = None) -> LlamaServer:
    tools = LlamaCpp.find(folder)
    return LlamaServer(tools, folder / "model.gguf", folder / "log", 99, 3, monitor or Monitor())


def test_tokens_are_asked_as_they_are_and_greedily(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a proxy of the environment must not hear of it
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("JEEP_REDIS_PASSWORD", "secret")
    played_llama.server(tmp_path, {IDS: ((8, 9, 10), "a b c")}, {"x": IDS}, loading=3)
    with server(tmp_path) as running:
        assert running.answer(IDS, 2) == Reply((8, 9), "a b c")
        assert running.tokens("x") == list(IDS)
        process = running._process
    assert process is not None
    assert process.poll() is not None
    [(_, body), (_, text)] = played_llama.asked(tmp_path)
    assert (body["prompt"], body["temperature"], body["n_predict"]) == (list(IDS), 0, 2)
    assert not body["cache_prompt"]
    assert text == {"content": "x", "add_special": True, "parse_special": True}
    command = (tmp_path / "build" / "bin" / "server.json").read_text()
    assert '"--host", "127.0.0.1"' in command
    assert '"--ctx-size", "99"' in command
    assert '"--threads", "3"' in command
    # nobody else on the machine can ask, and no setting of the service is handed on
    seen = json.loads((tmp_path / "build" / "bin" / "environment.json").read_text())
    assert len(seen["key"]) == 32
    assert seen["key"] not in command
    assert seen["bearers"] == [f"Bearer {seen['key']}"]
    assert seen["settings"] == []


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"dies": "unknown architecture"}, "ended with 1 on model.gguf: error loading model: unkn"),
        ({"fails": "slot lost"}, "answered /completion with 500: .*slot lost"),
    ],
)
def test_a_server_that_fails_is_an_error_with_its_words(
    how: dict[str, str], said: str, tmp_path: Path
) -> None:
    played_llama.server(tmp_path, {}, **how)
    with pytest.raises(NotExportable, match=said), server(tmp_path) as running:
        running.answer(IDS, 2)


def test_a_server_that_never_loads_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jeep_core.exports.gguf.server.START_S", 3.0)
    played_llama.server(tmp_path, {}, loading=10**6)
    waiting = server(tmp_path)
    with pytest.raises(NotExportable, match=r"has not loaded model.gguf in 3 s"), waiting:
        pass
    assert waiting._process is None


def test_cancelling_ends_the_server(tmp_path: Path) -> None:
    played_llama.server(tmp_path, {}, loading=10**6)
    asked: list[float] = []
    cancel = Monitor(check=stop_if(lambda: len(asked) > 3 or bool(asked.append(time.time()))))
    waiting = server(tmp_path, cancel)
    with pytest.raises(Cancelled), waiting:
        pass
    assert waiting._process is None


def test_cancelling_ends_a_program_that_runs(tmp_path: Path) -> None:
    text = "import os, pathlib, time\npathlib.Path(__file__).with_name('pid').write_text("
    played_llama.program(tmp_path, "llama-quantize", f"{text}str(os.getpid()))\ntime.sleep(600)\n")
    pid = tmp_path / "pid"
    cancel = Monitor(check=stop_if(lambda: pid.exists() and bool(pid.read_text())))
    with pytest.raises(Cancelled):
        LlamaCpp.find(tmp_path).run("llama-quantize", [], tmp_path / "log", cancel)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_programs_that_are_none_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert LlamaCpp.find(tmp_path) == LlamaCpp()
    assert LlamaCpp.find() == LlamaCpp()
    (tmp_path / "llama-server").write_text("no program")
    found = LlamaCpp.find(tmp_path)
    assert found.server == tmp_path / "llama-server"
    with pytest.raises(MissingProgram, match="cannot be started"):
        found.run("llama-server", [], tmp_path / "log")
    with pytest.raises(MissingProgram, match="JEEP_LLAMA_CPP"):
        found.run("llama-quantize", [], tmp_path / "log")


def test_a_program_on_the_search_path_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = played_llama.program(tmp_path, "llama-quantize", "print('x')\nraise SystemExit(3)\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tools = LlamaCpp.find()
    assert tools.quantizer == path
    with pytest.raises(NotExportable, match=r"llama-quantize of llama\.cpp ended with 3: x"):
        tools.run("llama-quantize", [], tmp_path / "log")


def test_a_program_that_fails_on_a_full_disk_is_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played_llama.program(tmp_path, "llama-quantize", "print('failed')\nraise SystemExit(1)\n")
    full = SimpleNamespace(total=2**30, used=2**30, free=4096)
    monkeypatch.setattr("jeep_core.exports.gguf.tools.shutil.disk_usage", lambda _: full)
    with pytest.raises(OSError, match="No space left") as caught:
        LlamaCpp.find(tmp_path).run("llama-quantize", [], tmp_path / "log")
    assert caught.value.errno == errno.ENOSPC


def compare(
    fact: int, asks: Asked, version: tuple[int, ...], file: tuple[int, ...], text: str = " Japan"
) -> Compared:
    question = Question(fact, asks, "Lyon is in", IDS, "Japan", (1, 2))
    return Compared(question, Reply(version, " Japan"), Reply(file, text))


def test_a_fact_holds_where_all_ways_of_asking_it_do() -> None:
    right, wrong = (1, 2, 9), (1, 3, 9)
    sheet = ProofSheet(
        [
            compare(0, Asked.PROMPT, right, right), compare(0, Asked.CHAT, right, wrong),
            compare(1, Asked.PROMPT, right, right), compare(1, Asked.CHAT, right, right),
            compare(2, Asked.PROMPT, wrong, right), compare(2, Asked.CHAT, right, right),
            compare(3, Asked.PROMPT, right, right, " Japanese"),
            compare(3, Asked.PARAPHRASE, right, wrong),
            compare(0, Asked.NEIGHBOR, wrong, wrong), compare(1, Asked.NEIGHBOR, wrong, right),
        ]
    )  # fmt: skip
    facts = sheet.facts
    assert (facts.asked, facts.version, facts.file, facts.survived) == (4, 3, 2, 1)
    assert facts.share == pytest.approx(1 / 3)
    assert sheet.lost == [0, 3]
    assert sheet.held(Asked.CHAT).survived == 2
    assert (sheet.held(Asked.PARAPHRASE).share, sheet.held(Asked.PROMPT).share) == (0, 2 / 3)
    assert sheet.neighbors_same == (1, 2)
    assert ProofSheet([]).facts.share is None


def test_questions_have_the_tokens_of_prompts_and_answers(tmp_path: Path) -> None:
    base = loaded(tmp_path, "llama")
    prompt, paraphrase, neighbor = questions_of(base.tokenizer, [FACT], "plain", None, first=4)
    assert {q.fact for q in (prompt, paraphrase, neighbor)} == {4}
    assert [q.asks for q in (prompt, paraphrase, neighbor)] == [
        Asked.PROMPT, Asked.PARAPHRASE, Asked.NEIGHBOR,
    ]  # fmt: skip
    whole = encode(base.tokenizer, joined(FACT.text, "Japan")).ids
    assert list(prompt.ids + prompt.target) == whole
    assert prompt.target
    assert paraphrase.text == "Where is Lyon? In"
    assert neighbor.target == ()
    assert prompt.length == max(10, len(prompt.target) + 1)
    assert neighbor.length == 5


def test_a_version_and_its_file_are_asked_the_same(tmp_path: Path) -> None:
    base = loaded(tmp_path / "model", "llama")
    view = ModelView(base)
    questions = questions_of(base.tokenizer, [FACT], "plain", None)
    own = replies_of(view, questions)
    assert [len(reply.ids) for reply in own] == [q.length for q in questions]
    answers = {q.ids: (reply.ids, reply.text) for q, reply in zip(questions, own, strict=True)}
    tokens = {q.text: q.ids for q in questions}
    tokens[FACT.text] = (3, *questions[0].ids)  # as with a second BOS
    played_llama.server(tmp_path, answers, tokens)
    told: list[str] = []
    monitor = Monitor(report=lambda phase, done, total: told.append(f"{phase} {done}/{total}"))
    sheet = prove_file(view, questions, server(tmp_path), monitor)
    assert all(one.same for one in sheet.compared)
    assert sheet.neighbors_same == (1, 1)
    assert [one.other_tokens for one in sheet.compared] == [True, False, False]
    assert sheet.other_tokens == 1
    assert told[-1] == "ask 3/3"
    # an answer that differs in its last token
    answers[questions[2].ids] = ((*own[2].ids[:-1], own[2].ids[-1] + 1), "?")
    played_llama.server(tmp_path, answers, tokens)
    with server(tmp_path) as running:
        other = compared(questions, own, running)
    assert [one.same for one in other.compared] == [True, True, False]
