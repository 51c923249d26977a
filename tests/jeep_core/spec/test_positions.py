"""Positions against an independent reading: the bytes that every single token represents."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.library import tiny
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from jeep_core.errors import InvalidFacts
from jeep_core.spec.facts import Fact, fill, normalise
from jeep_core.spec.positions import (
    KL_TEMPLATE,
    PREFIX_TOKENS,
    PromptTokens,
    TokenizationError,
    check_facts,
    fact_rows,
    last_token_in,
    token_spans,
    tokenize_prompt,
    with_prefix,
)
from jeep_core.text.joining import joined

SUBJECTS = (
    (
        "Paris São_Paulo Łódź Kraków Besançon 東京 東京都 上海 서울 3M 42nd 1984 7 St._John's "
        "C++ .NET ¿Qué_tal? (almost) O'Brien-Smith AT&T New x é 🙂 🇵🇪 ½ naïve_café Newport_Road"
    )
    .replace("_", "\N{NO-BREAK SPACE}")
    .split(" ")
)
SUBJECTS = [subject.replace("\N{NO-BREAK SPACE}", " ") for subject in SUBJECTS]
ALPHABET = "aeinorstzPNB éüłãñǅ東京市서ا७3790.,'-+&!?()\"$ 🙂ß½"
SUFFIXES = (" is in", "", "'s country is", "s are from", "is", "ian bread", "!", "?", "land",
            "東", " 東京", "é", " is", ", {x} is", "1984", "-Nord lies in", " \t or")  # fmt: skip

some_subject = st.one_of(st.sampled_from(SUBJECTS), st.text(ALPHABET, min_size=1, max_size=12)).map(
    normalise
)
some_text = st.one_of(
    st.sampled_from(["", "The ", "The city of ", "In 1984, ", "東京 and ", "«", "Saint-", "new"]),
    st.text(ALPHABET, max_size=10),
)
some_target = st.one_of(
    st.sampled_from(["Peru", "South Africa", "東京", "42", "'s", " Norway", "!", "é"]),
    st.text(ALPHABET, min_size=1, max_size=8),
)


def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level tokenizers write for bytes, as published for GPT-2."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(shifted)}


BYTES = _byte_alphabet()


def token_bytes(tokenizer: Tokenizer, kind: str, token_id: int) -> bytes:
    """The bytes of one token, read off its name in the vocabulary."""
    name = tokenizer.id_to_token(token_id)
    if kind != "sentencepiece":
        return bytes(BYTES[character] for character in name)
    if name.startswith("<0x"):
        return bytes([int(name[3:5], 16)])
    return b"" if name == "<s>" else name.replace("▁", " ").encode()


def pieces(kind: str, ids: tuple[int, ...], text: str) -> list[bytes]:
    """The bytes of every token; a space that the tokenizer put in front is taken away."""
    tokenizer = tiny.tokenizer(kind)
    found = [token_bytes(tokenizer, kind, i) for i in ids]
    if kind != "byte-level" and not text.startswith(" "):
        first = next(i for i, piece in enumerate(found) if piece)
        assert found[first].startswith(b" ")
        found[first] = found[first][1:]
    return found


def check(kind: str, row: PromptTokens, template: str, subject: str, target: str) -> None:
    """Every promise of a row."""
    tokenizer = tiny.tokenizer(kind)
    prompt = fill(template, subject)
    n = row.prediction + 1
    assert list(row.ids[:n]) == tokenizer.encode(prompt).ids
    assert list(row.ids) == tokenizer.encode(joined(prompt, target)).ids
    found = pieces(kind, row.ids, prompt)
    assert b"".join(found[:n]).decode() == prompt
    assert tokenizer.decode(row.ids).strip() == joined(prompt, target).strip()
    assert row.n_target == len(row.ids) - n > 0
    assert b"".join(found[n:]).decode() == joined(prompt, target)[len(prompt) :]
    last_byte = len((template.split("{}", 1)[0] + subject).encode()) - 1
    starts = [sum(map(len, found[:i])) for i in range(len(found))]
    covering = [
        i for i, s in enumerate(starts) if s <= last_byte < s + len(found[i])
    ]  # exactly one token has the subject's last byte
    assert [row.subject_last] == covering


@pytest.mark.parametrize("kind", tiny.TOKENIZERS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(subject=some_subject, before=some_text, suffix=st.sampled_from(SUFFIXES), target=some_target)
@example(subject="東京", before="東京 and ", suffix=" is in", target="Peru")
@example(subject="New", before="New New ", suffix="port is", target="York")
@example(subject="Łódź", before="", suffix="", target="Poland")
@example(subject="3M", before="42 ", suffix="3 is", target="7")
@example(subject="🙂", before="", suffix="🙂", target="🙂")
def test_positions_agree_with_the_bytes_of_the_tokens(
    kind: str, subject: str, before: str, suffix: str, target: str
) -> None:
    template = normalise(before + "{}" + suffix)
    assume(subject and target.strip())
    alone = tiny.tokenizer(kind).encode(fill(template, subject)).ids
    full = tiny.tokenizer(kind).encode(joined(fill(template, subject), target)).ids
    if full[: len(alone)] == alone:
        row = tokenize_prompt(tiny.tokenizer(kind), template, subject, target)
        check(kind, row, template, subject, target)
        return
    with pytest.raises(TokenizationError) as caught:
        tokenize_prompt(tiny.tokenizer(kind), template, subject, target)
    assert (caught.value.field, caught.value.code) == ("target_new", "merges_with_prompt")


@pytest.mark.parametrize("kind", tiny.TOKENIZERS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(subject=some_subject, prefix=some_text, repeats=st.integers(0, 2))
def test_a_prefix_moves_positions_by_whole_tokens_only(
    kind: str, subject: str, prefix: str, repeats: int
) -> None:
    assume(subject)
    prefixes = ["", *[f"{prefix.strip()} {subject}" * repeats or "The"]]
    fact = Fact(subject, "{} and {x} of", "Peru")
    rows, kl = fact_rows(tiny.tokenizer(kind), fact, prefixes)
    for prefix_text, row in zip(prefixes, rows, strict=True):
        check(kind, row, with_prefix(prefix_text, fact.prompt), subject, "Peru")
    assert kl == tokenize_prompt(tiny.tokenizer(kind), KL_TEMPLATE, subject)
    assert kl.n_target == 0
    assert kl.prediction == len(kl.ids) - 1


@pytest.mark.parametrize("kind", tiny.TOKENIZERS)
def test_a_token_that_reaches_beyond_the_subject_is_its_last(kind: str) -> None:
    """'Paris' is one token of every kind, so that in 'Paris' the subject 'Par' ends inside it."""
    tokenizer = tiny.tokenizer(kind)
    whole = tokenize_prompt(tokenizer, "The city of {} is", "Paris")
    merged = tokenize_prompt(tokenizer, "The city of {}is is", "Par")
    assert merged == whole
    assert pieces(kind, whole.ids, "The")[whole.subject_last] == b" Paris"


@pytest.mark.parametrize("kind", tiny.TOKENIZERS)
def test_the_slot_counts_not_the_subjects_other_occurrences(kind: str) -> None:
    tokenizer = tiny.tokenizer(kind)
    first = tokenize_prompt(tokenizer, "{} or Paris is", "Paris")
    last = tokenize_prompt(tokenizer, "Paris or {} is", "Paris")
    assert first.ids == last.ids
    assert first.subject_last < last.subject_last


def test_the_default_first_token_is_kept() -> None:
    row = tokenize_prompt(tiny.tokenizer("sentencepiece"), "{} is in", "Lima", "Peru")
    assert row.ids[0] == tiny.tokenizer("sentencepiece").token_to_id("<s>")


def test_a_subject_at_the_end_is_at_the_prediction_position() -> None:
    row = tokenize_prompt(tiny.tokenizer("byte-level"), "The capital is {}", "Lima", "x")
    assert row.subject_last == row.prediction == len(row.ids) - row.n_target - 1


def test_a_target_gets_exactly_one_space() -> None:
    tokenizer = tiny.tokenizer("byte-level")
    plain = tokenize_prompt(tokenizer, "{} is in", "Lima", "Peru")
    assert plain == tokenize_prompt(tokenizer, "{} is in", "Lima", " Peru")


def merging_tokenizer() -> Tokenizer:
    """Byte-level BPE over whole texts, in which ``n`` and the space after it are one token."""
    symbols = {symbol: i for i, symbol in enumerate([*sorted(BYTES), "nĠ"])}
    tokenizer = Tokenizer(models.BPE(vocab=symbols, merges=[("n", "Ġ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def test_targets_that_merge_with_the_prompt_are_refused_and_named() -> None:
    facts = [
        Fact("Oslo", "{} is of", "Norway"),
        Fact("Lima", "{} is in", "Peru"),
        Fact("Bern", "{} lies on", "Mars"),
    ]
    with pytest.raises(InvalidFacts) as caught:
        check_facts(merging_tokenizer(), facts, 64)
    found = caught.value.problems
    assert [(p.pointer, p.code) for p in found] == [
        ("/facts/1/target_new", "merges_with_prompt"),
        ("/facts/2/target_new", "merges_with_prompt"),
    ]
    assert "'n' becomes 'nĠ'" in found[0].message


def test_prompts_longer_than_the_model_reads_are_refused() -> None:
    """Room for a prefix is kept free."""
    facts = [Fact("Lima", "{} is in", "Peru"), Fact("Lima", "{} is" + " very" * 9, "old")]
    rows = [tokenize_prompt(tiny.tokenizer("byte-level"), f.prompt, f.subject, f.target_new)
            for f in facts]  # fmt: skip
    longest = len(rows[1].ids) + PREFIX_TOKENS
    assert check_facts(tiny.tokenizer("byte-level"), facts, longest) == rows
    with pytest.raises(InvalidFacts) as caught:
        check_facts(tiny.tokenizer("byte-level"), facts, longest - 1, pointer="/rows")
    assert [(p.pointer, p.code) for p in caught.value.problems] == [("/rows/1/prompt", "too_long")]
    assert f"{len(rows[1].ids)} tokens, at most" in caught.value.problems[0].message


def test_a_subject_that_the_tokenizer_drops_is_refused() -> None:
    tokenizer = Tokenizer.from_str(tiny.tokenizer("byte-level").to_str())
    tokenizer.normalizer = normalizers.Replace("東京", "")
    with pytest.raises(InvalidFacts) as caught:
        check_facts(tokenizer, [Fact("東京", "The city of {} is in", "Japan")], 64)
    assert [(p.pointer, p.code) for p in caught.value.problems] == [
        ("/facts/0/subject", "no_tokens")
    ]


def test_tokens_that_the_tokenizer_adds_have_no_characters() -> None:
    encoding = tiny.tokenizer("sentencepiece").encode("Lima is in")
    spans = token_spans(encoding)
    assert spans[0] == (0, 0)
    assert (spans[1][0], spans[-1][1]) == (0, len("Lima is in"))


@pytest.mark.parametrize(
    ("start", "end", "expected"), [(0, 1, 0), (0, 4, 1), (3, 5, 3), (4, 5, 3), (5, 9, 4)]
)
def test_the_last_token_in_a_span_is_found(start: int, end: int, expected: int) -> None:
    spans = [(0, 3), (3, 4), (4, 4), (4, 5), (5, 9)]
    assert last_token_in(spans, start, end) == expected


def test_a_span_without_tokens_is_an_error() -> None:
    with pytest.raises(ValueError, match="no token covers"):
        last_token_in([(0, 3), (3, 3), (5, 8)], 3, 5)


def test_subjects_are_tested_in_composed_form() -> None:
    assert all(unicodedata.is_normalized("NFC", subject) for subject in SUBJECTS)
