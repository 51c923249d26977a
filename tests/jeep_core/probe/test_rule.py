"""The rule from a probe's figures to hyper-parameters, and records that were made under another."""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from support.library import planted

from jeep_core.editors import EDITORS, record_of
from jeep_core.errors import InvalidHParams
from jeep_core.models.views import ModelView
from jeep_core.probe.defaults import choose as choosing
from jeep_core.probe.defaults import rule
from jeep_core.probe.defaults.choose import PROBED_AGAIN, choose, record_sha256
from jeep_core.probe.defaults.from_record import depths, from_record, hparams_for
from jeep_core.probe.defaults.kept import keep
from jeep_core.probe.defaults.rule import (
    RULE,
    Evidence,
    Insufficient,
    NoProposal,
    Scale,
    hyper_parameters,
    proposed,
    suffices,
)
from jeep_core.probe.run import probe

MLP_SIZE = 1536
OUTPUTS = {1: "28f32a0d9e5272313781337f01fb21eb8ee3a9cc21ebbdfe6a3d2eea256b5887"}
"""By rule: the hash of all that it makes of two published records and of the depth."""


def published(model: str) -> dict[str, Any]:
    """A record of a version whose rules had no numbers."""
    path = ROOT / "docs/figures" / f"probe-{model}" / "probe.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert not {"rule", "measured"} & set(found)
    return found


def evidence(before: float = 0.5, spread: float | None = 3.0) -> Evidence:
    """Of a model of 12 blocks whose state decides 0.45 of ``before`` up to block 4."""
    effect = [0.45] * 5 + [0.1] * 7
    contrast = [0.0] * 8 + [0.3, 0.1, 0.1, 0.0]
    spreads: dict[str, list[float | None]] = {
        "subject_last": [spread] * 12,
        "prediction": [4.0 + i for i in range(12)],
    }
    return Evidence(effect, before, contrast, Scale(MLP_SIZE, False, False, spreads))


@pytest.mark.parametrize(
    ("before", "order", "clamp", "low", "high"),
    [
        (0.47, "separately", 0.25, 1.0, 1.0),
        (0.5625, "separately", 0.25, 1.0, 1.0),
        (0.57, "together", 1.0, 0.2, 0.02),
    ],
)
def test_the_high_region_shares_an_edit_that_the_subject_cannot_carry(
    before: float, order: str, clamp: float, low: float, high: float
) -> None:
    found = hyper_parameters(evidence(before))
    assert found["high"]["clamp"] == clamp
    assert found["high"]["moment_weight"] == pytest.approx(high * MLP_SIZE, rel=0.05)
    weight = pytest.approx(low * MLP_SIZE, rel=0.05)
    assert (found["low"]["clamp"], found["low"]["moment_weight"]) == (1.5, weight)
    automatic = record_of("jeep").automatic
    assert automatic is not None
    assert automatic(found)["optimise"] == order


def test_every_region_has_the_rate_of_its_own_state() -> None:
    found = hyper_parameters(evidence())
    assert (found["low"]["layers"], found["high"]["layers"]) == ([3, 4], [8])
    assert (found["learning_rate"], found["high"]["learning_rate"]) == (1.5, 6.0)


def test_states_that_are_not_finite_propose_nothing() -> None:
    with pytest.raises(NoProposal, match="at the end of block 4 are not finite"):
        hyper_parameters(evidence(spread=None))


def test_another_outcome_has_another_number() -> None:
    """What the rule makes of fixed figures may change only with its number."""
    automatic = [name for name in EDITORS if record_of(name).automatic is not None]
    made: list[Any] = [depths(n, MLP_SIZE, parallel) for n in (9, 30) for parallel in (False, True)]
    made += [hyper_parameters(evidence(before)) for before in (0.5, 0.9)]
    for model in ("smollm2-135m", "atlas-gptj"):
        record = published(model)
        n_layers = record["n_layers"]
        for editor in automatic:
            chosen = hparams_for(record, editor, n_layers, MLP_SIZE, chat=True)
            made.append(chosen.model_dump(mode="json", exclude_unset=True))
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    assert OUTPUTS.get(RULE) == digest, (
        "the same figures lead to other hyper-parameters: raise RULE in "
        f"jeep_core/probe/defaults/rule.py, and add its outputs here: {digest}"
    )
    assert len(set(OUTPUTS.values())) == len(OUTPUTS)


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """A record of this version, of a planted model, as it is read from its file."""
    found = probe(ModelView(planted.model("llama", 2, 5)), planted.facts(), quick=True).record()
    read: dict[str, Any] = json.loads(json.dumps(found))
    return read


def test_what_is_kept_leads_to_what_was_proposed(record: dict[str, Any]) -> None:
    assert record["rule"] == RULE
    assert record["hparams"] is not None
    assert proposed(record, None) == record["hparams"]


