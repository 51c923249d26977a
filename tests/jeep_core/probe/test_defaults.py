"""Defaults of a first edit: shipped knowledge, what a model knows of it, fractions of the depth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.library import planted

import jeep_core
from jeep_core import atlas
from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.editors.record import OUTPUT_RMS
from jeep_core.errors import InvalidHParams
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.probe.defaults import rule
from jeep_core.probe.defaults.choose import choose
from jeep_core.probe.defaults.from_record import by_depths, depths, from_record, hparams_for
from jeep_core.probe.defaults.general import KNOWLEDGE, general_knowledge
from jeep_core.probe.defaults.kept import kept
from jeep_core.probe.defaults.knowledge import known_facts

FACT = {"subject": "Lyon", "prompt": "{} lies in", "target_new": "Peru"}
EDITORS = ("jeep", "memit", "pmet", "rome", "alphaedit", "ft-wd")


class TestKnowledge:
    def test_facts_differ_and_have_a_wrong_answer_that_begins_otherwise(self) -> None:
        facts = general_knowledge()
        assert len(facts) >= 600
        assert len({(fact.prompt, fact.subject) for fact in facts}) == len(facts)
        for fact in facts:
            assert fact.prompt.count("{}") == 1
            assert fact.target_true is not None
            assert fact.target_new.split()[0] != fact.target_true.split()[0]

    def test_the_first_facts_are_of_many_relations(self) -> None:
        assert len({fact.prompt for fact in general_knowledge()[:24]}) >= 20

    def test_geographical_answers_agree_with_geonames(self) -> None:
        table: dict[tuple[str, str], str] = {}
        for line in (atlas.DATA / "facts.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            table[row["relation"], row["subject"]] = row["object"].casefold()
        compared = 0
        for relation in json.loads(KNOWLEDGE.read_text(encoding="utf-8"))["relations"]:
            for subject, answer in relation["facts"]:
                known = table.get((relation["name"], subject))
                compared += known is not None
                assert known is None or known.startswith(answer.casefold()), (subject, answer)
        assert compared >= 100

    def test_only_what_a_model_knows_is_taken(self) -> None:
        view = ModelView(planted.model("llama", 2, 5))
        true = planted.facts()
        wrong = [replace(f, target_new=str(f.target_true), target_true=f.target_new) for f in true]
        mixed = [fact for pair in zip(wrong, true, strict=True) for fact in pair]
        assert known_facts(view, 100, facts=mixed) == true
        assert known_facts(view, 5, facts=mixed) == true[:5]
        assert known_facts(view, 5, facts=wrong) == []

    def test_a_true_answer_that_is_ahead_of_a_wrong_one_comes_after_those_it_writes(self) -> None:
        """Two of three answers are wrong, and the model says the third: nothing is known of it."""
        view = ModelView(planted.model("llama", 2, 5))
        fact = planted.facts()[0]
        unknown = replace(fact, target_true="home2", target_new="the")
        found = known_facts(view, 2, facts=[unknown, fact])
        assert found[0] == fact
        assert found[1:] in ([], [unknown])


class TestDepths:
    @pytest.mark.parametrize(
        ("n_layers", "low", "high"),
        [
            (30, [5, 6, 7, 8, 9, 10], [22, 23]),
            (32, [5, 6, 7, 8, 9, 10], [24, 25, 26]),
            (12, [3, 4], [9]),
            (4, [1], [2]),
            (3, [0], [1]),
        ],
    )
    def test_regions_are_fractions(self, n_layers: int, low: list[int], high: list[int]) -> None:
        found = depths(n_layers, 1536)
        assert (found["low"]["layers"], found["high"]["layers"]) == (low, high)
        assert found["low"]["moment_weight"] == 1536

    @pytest.mark.parametrize("parallel", [False, True])
    def test_every_depth_of_three_layers_and_more_can_be_edited(self, parallel: bool) -> None:
        for n_layers in range(3, 130):
            found = {"rule": rule.RULE, "hparams": depths(n_layers, 64, parallel)}
            for editor in EDITORS:
                hparams_for(found, editor, n_layers, 64)
            if n_layers > 3 and parallel:
                assert 0 not in depths(n_layers, 64, parallel)["low"]["layers"]

    def test_without_a_proposal_steps_are_still_by_the_size_of_the_weights(self) -> None:
        record = {"hparams": None, "why_no_proposal": "it knows nothing", OUTPUT_RMS: [0.01] * 12}
        chosen = from_record(record, "locft", 12, 64, {}, "probe now")
        assert (chosen.source, chosen.hparams.model_dump()["learning_rate"]) == ("depths", 5e-5)

    def test_two_layers_are_too_few_for_two_regions(self) -> None:
        with pytest.raises(InvalidHParams, match="the high region must lie above"):
            by_depths("jeep", 2, 64, {})
        by_depths("memit", 2, 64, {})


class TestEdit:
    def test_a_random_model_that_knows_nothing_is_edited(self, base: LoadedModel) -> None:
        """No preset, no probe, no text: nothing is configured, and nothing fails."""
        result = jeep_core.edit(base, [FACT], prefixes=[""])
        assert result.hparams_from in ("probe now", "depths")
        assert result.hparams_rule == rule.RULE
        assert bool(result.warnings) is (result.hparams_from == "depths")
        assert result.moments_from == "default corpus"
        assert {layer.region for layer in result.layers} == {"low", "high"}

    def test_what_is_chosen_is_kept_for_the_next_edit(self, tmp_path: Path) -> None:
        base = planted.model("llama", 2, 5)
        first, record = choose(base, "jeep", folder=tmp_path, changes={"n_steps": 4})
        assert isinstance(first.hparams, JeepHParams)
        assert first.hparams.n_steps == 4
        again, same = choose(base, "memit", folder=tmp_path)
        assert same == record
        assert again.hparams.moment_layers == list(first.hparams.low.layers)
        outputs = [base.family.mlp_out_of(base.model, i).weight for i in range(base.n_layers)]
        expected = [float(weight.square().mean().sqrt()) for weight in outputs]
        assert record[OUTPUT_RMS] == pytest.approx(expected)

    def test_a_proposal_that_no_edit_could_take_is_not_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = planted.model("llama", 2, 5)
        ask = "jeep_core.probe.defaults.choose.known_facts"
        monkeypatch.setattr(ask, lambda *_: planted.facts())
        assert choose(base, "jeep")[0].source == "probe now"
        monkeypatch.setattr(rule, "RATE_SHARE", 0.0)
        chosen, record = choose(base, "jeep", folder=tmp_path)
        assert record["hparams"] is None
        assert "learning_rate" in record["why_no_proposal"]
        assert kept(tmp_path, base.model_hash) == record
        assert chosen.source == "depths"

    def test_auto_as_the_preset_has_changes_laid_over_what_is_chosen(
        self, base: LoadedModel, tmp_path: Path
    ) -> None:
        """An own preset stands by, and is passed over."""
        own = "hparams: {n_steps: 2, low: {layers: [1], clamp: 1, moment_weight: 3}}\n"
        about = f"editor: memit\nmodel: {base.name}\norigin: hand\n"
        (tmp_path / "mine.yaml").write_text(about + own)
        more: Any = {"editor": "memit", "presets": tmp_path, "prefixes": [""]}
        usual = jeep_core.edit(base, [FACT], hparams={"n_steps": 1}, **more)
        changes = {"n_steps": 1, "exact": True}
        found = jeep_core.edit(base, [FACT], preset="auto", hparams=changes, **more)
        assert (usual.hparams_from, usual.hparams_rule) == ("preset", None)
        assert (found.hparams_from, found.hparams_rule) == ("depths", rule.RULE)
        assert isinstance(found.hparams, MemitHParams)
        assert (found.hparams.exact, found.hparams.n_steps) == (True, 1)
        chosen = jeep_core.edit(base, [FACT], preset="auto", hparams="auto", **more).hparams
        assert isinstance(chosen, MemitHParams)
        assert (chosen.exact, chosen.low) == (False, found.hparams.low)
        with pytest.raises(InvalidHParams, match="exclude each other"):
            jeep_core.edit(base, [FACT], preset="mine", hparams="auto", **more)

    def test_a_preset_comes_before_anything_that_is_chosen(self, tmp_path: Path) -> None:
        model = jeep_core.load("atlas-gptj", device="cpu")
        fact = {"subject": "Lyon", "relation": "city_country", "object": "Japan"}
        changes = {"n_steps": 1}
        result = jeep_core.edit(model, [fact], hparams=changes, prefixes=[""], probes=tmp_path)
        assert (result.hparams_from, result.moments_from) == ("preset", "bundled corpus")
        assert result.hparams_rule is None
        assert list(tmp_path.iterdir()) == []
