"""The editor that "auto" means: by published figures, sizes, history and what can be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
from support import ROOT
from support.library.tiny import chat_model, random_model

import jeep_core
from jeep_core.editors import EDITORS, available, preset_hparams, record_of
from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.errors import InvalidHParams
from jeep_core.probe.defaults.editor_choice import (
    Evidence,
    Figure,
    Situation,
    check_alone,
    choose_editor,
    order,
    shipped_evidence,
)
from jeep_core.probe.defaults.possible import editor_for
from jeep_core.sizing.shapes import SHAPES
from jeep_core.spec.hparams import load_preset

FACT = {"subject": "Lyon", "prompt": "{} lies in", "target_new": "Peru"}
OTHER = {**FACT, "subject": "Nice"}
RESULTS = ROOT / "docs" / "results"
KNOWN = {one.model: one for one in shipped_evidence()}


def measured(model: str, kind: str) -> dict[str, Any]:
    text = (RESULTS / f"{model}-{kind}" / "report.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def here(**changes: Any) -> Situation:
    """The bundled GPT-J with its shipped presets; every editor can be used."""
    presets = {name: load_preset(f"{name}-atlas-gptj").hparams for name in EDITORS}
    found = Situation("atlas-gptj", (9, 192), 1728, False, 1, 0, False, presets, lambda _: None)
    return replace(found, **changes)


def without(*editors: str) -> Any:
    return lambda editor: "it has no preset" if editor in editors else None


def figures(rows: Mapping[int, Mapping[str, tuple[float, float, float]]]) -> list[Evidence]:
    table = {n: {e: Figure(*values) for e, values in row.items()} for n, row in rows.items()}
    return [Evidence("atlas-gptj", (9, 192), False, "a suite", "a page", table)]


class TestFigures:
    @pytest.mark.parametrize("model", ["atlas-gptj", "atlas-llama"])
    def test_those_of_the_bundled_models_are_the_reports(self, model: str) -> None:
        for kind in ("seeds", "defaults"):
            report = measured(model, kind)
            of_default = set(report["settings"]) - ({"jeep", "memit"} if kind == "seeds" else set())
            rows = [row for row in report["experiments"]["comparison"] if "score" in row["metrics"]]
            rows = [row for row in rows if row["suite"] == "atlas-counterfact"]
            rows = [row for row in rows if row["editor"] in of_default]
            assert len(rows) == 4 * len(of_default)
            for row in rows:
                said, score = KNOWN[model].figures[row["edits"]][row["editor"]], row["metrics"]
                values = [round(score["score"][key], 1) for key in ("value", "low", "high")]
                assert [said.score, said.low, said.high] == values

    @pytest.mark.parametrize("model", ["atlas-gptj", "atlas-llama"])
    def test_they_were_measured_with_the_presets_that_ship(self, model: str) -> None:
        settings = measured(model, "seeds")["settings"] | measured(model, "defaults")["settings"]
        assert set(settings) == set(KNOWN[model].figures[1])
        for editor, used in settings.items():
            values = {f"{editor}-{model}": load_preset(f"{editor}-{model}").hparams}
            now = preset_hparams(editor, values, None, {}, 9)[1].model_dump(mode="json")
            then = used["hparams"]
            for name in {"low", "high"} & set(then):
                assert {key: now[name][key] for key in then[name]} == then[name], editor
            flat = {key: value for key, value in then.items() if key not in ("low", "high")}
            assert {key: now[key] for key in flat} == flat, editor

    @pytest.mark.parametrize(
        ("model", "heading"),
        [("smollm2-135m", "Default hyper-parameters"), ("gemma3-270m", "Gemma 3 270M")],
    )
    def test_those_of_real_models_are_in_the_page(self, model: str, heading: str) -> None:
        page = (ROOT / "docs" / "real-models.md").read_text(encoding="utf-8")
        section = page.split(f"\n## {heading}")[1].split("\n## ")[0]
        titles = {title.lower(): title for title in ("JEEP", "MEMIT", "AlphaEdit", "PMET", "FT-WD")}
        for size, row in KNOWN[model].figures.items():
            for editor, one in row.items():
                begins = f"| {size} | " if model == "smollm2-135m" else "| "
                rows = [
                    line
                    for line in section.splitlines()
                    if line.startswith(f"{begins}{titles[editor]} |")
                ]
                assert any(f"| {one} |" in line for line in rows), (editor, size)
        shape = SHAPES[model]
        assert KNOWN[model].shape == (shape["num_hidden_layers"], shape["hidden_size"])
        assert KNOWN[model].automatic

    def test_all_have_a_preset_of_their_name_and_shape(self) -> None:
        for one in shipped_evidence():
            assert (ROOT / one.source).is_file()
            for row in one.figures.values():
                for editor in row:
                    assert load_preset(f"{editor}-{one.model}").shape == one.shape

    def test_the_order_is_that_of_the_score_with_many_facts(self) -> None:
        assert set(order()) == set(EDITORS)
        means = {
            editor: fmean(
                KNOWN[model].figures[256][editor].score for model in KNOWN if "atlas" in model
            )
            for editor in KNOWN["atlas-gptj"].figures[256]
        }
        assert sorted(means, key=lambda name: -means[name]) == [e for e in order() if e in means]

    def test_many_small_batches_end_where_a_large_one_does(self) -> None:
        """The reason why earlier facts count as those of the batch do."""
        runs = json.loads((ROOT / "docs/figures/lasting.json").read_text(encoding="utf-8"))
        chains = {
            one["model"]: one["records"][-1]["all"]["score"]
            for one in runs
            if one["label"] == "jeep" and one["preserve"] and one["size"] == 16
        }
        assert {name: round(score, 1) for name, score in chains.items()} == {
            "atlas-gptj": 91.9,
            "atlas-llama": 89.5,
        }


class TestRule:
    def test_an_editor_that_is_ahead_by_its_interval_is_taken(self) -> None:
        rows = {16: {"jeep": (80.0, 75, 85), "memit": (90.0, 86, 94), "pmet": (84.0, 80, 86)}}
        found = choose_editor(here(), figures(rows))
        assert found.editor == "memit"
        assert "16 facts edited together memit has Score 90.0 (86–94), not to be" in found.reason
        rows[16]["pmet"] = (84.0, 80, 85)
        said = choose_editor(here(), figures(rows)).reason
        assert "ahead of pmet with 84.0 (80–85), on atlas-gptj (a suite; a page)" in said

    def test_of_those_that_cannot_be_told_apart_the_first_in_order_is_taken(self) -> None:
        rows = {16: {"pmet": (90.0, 86, 94), "memit": (85.0, 81, 86), "jeep": (80.0, 75, 85.9)}}
        found = choose_editor(here(), figures(rows))
        assert (found.editor, "from pmet with 90.0 (86–94)" in found.reason) == ("memit", True)

    @pytest.mark.parametrize(
        ("batch", "earlier", "editor", "size"),
        [
            (1, 0, "jeep", "1 fact"),
            (2, 0, "memit", "16 facts"),
            (1, 15, "memit", "16 facts"),
            (16, 1, "pmet", "64 facts"),
            (65, 0, "pmet", "64 facts edited together (the most measured; 65 are wanted)"),
        ],
    )
    def test_the_batch_and_the_earlier_facts_together_are_the_size(
        self, batch: int, earlier: int, editor: str, size: str
    ) -> None:
        one, two = (90.0, 89, 91), (80.0, 79, 81)
        rows = {
            1: {"jeep": one, "memit": two, "pmet": two},
            16: {"jeep": two, "memit": one, "pmet": two},
            64: {"jeep": two, "memit": two, "pmet": one},
        }
        found = choose_editor(here(n_facts=batch, n_earlier=earlier), figures(rows))
        assert found.editor == editor
        assert found.reason.startswith(f"with {size} ")
        assert ("earlier fact" in found.reason) == bool(earlier)

    def test_what_keeps_nothing_of_earlier_facts_stands_back(self) -> None:
        rows = {16: {"ft-wd": (95.0, 94, 96), "memit": (80.0, 79, 81)}}
        assert choose_editor(here(), figures(rows)).editor == "ft-wd"
        found = choose_editor(here(n_earlier=3), figures(rows))
        assert found.editor == "memit"
        assert "takes 3 earlier facts into account" in found.reason
        keeping = {name for name in EDITORS if record_of(name).keeps_earlier}
        alone = here(n_earlier=3, hindrance=without(*keeping))
        found = choose_editor(alone, figures(rows))
        assert found.editor == "ft-wd"
        assert "it does not take 3 earlier facts into account" in found.reason
        assert "jeep cannot be used: it has no preset" in found.reason

    def test_what_keys_or_states_are_kept_for_is_said_by_the_records(self) -> None:
        for name in EDITORS:
            record = record_of(name)
            by_keys = "preserve_previous_edits" in record.hparams.model_fields
            assert record.keeps_earlier == (by_keys or name in ("ultraedit", "crispedit"))

    def test_a_model_of_chats_is_edited_for_both_ways_of_asking(self) -> None:
        rows = {16: {"malmen": (95.0, 94, 96), "pmet": (80.0, 79, 81)}}
        assert choose_editor(here(), figures(rows)).editor == "malmen"
        assert choose_editor(here(chat=True), figures(rows)).editor == "pmet"

    @pytest.mark.parametrize(
        "changes",
        [
            {"shape": (9, 193)},
            {"model": "atlas-gptk"},
            {"automatic": True},
            {"presets": {}},
            {"presets": {"jeep": {}, "memit": {"n_steps": 3}}},
        ],
        ids=str,
    )
    def test_figures_of_another_model_or_setting_do_not_count(
        self, changes: dict[str, Any]
    ) -> None:
        rows = {16: {"memit": (95.0, 94, 96), "jeep": (80.0, 79, 81)}}
        found = choose_editor(here(**changes), figures(rows))
        assert found.editor == "jeep"
        assert "there are no figures of atlas-gpt" in found.reason
        copy = choose_editor(here(model="owner/ATLAS-gptj"), figures(rows))
        assert copy.editor == "memit"

    def test_so_many_facts_that_all_editors_lose_answers_are_warned_of(self) -> None:
        assert "dimensions" not in choose_editor(here(n_facts=345)).reason
        assert (
            "346 facts are more than a fifth of the 1728"
            in choose_editor(here(n_facts=300, n_earlier=46)).reason
        )

    def test_where_none_can_be_used_the_default_one_is_left_to_say_why(self) -> None:
        found = choose_editor(here(hindrance=without(*EDITORS)))
        assert (found.editor, "no editor can be used" in found.reason) == ("jeep", True)

    def test_the_bundled_models_are_edited_with_jeep(self) -> None:
        found = choose_editor(here(n_facts=200))
        said = "jeep has Score 98.6 (98.3–99), ahead of memit with 91.9 (90.9–92.9), on atlas-gptj"
        assert (found.editor, said in found.reason) == ("jeep", True)
        assert "docs/results.md" in found.reason


class TestOfALoadedModel:
    def test_a_misspelt_auto_is_refused_with_what_there_is(self) -> None:
        with pytest.raises(InvalidHParams, match=r"did you mean 'auto'\? there are: .*, auto"):
            jeep_core.edit(random_model("llama"), [FACT], "Auto")

    def test_an_edit_says_which_editor_it_took_and_why(self) -> None:
        base = random_model("llama")
        named = jeep_core.edit(base, [FACT], "ft-wd", hparams={"layer": 2, "n_steps": 2})
        assert (named.editor, named.editor_reason) == ("ft-wd", None)
        found = jeep_core.edit(base, [FACT], "auto", hparams="auto", prefixes=[""])
        assert found.editor == "jeep"
        assert isinstance(found.hparams, JeepHParams)
        assert str(found.editor_reason).startswith("there are no figures of ")
        more: Any = {"prefixes": [""], "previous_keys": found.keys}
        again = jeep_core.edit(found.view, [OTHER], "auto", **more)
        assert str(again.editor_reason).endswith("it takes 1 earlier fact into account")

    def test_a_model_of_chats_has_two_keys_for_a_fact(self) -> None:
        keys = {("low", 1): range(6), ("high", 2): range(6)}
        said = editor_for(chat_model(), 1, keys).reason
        assert "it takes 3 earlier facts into account" in said

    def test_a_model_without_room_for_two_regions_is_edited_with_the_next(self) -> None:
        small: Any = SimpleNamespace(
            name="mine", shape=(2, 32), n_layers=2, mlp_size=64, chat=None, model_hash="0" * 64
        )
        found = editor_for(small, 3, {})
        assert found.editor == "memit"
        assert "jeep cannot be used: " in found.reason
        assert "the high region must lie above" in found.reason

    @pytest.mark.parametrize(
        ("more", "pointer"),
        [
            ({"preset": "jeep-atlas-gptj"}, "/preset"),
            ({"hparams": {"n_steps": 3}}, "/hparams"),
            ({"states": [{}]}, "/states"),
        ],
    )
    def test_what_belongs_to_one_editor_is_refused(self, more: Any, pointer: str) -> None:
        with pytest.raises(InvalidHParams) as refused:
            jeep_core.edit(random_model("llama"), [FACT], "auto", **more)
        [problem] = refused.value.problems
        assert (problem.pointer, problem.code) == (pointer, "with_auto_editor")
        assert 'instead of "auto"' in problem.message

    def test_nothing_is_refused_beside_automatic_hyper_parameters(self) -> None:
        check_alone(None, "auto")
        check_alone(None, {})


def test_no_editor_has_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidHParams, match='only an edit takes "auto"; name one of jeep, memit'):
        record_of("auto")
    monkeypatch.setattr("jeep_core.editors.registered", lambda: {"auto": []})
    assert "auto" not in available()[0]
