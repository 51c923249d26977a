"""Tokenizers as folders bring them: SentencePiece, plain files, too many ids, none."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from support.library import folders, tiny
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from jeep_core.errors import UnsupportedModel
from jeep_core.models.checkpoints.tokenizers import without_unembedded
from jeep_core.models.loading import load, wrap

TEXT = "Lyon is a city in Zürich."


def folder_of(folder: Path, family: str) -> Path:
    """A whole folder without its tokenizer."""
    folders.write_folder(folder, family)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    return folder


def sentencepiece(path: Path, prefix: bool) -> SentencePieceProcessor:
    """A small model of SentencePiece; ``prefix``: a space is put before every text."""
    with path.open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(tiny.TEXTS), model_writer=file, vocab_size=400,
            model_type="bpe", byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
            add_dummy_prefix=prefix, minloglevel=2,
        )  # fmt: skip
    return SentencePieceProcessor(model_file=str(path))


@pytest.mark.parametrize(("family", "prefix"), [("llama", True), ("gemma3_text", False)])
def test_a_folder_with_sentencepiece_alone_is_read(
    tmp_path: Path, family: str, prefix: bool
) -> None:
    folder = folder_of(tmp_path / "model", family)
    original = sentencepiece(folder / "tokenizer.model", prefix)
    tokenizer = load(str(folder), "cpu").tokenizer
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    assert ids == original.encode(TEXT)
    assert tokenizer.decode(ids).strip() == TEXT


def test_a_conversion_that_loses_spaces_is_refused(tmp_path: Path) -> None:
    """transformers would make a byte-level tokenizer of it, because GPT-2 has one."""
    folder = folder_of(tmp_path / "model", "gpt2")
    sentencepiece(folder / "tokenizer.model", True)
    with pytest.raises(UnsupportedModel, match=r"tokenizer.model is not converted faithfully"):
        load(str(folder), "cpu")


@pytest.mark.parametrize("package", ["sentencepiece", "google.protobuf"])
def test_without_its_packages_sentencepiece_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    folder = folder_of(tmp_path / "model", "llama")
    sentencepiece(folder / "tokenizer.model", True)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnsupportedModel, match="pip install sentencepiece protobuf, or copy"):
        load(str(folder), "cpu")


def test_vocabulary_and_merges_are_read_as_a_tokenizer(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", "gpt2")
    state = json.loads(tiny.tokenizer("byte-level").to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(state["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in state["merges"]))
    tokenizer = load(str(folder), "cpu").tokenizer
    assert tokenizer.encode(TEXT).ids == tiny.tokenizer("byte-level").encode(TEXT).ids
    (folder / "merges.txt").unlink()
    with pytest.raises(UnsupportedModel, match="has no tokenizer: copy"):
        load(str(folder), "cpu")


def with_tokenizer(folder: Path, tokenizer: Tokenizer) -> Path:
    folders.write_folder(folder, "gpt2")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def other_splitting() -> Tokenizer:
    """A byte-level tokenizer that splits and opens texts as no class of transformers does."""
    tokenizer = Tokenizer.from_str(tiny.tokenizer("byte-level").to_str())
    split = pre_tokenizers.Split(Regex(r"\p{N}{1,3}|\p{L}+|\s|[^\s\p{L}\p{N}]"), "isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    tokenizer.normalizer = normalizers.NFD()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    return tokenizer


@pytest.mark.parametrize(
    ("family", "named"),
    [
        ("gpt2", "GPT2Tokenizer"), ("gpt2", None), ("gpt_neox", "GPTNeoXTokenizer"),
        ("qwen2", "PreTrainedTokenizerFast"), ("qwen2", "LlamaTokenizerFast"),
        ("llama", "LlamaTokenizerFast"), ("llama", "GPT2TokenizerFast"),
        ("gemma2", "GemmaTokenizerFast"),
    ],
)  # fmt: skip
def test_a_tokenizer_is_read_as_its_file_says(
    tmp_path: Path, family: str, named: str | None
) -> None:
    """transformers would build the one that is usual for the class or the kind of model."""
    folder = folder_of(tmp_path / "model", family)
    own = other_splitting()
    own.save(str(folder / "tokenizer.json"))
    if named is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}))
    tokenizer = load(str(folder), "cpu").tokenizer
    for text in (TEXT, "  two  spaces\n\nI'll say 1234!", "東京"):
        assert tokenizer.encode(text).tokens == own.encode(text).tokens
        assert tokenizer.decode(own.encode(text).ids) == own.decode(own.encode(text).ids)


def test_the_configuration_of_a_tokenizer_is_followed(tmp_path: Path) -> None:
    """A blank before every text, and tokens that tokenizer.json lacks, may be named there."""
    folder = folder_of(tmp_path / "model", "llama")
    own = Tokenizer.from_str(tiny.tokenizer("byte-level").to_str())
    own.normalizer = normalizers.NFD()
    own.save(str(folder / "tokenizer.json"))
    token = own.id_to_token(419)
    said = {
        "tokenizer_class": "GPT2TokenizerFast",
        "add_prefix_space": True,
        "added_tokens_decoder": {"419": {"content": token, "special": True}},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    tokenizer = load(str(folder), "cpu").tokenizer
    assert tokenizer.encode(TEXT).ids == own.encode(f" {TEXT}").ids
    assert tokenizer.get_added_tokens_decoder()[419].special


@pytest.mark.parametrize("special", [[], ["<end>"]])
def test_an_empty_tokenizer_is_refused(tmp_path: Path, special: list[str]) -> None:
    empty = Tokenizer(models.BPE())
    empty.add_special_tokens(special)
    with pytest.raises(UnsupportedModel, match="is empty, it has no vocabulary"):
        load(str(with_tokenizer(tmp_path / "model", empty)), "cpu")


def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path: Path) -> None:
    words = {f"w{i}": i for i in range(500)}
    larger = Tokenizer(models.WordLevel(words, unk_token="w0"))
    larger.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(UnsupportedModel, match=r"ids up to 499 \('w499'\).*has 420 rows"):
        load(str(with_tokenizer(tmp_path / "model", larger)), "cpu")


def test_a_tokenizer_that_cannot_read_plain_text_is_refused(tmp_path: Path) -> None:
    strict = Tokenizer(models.WordLevel({"one": 0}, unk_token="<unknown>"))
    with pytest.raises(UnsupportedModel, match="cannot read plain text"):
        load(str(with_tokenizer(tmp_path / "model", strict)), "cpu")


def beyond() -> Tokenizer:
    """A tokenizer with an added token that the embedding of 420 rows has no row for."""
    tokenizer = Tokenizer.from_str(tiny.tokenizer("byte-level").to_str())
    tokenizer.add_special_tokens([AddedToken("<image>", special=True)])
    assert tokenizer.token_to_id("<image>") >= 420
    return tokenizer


def test_added_tokens_without_a_row_are_ordinary_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As Gemma 3's for images; otherwise a prompt with it would look beyond the embedding."""
    with caplog.at_level(logging.WARNING):
        model = load(str(with_tokenizer(tmp_path / "model", beyond())), "cpu")
    assert "no embedding of <image>: read as ordinary text" in caplog.text
    assert max(model.tokenizer.encode("see <image> there").ids) < 420
    assert model.tokenizer.encode(TEXT).ids == tiny.tokenizer("byte-level").encode(TEXT).ids
    assert model.tokenizer.token_to_id("<|endoftext|>") == 0  # the others are kept


def test_the_hash_of_a_model_is_that_of_its_whole_tokenizer() -> None:
    """Stores made when the token was kept still belong to the model."""
    base = tiny.random_model("gpt2")
    wrapped = wrap("tiny-gpt2", base.model, beyond())
    assert wrapped.tokenizer.get_vocab_size() == 420
    assert wrapped.model_hash != wrap("tiny-gpt2", base.model, wrapped.tokenizer).model_hash


def test_a_tokenizer_whose_tokens_all_have_rows_is_left_alone() -> None:
    tokenizer = tiny.tokenizer("sentencepiece")
    assert without_unembedded(tokenizer, 420) is tokenizer


def test_a_token_around_every_text_needs_a_row(tmp_path: Path) -> None:
    tokenizer = beyond()
    number = tokenizer.token_to_id("<image>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<image> $A", special_tokens=[("<image>", number)]
    )
    with pytest.raises(UnsupportedModel, match=r"\('<image>'\), but the embedding has 420 rows"):
        load(str(with_tokenizer(tmp_path / "model", tokenizer)), "cpu")
