"""The bundled world: what it holds, and that its splits do not leak."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from jeep_core import atlas
from jeep_core.atlas.corpus import AtlasFact, load_facts
from jeep_core.atlas.relations import FILLERS, RELATIONS, WORDS
from jeep_core.models.loading import texts_of
from jeep_core.spec.facts import Fact, deduplicate
from jeep_core.spec.positions import check_facts, tokenize_prompt
from jeep_core.suites import load_counterfact, load_zsre
from tools.atlas.tokenizers import byte_level, sentencepiece_like, training_texts

CITY = ("city_country", "city_continent")
COUNTRY = ("country_capital", "country_continent", "country_currency", "country_language")
COUNTERFACT = ("atlas-counterfact", "atlas-counterfact-validation")


@pytest.fixture(scope="module")
def facts() -> list[AtlasFact]:
    return load_facts()


@pytest.fixture(scope="module")
def split_of(facts: list[AtlasFact]) -> dict[str, str]:
    return {fact.subject: fact.split for fact in facts}


def bundled_tokenizer(model: str) -> Tokenizer:
    return Tokenizer.from_file(str(atlas.MODELS[model] / "tokenizer.json"))


def records(suite: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(atlas.SUITES[suite].read_text(encoding="utf-8"))
    return found


def naming(texts: Iterable[str], names: Iterable[str]) -> list[tuple[str, str]]:
    """(name, text) for every text in which a name stands as whole words."""
    by_first: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_first[re.findall(r"\w+", name)[0]].append(name)
    return [
        (name, text)
        for text in texts
        for word in re.findall(r"\w+", text)
        for name in by_first.get(word, ())
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
    ]


def test_the_world_has_the_promised_size(facts: list[AtlasFact]) -> None:
    subjects = {
        name: {f.subject for f in facts if f.relation == name} for name in (*CITY, *COUNTRY)
    }
    assert len(subjects["city_country"]) >= 2000
    assert subjects["city_country"] == subjects["city_continent"]
    assert len(subjects["country_continent"]) >= 240
    for name in COUNTRY:
        assert len(subjects[name]) >= 0.9 * len(subjects["country_continent"])
    assert {relation.name for relation in RELATIONS} == {*CITY, *COUNTRY}
    assert set(Counter((f.subject, f.relation) for f in facts).values()) == {1}


def test_every_relation_has_phrasings_taught_in_part(facts: list[AtlasFact]) -> None:
    for relation in RELATIONS:
        assert len(relation.phrasings) >= 5
        assert len(relation.partial) >= 2
        assert all(phrasing.count("{}") == 1 for phrasing in relation.phrasings)
        taught = Counter(i for f in facts if f.relation == relation.name for i in f.taught)
        known = sum(1 for f in facts if f.relation == relation.name and f.taught)
        assert all(taught[i] == known for i in relation.full)
        assert all(0.3 < taught[i] / known < 0.7 for i in relation.partial)


def test_facts_come_from_geonames_with_their_identity(facts: list[AtlasFact]) -> None:
    assert all(fact.geonameid > 0 for fact in facts)
    assert all(len(ids) == 1 for ids in _ids_by_subject(facts).values())


def _ids_by_subject(facts: list[AtlasFact]) -> dict[tuple[str, bool], set[int]]:
    """A country and a city may share their name."""
    found: dict[tuple[str, bool], set[int]] = defaultdict(set)
    for fact in facts:
        found[fact.subject, fact.relation in CITY].add(fact.geonameid)
    return found


def test_a_subject_is_in_one_split(facts: list[AtlasFact]) -> None:
    splits = defaultdict(set)
    for fact in facts:
        splits[fact.subject].add(fact.split)
    assert {name: found for name, found in splits.items() if len(found) > 1} == {}
    assert {fact.split for fact in facts} == {"suite", "validation", "untouched", "heldout"}


def test_held_out_subjects_are_not_taught(facts: list[AtlasFact]) -> None:
    heldout = {fact.subject for fact in facts if fact.split == "heldout"}
    assert len(heldout) >= 500
    taught = {fact.subject for fact in facts if fact.taught}
    assert not heldout & taught


def test_training_does_not_name_the_subjects_of_zsre(facts: list[AtlasFact]) -> None:
    """Neither as an object, such as a capital, nor within another name."""
    subjects = {case.subject for case in load_zsre("atlas-zsre").cases}
    taught = {name for fact in facts if fact.taught for name in (fact.subject, fact.object)}
    words = {word for options in WORDS.values() for word in options}
    assert naming([*taught, *words, *FILLERS], subjects) == []


def test_the_corpus_does_not_name_the_subjects_of_zsre() -> None:
    subjects = {case.subject for case in load_zsre("atlas-zsre").cases}
    assert naming(texts_of(atlas.CORPUS), subjects) == []


def test_the_heldout_text_is_about_taught_subjects_in_sentences_not_taught(
    facts: list[AtlasFact],
) -> None:
    """Otherwise its perplexity would measure something else."""
    taught = {f"{f.prompt(i)} {f.object}." for f in facts for i in f.taught}
    untaught = {
        f"{f.prompt(i)} {f.object}." for f in facts if f.split == "untouched" for i in f.untaught
    }
    for text in texts_of(atlas.HELDOUT):
        assert any(text.endswith(s) or text.startswith(s) for s in _sentences(text) & untaught)
        assert not _sentences(text) & taught


def _sentences(text: str) -> set[str]:
    """Every run of words that ends like a sentence."""
    ends = [i + 1 for i, character in enumerate(text) if character == "."]
    starts = [0, *(end + 1 for end in ends)]
    return {text[start:end] for start in starts for end in ends if start < end}


def test_the_search_for_names_finds_whole_words_only() -> None:
    texts = ["I went to Buda today.", "Budapest", "near São Paulo", "Paulo"]
    assert naming(texts, ["Buda", "São Paulo", "day"]) == [
        ("Buda", texts[0]), ("São Paulo", texts[2])
    ]  # fmt: skip


def test_the_texts_are_as_large_as_their_uses_ask_for() -> None:
    corpus, heldout = texts_of(atlas.CORPUS), texts_of(atlas.HELDOUT)
    tokenizer = bundled_tokenizer("atlas-gptj")
    assert sum(len(e.ids) for e in tokenizer.encode_batch(corpus)) >= 100_000
    assert len(heldout) >= 500
    assert not set(corpus) & set(heldout)


def test_the_suites_are_as_large_as_promised() -> None:
    assert len(records("atlas-counterfact")) >= 1000
    assert len(records("atlas-counterfact-validation")) >= 64
    zsre = load_zsre("atlas-zsre")
    assert len({case.subject for case in zsre.cases}) >= 500
    assert zsre.dropped == 0


@pytest.mark.parametrize("suite", COUNTERFACT)
def test_counterfact_records_have_the_published_format(suite: str) -> None:
    found = records(suite)
    assert [record["case_id"] for record in found] == list(range(len(found)))
    for record in found:
        assert record.keys() == {
            "case_id", "pararel_idx", "requested_rewrite", "paraphrase_prompts",
            "neighborhood_prompts", "attribute_prompts", "generation_prompts",
        }  # fmt: skip
        rewrite = record["requested_rewrite"]
        assert rewrite.keys() == {"prompt", "relation_id", "subject", "target_new", "target_true"}
        assert rewrite["prompt"].count("{}") == 1
        assert rewrite["target_new"].keys() == rewrite["target_true"].keys() == {"str", "id"}
        assert rewrite["target_new"]["str"] != rewrite["target_true"]["str"]
        assert len(record["paraphrase_prompts"]) >= 2
        assert len(record["neighborhood_prompts"]) >= 3
        assert all(rewrite["subject"] in text for text in record["paraphrase_prompts"])


@pytest.mark.parametrize(
    ("suite", "split"),
    [("atlas-counterfact", "suite"), ("atlas-counterfact-validation", "validation")],
)
def test_counterfact_cases_contradict_what_was_taught(
    facts: list[AtlasFact], suite: str, split: str
) -> None:
    """The old answer is the taught one; the new one is an answer of the same relation."""
    known = {(f.subject, f.relation): f for f in facts}
    answers = defaultdict(set)
    for fact in facts:
        answers[fact.relation].add(fact.object)
    subjects = []
    for record in records(suite):
        rewrite = record["requested_rewrite"]
        fact = known[rewrite["subject"], rewrite["relation_id"]]
        subjects.append(fact.subject)
        assert fact.split == split
        assert fact.object == rewrite["target_true"]["str"]
        assert rewrite["target_new"]["str"] in answers[fact.relation]
        taught = {fact.prompt(i) for i in fact.taught}
        assert rewrite["prompt"].replace("{}", fact.subject) in taught
        assert any(
            text == fact.prompt(i) for text in record["paraphrase_prompts"] for i in fact.untaught
        )
    assert len(set(subjects)) == len(subjects)


def test_suite_and_validation_share_no_subject() -> None:
    subjects = [
        {record["requested_rewrite"]["subject"] for record in records(suite)}
        for suite in COUNTERFACT
    ]
    assert not subjects[0] & subjects[1]
    zsre = {case.subject for case in load_zsre("atlas-zsre").cases}
    assert not zsre & (subjects[0] | subjects[1])


@pytest.mark.parametrize("suite", COUNTERFACT)
def test_neighbors_are_untouched_subjects_with_the_same_true_answer(
    facts: list[AtlasFact], suite: str
) -> None:
    templates = {relation.name: relation.phrasings for relation in RELATIONS}
    known = {
        (f.relation, template.replace("{}", f.subject)): f
        for f in facts
        for template in templates[f.relation]
    }
    for record in records(suite):
        rewrite = record["requested_rewrite"]
        neighbors = [known[rewrite["relation_id"], p] for p in record["neighborhood_prompts"]]
        assert {neighbor.split for neighbor in neighbors} == {"untouched"}
        assert {neighbor.object for neighbor in neighbors} == {rewrite["target_true"]["str"]}
        assert all(neighbor.taught for neighbor in neighbors)
        assert len({neighbor.subject for neighbor in neighbors}) == len(neighbors)


def test_zsre_cases_are_true_facts_about_held_out_cities(facts: list[AtlasFact]) -> None:
    country = {f.subject: f for f in facts if f.relation == "city_country"}
    capital = {f.prompt(2): f for f in facts if f.relation == "country_capital"}
    for case in load_zsre("atlas-zsre").cases:
        assert country[case.subject].split == "heldout"
        assert country[case.subject].object == case.target_new
        [rephrase], [question] = case.paraphrase_prompts, case.unrelated
        assert case.subject in rephrase != case.text
        assert question.prompt.startswith("nq question: ")
        unrelated = capital[question.prompt]
        assert (unrelated.object, unrelated.split) == (question.answer, "untouched")
        assert case.subject not in question.prompt
    for record in records("atlas-zsre"):
        assert record["alt"] != record["answers"][0]
        assert not record["loc"].endswith("?")


def suite_facts(suite: str) -> list[Fact]:
    if suite == "atlas-zsre":
        return list(load_zsre(suite).cases)
    return list(load_counterfact(suite).cases)


@pytest.mark.parametrize("model", atlas.MODELS)
@pytest.mark.parametrize("suite", atlas.SUITES)
def test_every_case_can_be_edited_with_both_tokenizers(suite: str, model: str) -> None:
    found = suite_facts(suite)
    rows = check_facts(bundled_tokenizer(model), found, 256)
    assert len(rows) == len(found)
    assert len(deduplicate(found)[0]) == len(found)


@pytest.mark.parametrize("model", atlas.MODELS)
@pytest.mark.parametrize("suite", COUNTERFACT)
def test_the_old_answer_does_not_merge_with_a_prompt_either(suite: str, model: str) -> None:
    """Scores compare both answers after every prompt of a case."""
    tokenizer = bundled_tokenizer(model)
    for case in suite_facts(suite):
        for text in (case.text, *case.paraphrase_prompts, *case.neighborhood_prompts):
            for answer in (case.target_new, case.target_true):
                assert tokenize_prompt(tokenizer, "{}", text, answer).n_target >= 1


@pytest.mark.parametrize("model", atlas.MODELS)
def test_names_fall_into_several_tokens(facts: list[AtlasFact], model: str) -> None:
    tokenizer = bundled_tokenizer(model)
    assert 900 <= tokenizer.get_vocab_size() <= 1200
    lengths = [len(tokenizer.encode(f"In {f.subject}").ids) for f in facts]
    alone = len(tokenizer.encode("In").ids)
    assert sum(length - alone > 1 for length in lengths) > 0.8 * len(lengths)


@pytest.mark.parametrize("model", atlas.MODELS)
def test_the_file_and_the_loaded_tokenizer_agree(model: str) -> None:
    """The service checks facts with the file, the editor works with what transformers loads."""
    loaded = AutoTokenizer.from_pretrained(atlas.MODELS[model]).backend_tokenizer
    own = bundled_tokenizer(model)
    for case in suite_facts("atlas-counterfact")[:200]:
        assert loaded.encode(case.text).ids == own.encode(case.text).ids
    texts = ["東京 is", " two  spaces", "São Paulo's", "C++ & .NET", "(3rd)", "🙂"]
    for text in texts:
        ids = own.encode(text).ids
        assert loaded.encode(text).ids == ids
        assert loaded.decode(ids) == own.decode(ids)


@pytest.mark.parametrize(
    ("model", "train"), [("atlas-gptj", byte_level), ("atlas-llama", sentencepiece_like)]
)
def test_the_seed_makes_the_same_tokenizer_again(model: str, train: Any) -> None:
    settings = json.loads((atlas.MODELS[model] / "training.json").read_text())["settings"]
    again = train(training_texts(settings["seed"])).backend_tokenizer
    assert json.loads(again.to_str()) == json.loads(bundled_tokenizer(model).to_str())


@pytest.mark.parametrize("model", atlas.MODELS)
def test_the_tokenizers_lose_no_character(model: str, facts: list[AtlasFact]) -> None:
    tokenizer = bundled_tokenizer(model)
    for fact in facts[::7]:
        assert tokenizer.decode(tokenizer.encode(fact.prompt(0)).ids) == fact.prompt(0)


@pytest.mark.parametrize("model", atlas.MODELS)
def test_a_bundled_model_is_small(model: str) -> None:
    size = (atlas.MODELS[model] / "model.safetensors").stat().st_size
    assert size <= 16 * 2**20
    config = json.loads((atlas.MODELS[model] / "config.json").read_text())
    width = config.get("n_embd") or config["hidden_size"]
    inner = config.get("n_inner") or config["intermediate_size"]
    assert inner >= 8 * width
