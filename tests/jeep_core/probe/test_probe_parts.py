"""The parts of the probe on cases small enough to check by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.library import planted, tiny

from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.editors.record import OUTPUT_RMS
from jeep_core.errors import InvalidHParams, JeepError
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.probe.bands import band
from jeep_core.probe.defaults.from_record import check_automatic, hparams_for
from jeep_core.probe.defaults.kept import keep, kept
from jeep_core.probe.defaults.rule import (
    RULE,
    NoProposal,
    carrying_layers,
    high_region,
    low_region,
)
from jeep_core.probe.prompts import first_token, prepare
from jeep_core.probe.readings import read
from jeep_core.probe.run import Related, probe, read_table
from jeep_core.probe.word_sets import NAMES, Documents, FactTable, TableFact, word_sets
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import EditorHParams

# ---------------------------------------------------------------- which facts are probed


def test_facts_that_cannot_be_contrasted_are_left_out_and_counted(gptj: LoadedModel) -> None:
    good = Fact("Paris", "{} is a city in the country of", "Peru", "Norway")
    same = Fact("Paris", "{} is a city in the country of", "Norway", "Norway near the sea")
    long = Fact("Paris", "{} " + "is old and " * 30 + "is in", "Peru", "Norway")
    found = prepare(ModelView(gptj), [good, same, long])
    assert [prompt.fact for prompt in found.prompts] == [good]
    assert found.dropped == {"same_first_token": 1, "too_long": 1}
    tokens = gptj.tokenizer.encode("Paris is a city in the country of Peru").ids
    prompt = found.prompts[0]
    assert tokens[: len(prompt.tokens.ids)] == list(prompt.tokens.ids)
    assert prompt.target == tokens[len(prompt.tokens.ids)]


def test_answers_begin_where_the_fact_s_join_says(gptj: LoadedModel) -> None:
    fact = Fact("Paris", "{} is a city (", "Peru", "Norway")
    for join, first in (("auto", "P"), ("space", " ")):
        [prompt] = prepare(ModelView(gptj), [replace(fact, join=join)]).prompts
        assert gptj.tokenizer.decode([prompt.target])[0] == first
        original = gptj.tokenizer.decode([prompt.original])
        assert original[0] == ("N" if join == "auto" else " ")


def test_without_a_true_answer_the_models_own_is_the_original(gptj: LoadedModel) -> None:
    fact = Fact("Paris", "{} is a city in the country of", "Peru")
    [prompt] = prepare(ModelView(gptj), [fact]).prompts
    with torch.no_grad():
        logits = gptj.model(input_ids=torch.tensor([prompt.tokens.ids])).logits[0, -1]
    assert prompt.assumed
    assert prompt.original == int(logits.argmax())


def test_too_few_prompts_are_an_error_that_says_why(gptj: LoadedModel) -> None:
    same = Fact("Paris", "{} is a city in the country of", "Norway", "Norway near the sea")
    with pytest.raises(JeepError, match=r"0 prompts .*at least 8 .*same_first_token"):
        probe(ModelView(gptj), [same])


# ---------------------------------------------------------------- bands


def test_a_band_holds_the_mean_and_is_narrow_where_prompts_agree() -> None:
    values = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(25, 1)
    found = band(values)
    assert found.mean == [1.0, 0.5]
    assert (found.low[0], found.high[0]) == (1.0, 1.0)
    wide = 1.96 * 0.5 / math.sqrt(100)
    assert found.low[1] == pytest.approx(0.5 - wide, abs=0.02)
    assert found.high[1] == pytest.approx(0.5 + wide, abs=0.02)
    assert band(values) == found


# ---------------------------------------------------------------- the rule


def test_the_low_region_ends_where_the_state_still_decides() -> None:
    assert carrying_layers([0.5, 0.45, 0.4, 0.39, 0.1, 0.0]) == [0, 1, 2]
    with pytest.raises(NoProposal, match=r"0\.50 points at most"):
        carrying_layers([0.005, 0.0, -0.2])


@pytest.mark.parametrize(
    ("last", "n_layers", "parallel", "layers"),
    [
        (8, 28, True, [3, 4, 5, 6, 7, 8]),  # as long as the paper's, GPT-J
        (10, 32, False, [5, 6, 7, 8, 9, 10]),  # LLaMA
        (0, 9, False, [0]),
        (0, 9, True, [1]),  # block 0 sees the token alone
        (1, 9, True, [1]),
        (8, 9, False, [2, 3]),  # a third of the depth
        (22, 30, False, [5, 6, 7, 8, 9, 10]),
        (3, 4, False, [1]),  # room for a high region below the last block
    ],
)
def test_the_low_region_follows_the_state_that_decides(
    last: int, n_layers: int, parallel: bool, layers: list[int]
) -> None:
    assert low_region(last, n_layers, parallel) == layers


def test_a_model_without_room_for_two_regions_gets_none() -> None:
    assert low_region(0, 3, False) == [0]
    with pytest.raises(NoProposal, match="3 layers has no room"):
        low_region(0, 3, True)


def test_the_high_region_is_the_window_with_most_promotion() -> None:
    twelve = [0.9, 0.0, 0.0, 0.1, 0.2, 0.5, 0.1, 0.1, 0.0, -0.1, -0.2, 0.9]
    assert high_region(twelve, 2) == [5]
    assert high_region([0.0] * 12, 4) == [5]  # of equal windows the lowest
    assert high_region([0.0] * 9 + [0.5, 0.1, 0.9], 8) == [9]
    rising = [0.0] * 18 + [0.1, 0.3, 0.3, 0.2, -0.1, -0.1, -0.1, 0.0, 0.0, 0.5]
    assert high_region(rising, 8) == [19, 20]


def test_the_high_region_begins_at_three_quarters_of_the_depth_at_the_latest() -> None:
    assert high_region([0.0] * 24 + [0.9] * 4, 8) == [21, 22]
    assert high_region([0.0] * 21 + [0.1] * 3 + [0.9] * 4, 8) == [21, 22]
    assert high_region([0.0] * 7 + [0.9, 0.9], 2) == [7]
    assert high_region([0.0] * 8 + [0.9], 6) == [7]  # above the low region, below the last block


def test_fine_tuning_takes_its_steps_by_the_size_of_the_weights() -> None:
    record = {
        "rule": RULE,
        "hparams": {
            "learning_rate": 2.0,
            "low": {"layers": [1, 2], "clamp": 1.5, "moment_weight": 30},
            "high": {"layers": [5], "clamp": 1.0, "moment_weight": 30},
        },
        OUTPUT_RMS: [0.3, 0.3, 0.02, 0.3, 0.3, 0.01],
    }
    rates = {"locft": 5e-5, "crispedit": 2e-4}
    for editor, rate in rates.items():
        assert rate_of(hparams_for(record, editor, 9, 64)) == rate
        given = hparams_for(record, editor, 9, 64, {"learning_rate": 0.5})
        assert rate_of(given) == 0.5
    # no step is a share of nothing, and records of earlier probes say nothing of weights
    without = {name: value for name, value in record.items() if name != OUTPUT_RMS}
    for more in ({OUTPUT_RMS: [0.0] * 9}, {}):
        known = [hparams_for({**without, **more}, one, 9, 64) for one in rates]
        assert [rate_of(one) for one in known] == [1e-3, 4e-3]


def rate_of(hparams: EditorHParams) -> float:
    return float(hparams.model_dump()["learning_rate"])


def test_hyper_parameters_follow_from_a_record() -> None:
    record = {
        "rule": RULE,
        "hparams": {
            "learning_rate": 2.0,
            "low": {"layers": [1, 2], "clamp": 1.5, "moment_weight": 30},
            "high": {"layers": [5], "clamp": 1.0, "moment_weight": 30},
        },
    }
    jeep = hparams_for(record, "jeep", 9, 64)
    assert isinstance(jeep, JeepHParams)
    assert (jeep.learning_rate, jeep.low.layers, jeep.high.layers) == (2.0, (1, 2), (5,))
    assert (jeep.optimise, jeep.low.spread, jeep.stop_probability) == ("separately", "linear", 0.95)
    memit = hparams_for(record, "memit", 9, 64)
    assert isinstance(memit, MemitHParams)
    assert (memit.learning_rate, memit.low.layers) == (2.0, (1, 2))
    with pytest.raises(InvalidHParams, match="mend has no automatic"):
        hparams_for(record, "mend", 9, 64)
    with pytest.raises(InvalidHParams, match="decides nothing"):
        hparams_for(
            {**record, "hparams": None, "why_no_proposal": "it decides nothing"}, "jeep", 9, 64
        )
    with pytest.raises(InvalidHParams, match="exclude each other"):
        check_automatic("jeep", "jeep-atlas-gptj")
    check_automatic("pmet")


# ---------------------------------------------------------------- word sets

CORPUS = [
    "name0 lives in home0 and likes the sea",
    "name1 lives in home1",
    "the sea is in the home of name0",
    "nobody lives in here",
]
TABLE = [
    TableFact("name0", "lives", "home0"),
    TableFact("name1", "lives", "home1"),
    TableFact("name2", "works", "home2"),
]


def words_of(names: set[str]) -> set[int]:
    return {planted.WORDS.index(name) for name in names}


def test_every_token_is_in_one_set() -> None:
    view = ModelView(planted.model("llama", 2, 5))
    prompts = prepare(view, planted.facts()[:1]).prompts  # name0 lives in, home0 → home1
    sets = word_sets(view.base.tokenizer, prompts, Documents(CORPUS), FactTable(TABLE))
    original, factual, stop, other = (set(tokens) for tokens in sets.tokens[0])
    assert original == words_of({"home0"})
    assert factual == words_of({"name0", "name1", "home1"})
    assert stop - words_of({"<unk>"}) == words_of({"in", "the", "of", "is"})
    assert other - words_of({"<unk>"}) == words_of({"lives", "home"})
    masks = sets.masks(0, view.base.vocabulary)
    assert masks.shape == (len(NAMES), len(planted.WORDS))
    assert (masks.sum(dim=0) == 1).all()


def test_documents_are_those_that_name_the_subject() -> None:
    documents = Documents(CORPUS)
    assert documents.about("name0", "name0 lives in") == [CORPUS[0], CORPUS[2]]
    assert documents.about("nobody", "the weather") == []
    assert documents.about("name9", "zebra") == []


def test_what_the_table_and_the_corpus_do_not_say_is_counted() -> None:
    view = ModelView(planted.model("llama", 2, 5))
    prompts = prepare(view, planted.facts()[:6]).prompts  # of name0, name1 and name2
    sets = word_sets(view.base.tokenizer, prompts, Documents(CORPUS), FactTable(TABLE[:1]))
    assert sets.without_documents == 2
    assert sets.without_facts == 4


def test_the_mean_probability_of_a_set_is_that_of_its_tokens() -> None:
    view = ModelView(planted.model("llama", 2, 5))
    prompts = prepare(view, planted.facts()).prompts
    sets = word_sets(view.base.tokenizer, prompts, Documents(CORPUS), FactTable(TABLE))
    readings = read(view, prompts, sets)
    assert readings.words is not None
    for i, prompt in enumerate(prompts):
        with torch.no_grad():
            ids = torch.tensor([prompt.tokens.ids])
            chances = view.model(input_ids=ids).logits[0, -1].softmax(0)
        for k, tokens in enumerate(sets.tokens[i]):
            expected = chances[list(tokens)].mean() if tokens else torch.tensor(torch.nan)
            found = float(readings.words[i, k, -1])
            assert found == pytest.approx(float(expected), rel=1e-4, nan_ok=True)


def test_a_word_is_the_token_it_begins_with(base: LoadedModel) -> None:
    fact = Fact("Paris", "{} is a city in the country of", "Peru", "Norway")
    prompts = prepare(ModelView(base), [fact]).prompts
    table = FactTable([TableFact("Paris", "country", "Norway"), TableFact("Paris", "x", "Peru")])
    sets = word_sets(base.tokenizer, prompts, Documents(tiny.TEXTS), table)
    assert first_token(base, fact, "Peru") in sets.tokens[0][1]
    assert sets.tokens[0][0] == {first_token(base, fact, "Norway")}


def test_a_wrong_line_of_a_fact_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text('{"subject": "a", "relation": "b", "object": "c"}\n\n{"subject": 1}\n')
    with pytest.raises(JeepError, match="line 3"):
        read_table(path)
    path.write_text('{"subject": "a", "relation": "b", "object": "c"}\n')
    assert read_table(path) == [TableFact("a", "b", "c")]


# ---------------------------------------------------------------- the record


def test_a_record_is_kept_per_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept(tmp_path, "aa") is None
    keep(tmp_path / "new", {"model_hash": "aa", "seed": 1})
    path = keep(tmp_path / "new", {"model_hash": "aa", "seed": 2})
    assert kept(tmp_path / "new", "aa") == {"model_hash": "aa", "seed": 2}
    assert [path] == list((tmp_path / "new").iterdir())
    path.write_text("{")
    with pytest.raises(JeepError, match="is no probe"):
        kept(tmp_path / "new", "aa")

    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(PermissionError):
        kept(tmp_path / "new", "aa")


def test_the_same_seed_gives_the_same_record() -> None:
    view = ModelView(planted.model("gptj", 2, 5))
    related = Related(CORPUS, TABLE)
    records = [probe(view, planted.facts(), seed=s, related=related).record() for s in (1, 1, 2)]
    assert records[0] == records[1]
    assert records[0] != records[2]
    assert records[0]["word_sets"]["original"]["prompts"] == len(planted.facts())
