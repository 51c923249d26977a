"""Vocabularies of GGUF files become tokenizers that read a text as the models' own do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest
from support.library import gguf_files, tiny
from tokenizers import Tokenizer

from jeep_core.errors import UnsupportedModel
from jeep_core.models.gguf.configs import generation_of
from jeep_core.models.gguf.convert import convert, prepare
from jeep_core.models.gguf.reader import read
from jeep_core.models.gguf.tokenizers import tokenizer_of
from jeep_core.models.loading import load

SPACES = ["", " ", "  ", " a", "a ", "a  b", "a   b    c     d", "\n", "x\n\n y", "\tx"]
LETTERS = ["the end", "São Paulo, 東京 and Zürich: 3 cities", "😀", "don't", "\x00", "<table><tr>"]
TEXTS = (*tiny.TEXTS[:40], *SPACES, *LETTERS)


@pytest.fixture(scope="module")
def model() -> Any:
    return gguf_files.random_model("gpt2")


@pytest.fixture(scope="module")
def llama() -> Any:
    return gguf_files.random_model("llama")


def byte_level(
    path: Path,
    model: Any,
    pre: str | None,
    more: Mapping[str, int] | None = None,
    change: gguf_files.Change | None = None,
) -> Path:
    """A file of a GPT-2 whose texts are split by another rule."""
    gguf_files.write(
        path, "gpt2", model, vocabulary=lambda w: gguf_files.add_byte_level(w, pre, more),
        change=change,
    )  # fmt: skip
    return path


def tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_of(read(path), gguf_files.ROWS)[0])


def pieces(path: Path, text: str) -> list[str]:
    """How a text is split before its bytes are merged."""
    whole = tokenizer(path)
    return [
        "".join(whole.decoder.decode([piece]))
        for piece, _ in whole.pre_tokenizer.pre_tokenize_str(text)
    ]


class TestSentencePiece:
    @pytest.mark.parametrize("prefix", [True, False])
    def test_a_text_gets_the_ids_that_sentencepiece_gives_it(
        self, prefix: bool, llama: Any, tmp_path: Path
    ) -> None:
        gguf_files.write(
            tmp_path / "x.gguf", "llama", llama,
            vocabulary=lambda w: gguf_files.add_sentencepiece(w, prefix),
        )  # fmt: skip
        found, original = tokenizer(tmp_path / "x.gguf"), gguf_files.sentencepiece(prefix)
        for text in TEXTS:
            ids = found.encode(text, add_special_tokens=False).ids
            assert ids == original.encode(text), text
            assert found.decode(ids) == text

    def test_the_first_token_is_put_before_unless_the_file_says_no(
        self, llama: Any, tmp_path: Path
    ) -> None:
        for name, change, first in (
            ("yes", None, [1]),
            ("no", lambda w: w.add_add_bos_token(False), []),
        ):
            gguf_files.write(tmp_path / name, "llama", llama, change=change)
            assert tokenizer(tmp_path / name).encode("Lyon").ids[: len(first)] == first
            assert (1 in tokenizer(tmp_path / name).encode("Lyon").ids) == bool(first)

    def test_special_tokens_are_found_in_a_text(self, llama: Any, tmp_path: Path) -> None:
        gguf_files.write(tmp_path / "x.gguf", "llama", llama)
        found = tokenizer(tmp_path / "x.gguf").encode("a</s>b", add_special_tokens=False)
        assert 2 in found.ids

    def test_a_loaded_model_has_it(self, llama: Any, tmp_path: Path) -> None:
        gguf_files.write(tmp_path / "x.gguf", "llama", llama)
        folder = tmp_path / "folder"
        folder.mkdir()
        convert(prepare(tmp_path / "x.gguf"), folder, lambda *_: None)
        loaded = load(str(folder), "cpu")
        text = "Lyon is a city in the country of France."
        assert loaded.tokenizer.encode(text).ids == [
            1,
            *gguf_files.sentencepiece(True).encode(text),
        ]
        assert loaded.eos_token_ids == {2}


SPLIT = {
    "gpt-2": "I|'ve| 1234| items|,| ½|\n | 56|\n|\n|DON|'|T| x",
    "smollm": "I|'ve| |1|2|3|4| items|,| |½|\n  |5|6|\n|\n|DON|'|T| x",
    "llama-bpe": "I|'ve| |123|4| items|,| |½|\n| | |56|\n\n|DON|'T| x",
    "qwen2": "I|'ve| |1|2|3|4| items|,| |½|\n| | |5|6|\n\n|DON|'T| x",
}
"""By rule: how it splits a text; worked out by hand from the models' own patterns."""


