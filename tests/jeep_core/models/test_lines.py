"""Several texts in one row: positions, targets, masks, and lines that join and leave."""

from __future__ import annotations

import pytest
import torch

from jeep_core.models.lines import (
    NO_TARGET,
    NO_TEXT,
    LinePast,
    Lines,
    chosen_columns,
    token_lines,
)
from jeep_core.models.masks import NOWHERE, Attention, additive_mask
from jeep_core.spec.positions import PromptTokens

CPU = torch.device("cpu")
ASKED = PromptTokens(ids=(10, 11, 12, 13, 14, 15), subject_last=2, prediction=3, n_target=2)
SHORT = PromptTokens(ids=(20, 21, 22), subject_last=1, prediction=1, n_target=1)
SILENT = PromptTokens(ids=(30, 31, 32), subject_last=1, prediction=2, n_target=0)


def test_a_line_holds_the_texts_up_to_what_is_read_last() -> None:
    lines = token_lines([[ASKED, SILENT], [SHORT, SILENT]], [1, 0], 99, CPU)
    assert lines.ids.tolist() == [[11, 12, 13, 14, 30, 31], [21, 30, 31, 0, 0, 0]]
    assert lines.texts.tolist() == [[0, 0, 0, 0, 1, 1], [0, 1, 1, *[NO_TEXT] * 3]]
    assert lines.positions.tolist() == [[1, 2, 3, 4, 0, 1], [1, 0, 1, 0, 0, 0]]
    none = NO_TARGET
    assert lines.targets.tolist() == [[none, none, 14, 15, none, none], [22, *[none] * 5]]
    assert lines.first.tolist() == [
        [False, True, False, False, False, True],
        [True, False, True, False, False, False],
    ]
    # a text that ends at its subject is asked there; one without a target is not asked
    assert lines.prediction.nonzero().tolist() == [[0, 2], [1, 0]]
    assert lines.starts.sum(dim=1).tolist() == [4, 2]


def test_positions_stay_below_the_models_limit() -> None:
    assert token_lines([[ASKED]], [0], 3, CPU).positions.tolist() == [[0, 1, 2, 2, 2]]


def test_a_token_sees_its_own_text_only() -> None:
    past, own = torch.tensor([[0, 0, 1]]), torch.tensor([[1, 2, 1, 0]])
    texts = torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 2, NO_TEXT]])
    seen = additive_mask(past, own, torch.float32, texts=texts)[0, 0] == 0
    assert seen.int().tolist() == [
        [1, 0, 0, 1, 0, 0, 0],
        [1, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]
    near = additive_mask(past, own, torch.float32, 2, texts)[0, 0] == 0
    assert near.int()[1].tolist() == [0, 0, 0, 1, 1, 0, 0]


def test_columns_are_chosen_in_order_and_padded() -> None:
    marked = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0]]).bool()
    columns, real = chosen_columns(marked)
    assert columns[0].tolist() == [1, 3, 4]
    assert columns[1, 0] == 0
    assert real.tolist() == [[True] * 3, [True, False, False]]


def made(width: int, left: int, first: float) -> Lines:
    """One line of ``width`` tokens after ``left`` ones; the second half of it has no target."""
    half = width // 2
    texts = torch.tensor([[0] * (width - half) + [1] * half])
    marks = torch.zeros(1, width, dtype=torch.bool)
    marks[0, 0] = marks[0, width - half] = True
    asked = torch.zeros(1, width, dtype=torch.bool)
    asked[0, 0] = True
    targets = torch.full((1, width), NO_TARGET)
    targets[0, 0] = 7
    states = torch.full((1, 2, left, 4), first)
    past = LinePast({3: (states, -states)}, torch.zeros(1, left).long(), torch.arange(left)[None])
    segment = torch.full((1, width, 5), first)
    positions = torch.arange(width)[None]
    return Lines(segment, texts, positions, targets, marks, asked, past, Attention())


def test_lines_join_and_leave_without_a_trace() -> None:
    wide, narrow = made(6, 3, 1.0), made(4, 1, 2.0)
    both = wide.join(narrow)
    assert both.segment.shape == (2, 6, 5)
    assert both.texts[1].tolist() == [0, 0, 1, 1, NO_TEXT, NO_TEXT]
    assert both.past.positions.tolist() == [[0, 1, 2], [0, NOWHERE, NOWHERE]]
    assert both.at_first(both.segment)[:, :, 0].tolist() == [[1.0, 1.0], [2.0, 2.0]]
    left = both.keep(torch.tensor([1]))
    for name in ("segment", "texts", "positions", "targets", "first", "prediction", "mask"):
        assert torch.equal(getattr(left, name), getattr(narrow, name)), name
    assert torch.equal(left.past.states[3][1], narrow.past.states[3][1])


@pytest.mark.parametrize("width", [4, 6])
def test_the_head_is_read_at_targets_and_at_a_silent_texts_subject(width: int) -> None:
    lines = made(width, 1, 1.0)
    assert lines.read_place.tolist() == [0, width - width // 2]
    assert lines.read_text.tolist() == [0, 1]
    assert lines.read_target.tolist() == [7, NO_TARGET]
