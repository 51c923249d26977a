"""Memory of a region that is written: what is kept of all rows, against what a reader keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.library import tiny

from jeep_core.models.token_rows import shared_length
from jeep_core.models.views import ModelView
from jeep_core.sizing import memory
from jeep_core.sizing.architecture import BYTES, Architecture, architecture_of
from jeep_core.sizing.demand import Editing, Settings, Workload, Written
from jeep_core.sizing.operations import read_tokens
from jeep_core.sizing.source import known_model
from jeep_core.spec.facts import Fact
from jeep_core.spec.positions import fact_rows
from jeep_core.values.climb import rows as climb
from jeep_core.values.reader import RegionReader

PREFIXES = ("", "The river is wide and the land around it is old", "I am old and the land")
FACTS = [
    Fact(subject, "People who live in {} are at home in", "Peru")
    for subject in ("Paris", "São Paulo", "3M", "Norway", "a town by the river")
]


def kept_bytes(batch: Any) -> int:
    """The bytes that a reader keeps of a batch: states, and what was seen of their block."""
    attention = batch.seen.attention
    given = attention[0] if isinstance(attention, tuple) else attention
    kept = (batch.states, given, batch.seen.inner, batch.seen.key)
    return sum(tensor.nbytes for tensor in kept if tensor is not None)


def architecture(base: Any) -> Architecture:
    record: dict[str, Any] = json.loads(base.model.config.to_json_string(use_diff=True))
    return architecture_of(record, base.name)


@pytest.mark.parametrize("position", ["subject_last", "prediction"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_what_is_kept_of_all_rows_is_what_is_counted(
    family: str, dtype: torch.dtype, position: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(climb, "FEWEST", 10**6)  # keys are kept of padding, too
    base = tiny.random_model(family, dtype)
    rows = [fact_rows(base.tokenizer, fact, PREFIXES)[0] for fact in FACTS]
    reader = RegionReader(ModelView(base), rows, position, 2)
    reader.read(1)
    batches = [*reader._plain, *reader._others]
    rows_kept = sum(map(kept_bytes, batches))
    masks = [next(iter(m.values())) if isinstance(m := one.mask, dict) else m for one in batches]
    leads = [shared_length([fact[j] for fact in rows]) for j in range(len(PREFIXES))]
    # rows are padded to the longest, and what is before them to the longest prefix
    longest = max((row for fact in rows for row in fact[:1]), key=lambda row: len(row.ids))
    load = Workload(
        facts=len(FACTS),
        prefix=max(leads),
        left=longest.subject_last - leads[0],
        segment=longest.prediction + longest.n_target - longest.subject_last,
        answer=longest.n_target,
    )
    region = Written("x", (1, 2), False, position == "subject_last")
    editing = Editing("memit", (region,), len(PREFIXES), 2)
    settings = Settings(str(dtype).removeprefix("torch."), "cpu")
    counted = memory.rows_kept(architecture(base), editing, region, load, settings)
    assert rows_kept + sum(mask.nbytes for mask in masks) == pytest.approx(counted, rel=0.1)


def test_many_facts_count_where_they_are_written() -> None:
    """They are more than any system or matrix, and within the bound on the memory of an edit."""
    arch = known_model("llama-3.1-8b").architecture
    regions = (Written("low", (5, 6), False, True), Written("high", (18, 19), False, False))
    editing, load = Editing("jeep", regions, 5, 30), Workload(facts=8192)
    settings = Settings("bfloat16", "cuda")
    held = memory.writing(arch, editing, load, settings)
    kept = arch.d * 2 + arch.d_ff / editing.rows
    rows = 8192 * 5 * read_tokens(regions[1], load) * kept * BYTES["bfloat16"]
    assert held > rows
    bound = 2**30
    bounded = memory.writing(arch, editing, load, replace(settings, edit_bytes=bound))
    assert bounded == pytest.approx(held - rows + bound)