class TestSplitting:
    TEXT = "I've 1234 items, ½\n  56\n\nDON'T x"

    @pytest.mark.parametrize("pre", SPLIT)
    def test_a_text_is_split_as_the_file_names_it(
        self, pre: str, model: Any, tmp_path: Path
    ) -> None:
        found = pieces(byte_level(tmp_path / "x.gguf", model, pre), self.TEXT)
        assert "".join(found) == self.TEXT
        assert "|".join(found) == SPLIT[pre]

    def test_gpt_2_reads_what_the_original_reads(self, model: Any, tmp_path: Path) -> None:
        found = tokenizer(byte_level(tmp_path / "x.gguf", model, "gpt-2"))
        original = tiny.tokenizer("byte-level")
        for text in TEXTS:
            assert found.encode(text).ids == original.encode(text).ids
            assert found.decode(found.encode(text).ids) == text

    def test_an_older_file_names_nothing_and_is_split_by_its_architecture(
        self, model: Any, llama: Any, tmp_path: Path
    ) -> None:
        found = pieces(byte_level(tmp_path / "x.gguf", model, None), self.TEXT)
        assert "|".join(found) == SPLIT["gpt-2"]
        gguf_files.write(
            tmp_path / "llama", "llama", llama,
            vocabulary=lambda w: gguf_files.add_byte_level(w, None),
        )  # fmt: skip
        with pytest.raises(UnsupportedModel, match=r"splits texts in a way \('default'\)"):
            tokenizer(tmp_path / "llama")

    def test_an_unknown_rule_is_refused_by_name(self, model: Any, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedModel, match=r"'deepseek-llm'.*only gpt-2, olmo, smollm"):
            tokenizer(byte_level(tmp_path / "x.gguf", model, "deepseek-llm"))

    def test_a_whole_word_of_the_vocabulary_needs_no_merges_in_llama_3(
        self, model: Any, tmp_path: Path
    ) -> None:
        more = {"Quixote": 1}
        found = {
            pre: tokenizer(byte_level(tmp_path / pre, model, pre, more)).encode("Quixote").tokens
            for pre in ("llama-bpe", "qwen2")
        }
        assert found["llama-bpe"] == ["Quixote"]
        assert len(found["qwen2"]) > 1

    def test_letters_with_accents_are_put_together_where_the_model_does(
        self, model: Any, tmp_path: Path
    ) -> None:
        apart, together = "Zu\u0308rich", "Z\u00fcrich"
        for pre, same in (("qwen2", True), ("gpt-2", False)):
            found = tokenizer(byte_level(tmp_path / pre, model, pre))
            assert (found.encode(apart).ids == found.encode(together).ids) == same


class TestSpecialTokens:
    MORE: Mapping[str, int] = {"<|im_start|>": 3, "<|im_end|>": 3, "<think>": 4}
    TEMPLATE = "{{ '<|im_start|>' + messages[0]['content'] + '<|im_end|>' }}"

    def test_they_are_one_token_each_and_only_control_tokens_are_left_out_of_texts(
        self, model: Any, tmp_path: Path
    ) -> None:
        found = tokenizer(byte_level(tmp_path / "x.gguf", model, "gpt-2", self.MORE))
        encoded = found.encode("<|im_start|>hi<think><|im_end|>")
        assert encoded.tokens[0] == "<|im_start|>"
        assert encoded.tokens[-2:] == ["<think>", "<|im_end|>"]
        assert found.decode(encoded.ids) == "hi<think>"

    def test_a_text_ends_where_the_chat_template_ends_a_turn(
        self, model: Any, tmp_path: Path
    ) -> None:
        def template(writer: gguf.GGUFWriter) -> None:
            writer.add_chat_template(self.TEMPLATE)

        without = byte_level(tmp_path / "a", model, "gpt-2", self.MORE)
        with_it = byte_level(tmp_path / "b", model, "gpt-2", self.MORE, template)
        ids = [read(with_it).metadata["tokenizer.ggml.tokens"].index(t) for t in self.MORE]
        assert generation_of(read(without))["eos_token_id"] == 0
        assert generation_of(read(with_it))["eos_token_id"] == [0, ids[1]]
        _, config = tokenizer_of(read(with_it), gguf_files.ROWS)
        assert config["chat_template"] == self.TEMPLATE
        assert config["eos_token"] == "<|endoftext|>"

    def test_the_end_of_a_turn_that_the_file_names_ends_a_text(
        self, model: Any, tmp_path: Path
    ) -> None:
        path = byte_level(
            tmp_path / "a", model, "gpt-2", self.MORE, lambda writer: writer.add_eot_token_id(5)
        )
        assert generation_of(read(path))["eos_token_id"] == [0, 5]

    def test_llama_3_starts_with_its_first_token(self, model: Any, tmp_path: Path) -> None:
        def first(writer: gguf.GGUFWriter) -> None:
            writer.add_bos_token_id(0)

        for pre, starts in (("llama-bpe", True), ("gpt-2", False)):
            path = byte_level(tmp_path / pre, model, pre, change=first)
            assert (tokenizer(path).encode("Lyon").ids[0] == 0) == starts
            state = json.loads(tokenizer_of(read(path), gguf_files.ROWS)[0])
            assert (state["post_processor"] is not None) == starts
