"""Rows that join and leave a running batch, against the same rows decoded alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from support.library import tiny

from jeep_core.decoding.batch import Batch, KeyValues
from jeep_core.decoding.generation import Sampling, generate
from jeep_core.decoding.rows import Generated, Row
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView

PROMPTS = (
    "Paris is a city in the country of",
    "I",
    "東京",
    "Because the train was late, the old towns near the river",
    "You",
    "The",
)
LENGTHS = (9, 3, 14, 6, 12, 8)
COUNT = tiny.bigram_view({"a": {"b": 0.9}, "b": {"c": 0.9}, "c": {"a": 0.9}})


def alone(view: ModelView, prompt: str, sampling: Sampling) -> Generated:
    return generate(view, [prompt], sampling)[0]


def same(one: Generated, other: Generated) -> None:
    assert [t.id for t in one.tokens] == [t.id for t in other.tokens]
    assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
    probabilities = [t.probability for t in other.tokens]
    assert [t.probability for t in one.tokens] == pytest.approx(probabilities, rel=1e-4)


def rows_of(base: LoadedModel, sampling: Sequence[Sampling]) -> list[Row]:
    return [Row(base, prompt, s) for prompt, s in zip(PROMPTS, sampling, strict=True)]


@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (3, 0, 5, 1, 2, 4), (1, 4, 2, 5, 0, 3)])
def test_rows_that_join_at_any_step_get_what_they_get_alone(
    base: LoadedModel, view: ModelView, order: tuple[int, ...], temperature: float
) -> None:
    """One row joins every second step, shorter and longer than those that are decoding."""
    sampling = [Sampling(n, temperature, seed=i) for i, n in enumerate(LENGTHS)]
    rows = rows_of(base, sampling)
    batch = Batch(view)
    for i in order:
        batch.add([rows[i]])
        batch.step()
        batch.step()
    while len(batch):
        batch.step()
    for row, prompt, s in zip(rows, PROMPTS, sampling, strict=True):
        same(row.result, alone(view, prompt, s))


def test_a_row_joins_at_the_next_step(view: ModelView) -> None:
    first, second = (Row(view.base, prompt, Sampling(6)) for prompt in PROMPTS[:2])
    batch = Batch(view)
    batch.add([first])
    batch.step()
    batch.add([second])
    got, _ = batch.step()
    assert [len(row.result.tokens) for row in (first, second)] == [2, 1]
    assert set(got) == {first, second}


def test_finished_rows_leave_and_waiting_ones_take_their_places() -> None:
    rows = [Row(COUNT.base, "a", Sampling(n)) for n in (1, 2, 3, 2)]
    batch, sizes, ended = Batch(COUNT, max_rows=2), [], []
    batch.add(rows)
    while len(batch):
        got, finished = batch.step()
        sizes.append(len(got))
        ended += [rows.index(row) for row in finished]
    assert sizes == [2, 3, 2, 1], "a row that joins gets a token in the step another one leaves"
    assert sorted(ended) == [0, 1, 2, 3]
    assert [row.result.text for row in rows] == [" b", " b c", " b c a", " b c"]


def test_dropped_rows_leave_and_change_nothing_for_the_others(view: ModelView) -> None:
    rows = rows_of(view.base, [Sampling(12)] * len(PROMPTS))
    batch = Batch(view, max_rows=4)
    batch.add(rows)
    batch.step()
    batch.drop([rows[0], rows[2], rows[5]])  # running and waiting ones
    assert len(batch) == 3
    while len(batch):
        batch.step()
    for i in (1, 3, 4):
        same(rows[i].result, alone(view, PROMPTS[i], Sampling(12)))
    assert rows[0].result.finish_reason is None


def test_long_prompts_join_in_several_steps() -> None:
    rows = [Row(COUNT.base, "a b c", Sampling(3)) for _ in range(4)]
    batch = Batch(COUNT, prefill_tokens=7)
    batch.add(rows)
    batch.step()
    assert [len(row.result.tokens) for row in rows] == [1, 1, 0, 0]
    batch.step()
    assert [len(row.result.tokens) for row in rows] == [2, 2, 1, 1]


def test_padding_counts_among_the_tokens_that_join_in_a_step() -> None:
    """Rows of one token beside one of three."""
    rows = [Row(COUNT.base, prompt, Sampling(3)) for prompt in ("a b c", *["a"] * 5)]
    batch = Batch(COUNT, prefill_tokens=12)
    batch.add(rows)
    batch.step()
    assert [len(row.result.tokens) for row in rows] == [1, 1, 1, 1, 0, 0], "four rows of three"


def test_a_row_with_nothing_to_decode_never_joins() -> None:
    batch = Batch(COUNT)
    batch.add([Row(COUNT.base, "a", Sampling(0))])
    assert len(batch) == 0
    assert batch.step() == ([], [])


def test_buffers_grow_past_what_was_reserved() -> None:
    """More steps than one growth of the buffers, with rows that come late."""
    one, other = Row(COUNT.base, "a", Sampling(58)), Row(COUNT.base, "b c a", Sampling(50))
    batch = Batch(COUNT)
    batch.add([one])
    for _ in range(40):
        batch.step()
    batch.add([other])
    while len(batch):
        batch.step()
    assert one.result.text.split() == ["b", "c", "a"] * 19 + ["b"]
    assert other.result.text.split() == (["b", "c", "a"] * 17)[:50]


def test_a_stop_string_over_two_tokens_ends_the_text_before_it() -> None:
    row = Row(COUNT.base, "a", Sampling(9, stop=("c a",)))
    batch = Batch(COUNT)
    batch.add([row])
    while len(batch):
        batch.step()
    assert (row.result.text, row.result.finish_reason) == (" b ", "stop")
    assert [token.delta for token in row.result.tokens] == [" b", " ", ""]
    assert "".join(token.delta for token in row.result.tokens) == row.result.text


def test_the_window_of_columns_follows_the_rows() -> None:
    """When the longest row has gone, its columns are not looked at any more."""
    cache = KeyValues(torch.device("cpu"), torch.float32)
    new = tiny_cache([[1, 2, 3, 4], [0, 0, 0, 9]])
    cache.join(new, [4, 1])
    assert (cache.starts, cache.get_seq_length()) == ([0, 3], 4)
    cache.keep([1])
    assert cache.get_seq_length() == 1
    cache.join(tiny_cache([[5, 6]]), [2])
    mask = cache.next_column()
    column = torch.full((2, 1, 1, 1), 7.0)
    keys, _ = cache.update(column, column, 0)
    seen = [keys[i, 0, :, 0][mask[i, 0, 0] == 0].tolist() for i in range(2)]
    assert seen == [[9.0, 7.0], [5.0, 6.0, 7.0]]


def tiny_cache(rows: list[list[int]]):
    from transformers import DynamicCache

    cache = DynamicCache()
    tensor = torch.tensor(rows, dtype=torch.float32)[:, None, :, None]
    cache.update(tensor, tensor.clone(), 0)
    return cache
