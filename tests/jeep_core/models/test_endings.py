"""Texts end at every token that the model's files name as an end."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from support.library import folders, tiny

from jeep_core.decoding.generation import Sampling, generate
from jeep_core.decoding.rows import Row
from jeep_core.decoding.sampling import Choice
from jeep_core.errors import UnsupportedModel
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from jeep_core.values.prefixes import sample_prefixes

PROMPT = "Paris is in"


def loaded(folder: Path, family: str, **values: object) -> LoadedModel:
    """A folder whose ``generation_config.json`` has these fields."""
    folders.write_folder(folder, family)
    folders.config("generation_config.json", **values)(folder)
    return load(str(folder), "cpu")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_every_listed_id_ends_a_text(tmp_path: Path, family: str) -> None:
    free = tiny.random_model(family)
    greedy = Sampling(max_new_tokens=8)
    written = [token.id for token in generate(ModelView(free), [PROMPT], greedy)[0].tokens]
    assert len(written) == 8
    end = written[3]
    assert end not in free.eos_token_ids
    own = free.model.config.eos_token_id
    model = loaded(tmp_path / "model", family, eos_token_id=[own + 5, end])
    assert model.eos_token_ids == {own, own + 5, end}
    (tmp_path / "model" / "generation_config.json").unlink()
    assert load(str(tmp_path / "model"), "cpu").model_hash == model.model_hash
    [ended] = generate(ModelView(model), [PROMPT], greedy)
    assert [token.id for token in ended.tokens] == written[: written.index(end)]
    assert ended.finish_reason == "stop"
    row = Row(model, PROMPT, greedy)
    assert not row.add(Choice(end, 1.0, ()))
    assert row.result.finish_reason == "stop"


def test_sampled_prefixes_contain_no_ending(tmp_path: Path) -> None:
    only = tiny.tokenizer("byte-level").token_to_id("a")
    others = [i for i in range(420) if i != only]
    model = loaded(tmp_path / "model", "gpt2", eos_token_id=others)
    assert sample_prefixes(model, 3) == ["", "The" + 10 * "a", "Therefore" + 10 * "a"]


def test_an_ending_may_be_one_id_or_none(tmp_path: Path) -> None:
    assert loaded(tmp_path / "one", "llama", eos_token_id=7).eos_token_ids == {2, 7}
    assert loaded(tmp_path / "none", "llama", eos_token_id=None).eos_token_ids == {2}


def test_ending_ids_without_a_token_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        model = loaded(tmp_path / "model", "llama", eos_token_id=[7, 420, -1])
    assert model.eos_token_ids == {2, 7}
    assert "eos_token_id of generation_config.json: 420, -1 is not among the 420 ids" in caplog.text
    assert len(sample_prefixes(model, 2)) == 2  # logits are looked up by these ids


@pytest.mark.parametrize("wrong", ["</s>", [2, "</s>"], {"id": 2}, 2.5, True])
def test_an_ending_that_is_no_id_is_refused(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(UnsupportedModel, match=r"eos_token_id of generation_config.json is"):
        loaded(tmp_path / "model", "llama", eos_token_id=wrong)