def test_a_record_of_another_rule_is_followed_by_the_rule_of_today(record: dict[str, Any]) -> None:
    other = deepcopy(record) | {"rule": RULE - 1}
    other["hparams"]["low"] = {"layers": [3], "clamp": 9.0, "moment_weight": 7.0}
    assert hparams_for(other, "jeep", 9, 64) == hparams_for(record, "jeep", 9, 64)


@pytest.mark.parametrize("change", [{}, {"parallel": True}])
def test_a_record_without_a_number_is_followed_by_the_rule_of_today(
    record: dict[str, Any], change: dict[str, Any]
) -> None:
    """λ was a fifth of d_ff once; a kept record must not go on with it."""
    old = {k: v for k, v in record.items() if k not in ("rule", "measured")} | change
    old["hparams"] = deepcopy(record["hparams"])
    for region in ("low", "high"):
        old["hparams"][region]["moment_weight"] /= 5
    mlp_size = record["measured"]["mlp_size"]
    assert suffices(old, mlp_size)
    again = proposed(old, mlp_size)
    for region in ("low", "high"):
        expected = record["hparams"][region]["moment_weight"]
        assert again[region]["moment_weight"] == expected
    assert {**again, "low": None, "high": None} == {**record["hparams"], "low": None, "high": None}
    with pytest.raises(Insufficient, match="size of the MLPs"):
        proposed(old, None)


def test_a_rule_that_ends_elsewhere_needs_spreads_that_old_records_lack(
    record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {k: v for k, v in record.items() if k not in ("rule", "measured")}
    monkeypatch.setattr(rule, "LOW_END", 0.12)
    assert suffices(record, 64), "it has the spread of every block"
    assert proposed(record, 64)["low"]["layers"] == [0]
    assert not suffices(old, 64)
    with pytest.raises(InvalidHParams, match=r"another version .*: probe the model again"):
        hparams_for(old, "jeep", 9, 64)
    chosen = from_record(old, "jeep", 9, 64, {}, "kept probe")
    assert (chosen.source, chosen.rule) == ("depths", RULE)


@pytest.mark.parametrize("lacking", ["rate", "figures", "proposal"])
def test_a_kept_record_that_lacks_figures_is_made_again_and_it_is_said(
    record: dict[str, Any], lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = planted.model("llama", 2, 5)
    old = {k: v for k, v in deepcopy(record).items() if k not in ("rule", "measured")}
    if lacking == "rate":
        del old["hparams"]["high"]["learning_rate"]
    elif lacking == "figures":
        old = {"model_hash": base.model_hash, "hparams": record["hparams"]}
    else:
        old["hparams"], old["why_no_proposal"] = None, "an earlier rule found nothing"
    keep(tmp_path, old)
    monkeypatch.setattr(choosing, "default_probe", lambda *_: record)
    chosen, used = choose(base, "jeep", folder=tmp_path)
    assert (chosen.source, chosen.warnings, used) == ("probe now", (PROBED_AGAIN,), record)
    chosen, used = choose(base, "jeep", folder=tmp_path)
    assert (chosen.source, chosen.warnings, used) == ("kept probe", (), record)


@pytest.mark.parametrize("spread", [{}, {"subject_last": [], "prediction": []}], ids=repr)
def test_a_record_whose_spreads_are_others_lacks_figures(
    record: dict[str, Any], spread: dict[str, Any]
) -> None:
    """As that of a newer version might be, after going back to this one."""
    newer = {**record, "rule": RULE + 1, "measured": {**record["measured"], "spread": spread}}
    assert not suffices(newer, 64)
    with pytest.raises(Insufficient, match="another version"):
        proposed(newer, 64)


def test_a_kept_record_of_another_rule_keeps_its_bytes(
    record: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = planted.model("llama", 2, 5)
    other = {**record, "rule": RULE + 1, "hparams": None}
    path = keep(tmp_path, other)
    before = path.read_bytes()
    with caplog.at_level("INFO", choosing.__name__):
        chosen, used = choose(base, "jeep", folder=tmp_path)
    assert f"made under rule {RULE + 1}: rule {RULE} is applied" in caplog.text
    assert (chosen.source, chosen.rule) == ("kept probe", RULE)
    assert chosen.hparams == hparams_for(record, "jeep", 9, base.mlp_size)
    assert (path.read_bytes(), record_sha256(used)) == (before, record_sha256(other))


def test_a_probe_that_ended_without_figures_is_not_repeated_under_its_rule() -> None:
    ended = {"rule": RULE, "hparams": None, "why_no_proposal": "it knows nothing"}
    assert suffices(ended, 64)
    with pytest.raises(NoProposal, match="it knows nothing"):
        proposed(ended, 64)
    assert not suffices({**ended, "rule": RULE + 1}, 64)
