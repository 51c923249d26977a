"""The report of an edit about its facts."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from support.library.tiny import bigram_view

from jeep_core.decoding.scoring import goes_on
from jeep_core.edit import EditResult
from jeep_core.errors import Cancelled
from jeep_core.moments.source import imported_path
from jeep_core.spec.facts import Fact
from service.contracts.schemas import WorkerInfo
from service.settings import Settings
from service.store import Store
from service.worker.kinds.edits import answers, fact_outcomes, kept_prefixes
from service.worker.process import has_corpus, say_moments

LONG = "one two three four five six seven eight nine ten eleven twelve"


def chain(text: str) -> dict[str, dict[str, float]]:
    words = text.split()
    return {a: {b: 0.9} for a, b in pairwise(words)}


def test_a_target_longer_than_the_shown_answer_is_written_to_its_end() -> None:
    view = bigram_view(chain(f"Lyon is {LONG}"))
    [answer] = answers(view, [Fact("Lyon", "{} is", LONG)])
    assert answer.writes_new
    assert answer.text.split() == LONG.split()


def test_every_token_of_the_target_must_be_the_most_probable_one() -> None:
    table = chain("Lyon is one two three") | {"two": {"three": 0.4, "four": 0.6}}
    facts = [Fact("Lyon", "{} is", target) for target in ("one two", "one two three")]
    assert [a.writes_new for a in answers(bigram_view(table), facts)] == [True, False]


def test_an_outcome_has_its_fact_s_place_in_the_request() -> None:
    facts = [Fact("Lyon", "{} is", "one"), Fact("Nice", "{} is", "one")]
    said = answers(bigram_view(chain("Lyon is one")), facts)
    values = SimpleNamespace(values=SimpleNamespace(steps=[3, 4], probabilities=[0.5, 0.6]))
    outcomes = fact_outcomes(facts, said, said, cast(EditResult, values), [0, 2])
    assert [(o.index, o.subject, o.steps) for o in outcomes] == [(0, "Lyon", 3), (2, "Nice", 4)]


def test_an_answer_ends_where_the_model_s_positions_end() -> None:
    prompt = "{}" + " is" * 61  # 62 tokens of 64
    view = bigram_view({"Lyon": {"is": 0.9}, "is": {"is": 0.9}})
    [answer] = answers(view, [Fact("Lyon", prompt, "is")])
    assert answer.writes_new
    assert len(answer.text.split()) == 2


def test_answers_do_not_depend_on_what_is_measured_with_them() -> None:
    view = bigram_view(chain(f"Lyon is {LONG}"))
    short, long = Fact("Lyon", "{} is", "one"), Fact("Lyon", "{} is", LONG)
    alone = [answers(view, [fact])[0].text for fact in (short, long)]
    assert [answer.text for answer in answers(view, [short, long])] == alone


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        (" Nigeria is", "Niger", True),
        (" Niger is", "Niger", False),
        (" Niger, in", "Niger", False),
        (" Niger", "Niger", False),
        (" 1914", "19", True),
        (" U.S.A", "U.S.", False),
        (" 東京都", "東京", False),
        (" Mali", "Niger", False),
    ],
)
def test_a_longer_word_is_another_word(text: str, target: str, expected: bool) -> None:
    assert goes_on(text, target) is expected


def test_measuring_can_be_ended_in_between() -> None:
    view, rounds = bigram_view(chain("Lyon is one")), []

    def checkpoint() -> None:
        rounds.append(1)
        if len(rounds) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        answers(view, [Fact("Lyon", "{} is", "one")] * 200, checkpoint)


@pytest.mark.parametrize("left", [b'["", "The', b"", b"\xff"])
def test_damaged_prefixes_are_sampled_again(store: Store, left: bytes) -> None:
    base = bigram_view(chain("The town is there")).base
    whole = kept_prefixes(store, base, 3)
    path = store.base.prefixes_file
    assert kept_prefixes(store, base, 2) == whole[:2]
    path.write_bytes(left)
    assert kept_prefixes(store, base, 3) == whole
    assert json.loads(path.read_text(encoding="utf-8"))["prefixes"] == whole
    assert [entry.name for entry in path.parent.iterdir()] == ["prefixes.json"]


@pytest.mark.parametrize(
    ("model", "corpus", "expected"),
    [("atlas-gptj", None, True), ("/models/mine", None, False), ("/models/mine", "c.txt", True)],
)
def test_a_corpus_is_needed_beside_the_bundled_ones(
    tmp_path: Path, model: str, corpus: str | None, expected: bool
) -> None:
    (tmp_path / "c.txt").write_text("text")
    settings = Settings(corpus=tmp_path / corpus if corpus else None)
    assert has_corpus(model, settings) is expected


@pytest.mark.parametrize(
    ("text", "imported", "said"),
    [
        (True, None, ""),
        (False, None, "until then edits by editors that need them are refused"),
        (False, "wikipedia", "jeep moments import --name wikipedia FILE.npz"),
    ],
)
def test_the_worker_says_which_editors_lack_second_moments(
    store: Store, caplog: pytest.LogCaptureFixture, text: bool, imported: str | None, said: str
) -> None:
    found = WorkerInfo.model_construct(model_hash="1" * 64, corpus=text, moments=imported)
    say_moments(store, found)
    assert said in caplog.text
    assert bool(caplog.text) is bool(said)
    if said:
        assert "jeep, memit, pmet, rome, alphaedit" in caplog.text
    if imported:
        path = imported_path(store.base.moments_folder, imported, "1" * 64, 3)
        path.parent.mkdir(parents=True)
        path.touch()
        caplog.clear()
        say_moments(store, found)
        assert caplog.text == ""
