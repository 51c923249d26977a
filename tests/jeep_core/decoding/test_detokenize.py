"""Text that comes token by token: split characters, leading spaces, stop strings."""

from __future__ import annotations

import pytest
from support.library import tiny

from jeep_core.decoding.text_stream import StopStrings, TextStream

CASES = (
    ("Paris is", " in 東京, é ã ü — and Peru"),
    ("東", " x"),
    ("I", "日本語 text 🙂🙂"),
    ("", "Paris"),
    ("Because the train ", "is late.\n\nToo late"),
)


def split(kind: str, prompt: str, more: str) -> tuple[list[int], list[int]]:
    """Tokens of the prompt, and of the rest of the whole text after it."""
    tokenizer = tiny.tokenizer(kind)
    before, whole = tokenizer.encode(prompt).ids, tokenizer.encode(prompt + more).ids
    shared = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b),
                  min(len(before), len(whole)))  # fmt: skip
    return whole[:shared], whole[shared:]


@pytest.mark.parametrize("kind", tiny.TOKENIZERS)
@pytest.mark.parametrize(("prompt", "more"), CASES)
def test_pieces_add_up_to_the_text(kind: str, prompt: str, more: str) -> None:
    tokenizer = tiny.tokenizer(kind)
    before, new = split(kind, prompt, more)
    stream = TextStream(tokenizer, before)
    pieces = [stream.add(token) for token in new]
    whole = tokenizer.decode([*before, *new])
    assert tokenizer.decode(before) + "".join(pieces) + stream.rest() == whole
    assert "�" not in "".join(pieces)


@pytest.mark.parametrize("kind", tiny.TOKENIZERS)
def test_a_character_comes_with_its_last_byte(kind: str) -> None:
    tokenizer = tiny.tokenizer(kind)
    before, new = split(kind, "I", "🙂")
    assert len(new) > 1, "this character must be several tokens"
    stream = TextStream(tokenizer, before)
    assert [stream.add(token) for token in new] == [""] * (len(new) - 1) + ["🙂"]
    assert stream.rest() == ""


@pytest.mark.parametrize("kind", tiny.TOKENIZERS)
def test_half_a_character_is_shown_at_the_end_only(kind: str) -> None:
    before, new = split(kind, "I", "🙂")
    stream = TextStream(tiny.tokenizer(kind), before)
    assert "".join(stream.add(token) for token in new[:-1]) == ""
    assert set(stream.rest()) == {"�"}


@pytest.mark.parametrize("kind", tiny.TOKENIZERS)
def test_a_leading_space_is_kept(kind: str) -> None:
    before, new = split(kind, "Paris is", " in")
    stream = TextStream(tiny.tokenizer(kind), before)
    assert "".join(stream.add(token) for token in new) == " in"


def feed(stops: tuple[str, ...], *pieces: str) -> tuple[list[str], bool]:
    cutter = StopStrings(stops)
    given = []
    for i, piece in enumerate(pieces):
        delta, found = cutter.add(piece, last=i == len(pieces) - 1)
        given.append(delta)
        if found:
            return given, True
    return given, False


@pytest.mark.parametrize(
    ("stops", "pieces", "given", "found"),
    [
        (("END",), ("a E", "N", "D b"), ["a ", "", ""], True),
        (("END",), ("a E", "N", "ough"), ["a ", "", "ENough"], False),
        (("END",), ("a E", "N"), ["a ", "EN"], False),
        (("aab",), ("aa", "ab"), ["", "a"], True),
        (("\n\n", "x"), ("\n", "x\n"), ["", "\n"], True),
        (("bc", "abcd"), ("ab", "c"), ["", "a"], True),
        ((), ("a", "b"), ["a", "b"], False),
        (("",), ("a",), ["a"], False),
    ],
)
def test_a_stop_string_across_pieces_is_found(stops, pieces, given, found) -> None:
    """Text that may still become a stop string is held back; the earliest one cuts."""
    assert feed(stops, *pieces) == (given, found)
