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
from jeep_core.editors import EDITORS, available, record_of
from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.errors import InvalidHParams
from jeep_core.probe.defaults.editor_choice import (
    Evidence,
    Figure,
    Lasting,
    Situation,
    check_alone,
    choose_editor,
    complete,
    order,
    shipped_evidence,
)
from jeep_core.probe.defaults.from_record import hparams_for
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


def real(**changes: Any) -> Situation:
    """SmolLM2, which has a chat template, with its shipped presets."""
    names = ("jeep", "memit", "alphaedit", "pmet", "ft-wd")
    presets = {name: load_preset(f"{name}-smollm2-135m").hparams for name in names}
    usable = without(*(set(EDITORS) - set(names) - {"ultraedit"}))
    model = ("smollm2-135m", (30, 576), 1536, True, 1, 0, False, presets, usable)
    return replace(Situation(*model), **changes)


def without(*editors: str) -> Any:
    return lambda editor: "it has no preset" if editor in editors else None


def figures(rows: Mapping[int, Mapping[str, tuple[float, float, float]]]) -> list[Evidence]:
    table = {n: {e: Figure(*values) for e, values in row.items()} for n, row in rows.items()}
    with_these = {name: complete(name, values) for name, values in here().presets.items()}
    return [Evidence("atlas-gptj", (9, 192), (), "a suite", "a page", with_these, table)]


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
        known = KNOWN[model]
        assert set(settings) == set(known.figures[1]) == set(known.measured_with)
        assert known.automatic == []
        for editor, used in settings.items():
            # fields that came later have their defaults
            said = complete(editor, load_preset(f"{editor}-{model}").hparams)
            assert known.measured_with[editor] == said == complete(editor, used["hparams"]), editor

    def test_those_of_real_models_say_what_they_were_measured_with(self) -> None:
        """λ of PMET's rows, which the page names, is not that of today: they count for nobody."""
        page = (ROOT / "docs" / "real-models.md").read_text(encoding="utf-8")
        assert "λ = d_ff (1,500)" in page
        assert "all others of this page with 0.2 d_ff (310, Gemma 410)" in page
        known, model = KNOWN["smollm2-135m"], "smollm2-135m"
        assert set(known.measured_with) == {name for row in known.figures.values() for name in row}
        path = ROOT / "docs/figures" / f"probe-{model}" / "probe.json"
        record, shape = json.loads(path.read_text(encoding="utf-8")), SHAPES[model]
        size = shape["num_hidden_layers"], shape["intermediate_size"]
        of_the_rule = {
            name: complete(name, hparams_for(record, name, *size).model_dump())
            for name in known.measured_with
        }
        same = [name for name, said in known.measured_with.items() if said == of_the_rule[name]]
        assert known.automatic == same == ["jeep", "memit", "alphaedit", "ft-wd", "ultraedit"]
        weights = {
            name: said["low"]["moment_weight"]
            for name, said in known.measured_with.items()
            if "low" in said
        }
        assert weights == {"jeep": 1500, "memit": 1500, "alphaedit": 10, "pmet": 310}
        low = {**of_the_rule["pmet"]["low"], "moment_weight": 310}
        assert known.measured_with["pmet"] == {**of_the_rule["pmet"], "low": low}

    def test_none_of_gemma_was_measured_with_what_would_be_used(self) -> None:
        page = (ROOT / "docs" / "real-models.md").read_text(encoding="utf-8")
        assert "rates 6.1 and 61, λ 410" in page.split("\n## Gemma 3 270M")[1].split("\n## ")[0]
        assert load_preset("memit-gemma3-270m").hparams["low"]["moment_weight"] == 2000
        known = KNOWN["gemma3-270m"]
        assert (known.figures, known.automatic) == ({}, [])
        presets = {name: load_preset(f"{name}-gemma3-270m").hparams for name in ("jeep", "memit")}
        gemma = Situation("gemma3-270m", (18, 640), 2048, False, 1, 0, False, presets, without())
        for one in (gemma, replace(gemma, automatic=True)):
            said = choose_editor(one)
            begins = "there are no figures of gemma3-270m with these hyper-parameters (docs/real-"
            assert (said.editor, said.reason.startswith(begins)) == ("jeep", True)

    def test_those_of_long_sequences_are_in_the_page(self) -> None:
        found = KNOWN["smollm2-135m"].lasting
        assert found is not None
        page = (ROOT / found.source).read_text(encoding="utf-8")
        section = page.split("\n## 1,000 real facts on SmolLM2")[1].split("\n#")[0]
        said = f"edits {found.facts} records of CounterFact in ten batches of {found.batch}"
        assert said in " ".join(section.split())
        # measured with what would be used now
        weights = {"jeep": "1,500", "memit": "1,500", "alphaedit": "10 on what is left"}
        assert set(found.written) == set(weights)
        cells = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")]
        rows = [[cell.strip(" *").split(" (")[0].casefold() for cell in line] for line in cells]
        for editor, share in found.written.items():
            [row] = [row for row in rows if row[:2] == [editor, weights[editor]]]
            assert row[5] == f"{share:.1f}"

    def test_those_of_real_models_are_all_those_of_the_page(self) -> None:
        page = (ROOT / "docs" / "real-models.md").read_text(encoding="utf-8")
        section = page.split("\n## Default hyper-parameters")[1].split("\n## ")[0]
        rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")]
        names = [name for name in EDITORS if name != "rome"]
        said = {
            (int(row[0].strip("| ")), row[1].casefold()): row[5]
            for row in rows
            if row[1].casefold() in names
        }
        figures_of = {
            (size, editor): str(one)
            for size, row in KNOWN["smollm2-135m"].figures.items()
            for editor, one in row.items()
        }
        assert figures_of == said
        for model in ("smollm2-135m", "gemma3-270m"):
            shape = SHAPES[model]
            assert KNOWN[model].shape == (shape["num_hidden_layers"], shape["hidden_size"])

    def test_all_have_a_preset_of_their_name_and_shape(self) -> None:
        for one in shipped_evidence():
            assert (ROOT / one.source).is_file()
            for row in one.figures.values():
                for editor in set(row) - set(one.automatic):
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

    def test_rows_that_were_measured_with_other_hyper_parameters_are_named(self) -> None:
        found = choose_editor(real())
        said = "jeep has Score 76.5 (57–88), not to be told apart from memit with 76.5 (57–88)"
        assert (found.editor, said in found.reason, "83.3" in found.reason) == ("jeep", True, False)
        assert found.reason.endswith("; not compared (measured with other hyper-parameters): pmet")
        assert choose_editor(real(automatic=True)).reason == found.reason
        # who edits with the preset of those rows
        presets = dict(real().presets)
        low = {**presets["pmet"]["low"], "moment_weight": 310}
        presets["pmet"] = {**presets["pmet"], "low": low, "contexts": "plain"}
        again = choose_editor(real(presets=presets)).reason
        assert "not to be told apart from pmet with 83.3 (64–95)" in again
        assert "not compared" not in again

    def test_an_editor_without_a_preset_is_used_as_auto_chooses(self) -> None:
        alone = real(n_facts=16, hindrance=without(*(set(EDITORS) - {"ultraedit"})))
        found = choose_editor(alone)
        assert found.editor == "ultraedit"
        assert "ultraedit has Score 55.1 (47–61)" in found.reason

    def test_a_long_history_is_told_of_long_sequences(self) -> None:
        said = (
            "of 999 facts in batches of 100 the last version wrote 91.6 % with jeep, 86.9 % with "
            "memit, 86.3 % with alphaedit (docs/lasting.md)"
        )
        assert said in choose_editor(real(n_facts=100, n_earlier=900)).reason
        assert "999" not in choose_editor(real(n_facts=100, n_earlier=100)).reason
        assert "999" not in choose_editor(real(n_facts=1000)).reason
        rows = figures({16: {"jeep": (80.0, 79, 81)}})
        long = replace(rows[0], lasting=Lasting(40, 10, "a page", {"jeep": 9.0, "memit": 8.0}))
        presets = {**here().presets, "memit": {**here().presets["memit"], "n_steps": 3}}
        reason = choose_editor(here(n_earlier=16, presets=presets), [long]).reason
        assert "of 40 facts in batches of 10 the last version wrote 9.0 % with jeep (a p" in reason

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
        found = jeep_core.edit(base, [FACT], "auto", preset="auto", prefixes=[""])
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
            ({"preset": "auto", "hparams": {"n_steps": 3}}, "/hparams"),
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
        check_alone("auto", {})


def test_no_editor_has_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InvalidHParams, match='only an edit and its plan take "auto"; name one of jeep, memit'
    ):
        record_of("auto")
    monkeypatch.setattr("jeep_core.editors.registered", lambda: {"auto": []})
    assert "auto" not in available()[0]
