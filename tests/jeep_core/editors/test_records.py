"""The records of the editors: what they say, what is derived, what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import Field, ValidationError
from support.library.tiny import TEXTS, random_model

from jeep_core import editors
from jeep_core.editors import EDITORS, EditorPlugin, EditorRecord, available, create, record_of
from jeep_core.editors.base import (
    EditContext,
    EditorOutcome,
    Targets,
    objective_for,
    write_region,
)
from jeep_core.editors.memit.hparams import MemitHParams
from jeep_core.editors.networks.hparams import HypernetworkHParams
from jeep_core.editors.record import DEPTHS, HIGH, LOW, PlotStyle, Tuning, mistake, taking
from jeep_core.errors import FieldProblem, InvalidHParams, JeepError
from jeep_core.evaluation.tuning import grid, start
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.probe.defaults.from_record import check_automatic, hparams_for
from jeep_core.probe.defaults.rule import RULE
from jeep_core.reports import colours
from jeep_core.reproduce.experiments import Plan, curve
from jeep_core.reproduce.plots import plot_styles, title_of
from jeep_core.reproduce.runs import Setting
from jeep_core.spec.facts import Fact
from jeep_core.spec.hparams import EditorHParams, OptimisedEditorHParams, Region
from jeep_core.spec.positions import fact_rows
from jeep_core.updates.kept import KeptKeys
from jeep_core.updates.least_squares import Solution, solve_update
from jeep_core.updates.null_space import in_null_space, solve_in_null_space
from jeep_core.values.optimiser import FactTokens
from service.contracts.schemas import HypernetworkRequest


class OneLayer(EditorHParams):
    layer: int = Field(ge=0)
    strength: float = 1.0

    def layer_problems(self, n_layers: int) -> list[FieldProblem]:
        return []


class TwoRegions(OptimisedEditorHParams):
    first: Region
    high: Region

    @property
    def regions(self) -> dict[str, Region]:
        return {"first": self.first, "high": self.high}


class Nothing(EditorHParams):
    size: int = 1

    def layer_problems(self, n_layers: int) -> list[FieldProblem]:
        return []


class OwnNetwork(HypernetworkHParams):
    last_written = 2


def own(cls: type[EditorHParams], **more: Any) -> EditorRecord:
    return EditorRecord(hparams=cls, editor="mine:Mine", **more)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Registers records as if distributions had brought them."""
    mine: dict[str, EditorRecord] = {}
    monkeypatch.setattr(editors, "registered", lambda: mine)
    monkeypatch.setattr(editors, "plugin", mine.__getitem__)
    monkeypatch.setattr(editors, "refused", lambda built_in: [])
    return mine.__setitem__


def test_records_need_no_torch() -> None:
    code = (
        "import sys; from jeep_core.editors import available;"
        "found, problems = available(); assert not problems;"
        "heavy = ('torch', 'transformers', 'matplotlib');"
        "print(len(found), [name for name in heavy if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split(" ", 1) == ["11", "[]\n"]


def test_the_registry_alone_imports_no_editor() -> None:
    code = (
        "import sys, jeep_core.editors;"
        "print([m for m in sys.modules if m.startswith('jeep_core.editors.jeep')])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("name", EDITORS)
def test_a_built_in_record_is_one_that_a_plugin_could_have(name: str) -> None:
    record = record_of(name)
    assert mistake(record) is None
    assert callable(create(name).run)
    assert record.plot is not None


def test_no_two_editors_of_the_curve_are_drawn_alike() -> None:
    shown = [record.plot for record in available()[0].values() if record.many_facts]
    assert len({look.color for look in shown if look}) == len(shown) == 7
    assert len({(look.marker, look.line) for look in shown if look}) == 7


def test_the_old_name_of_records_is_the_same_class() -> None:
    assert EditorPlugin is EditorRecord


def test_what_is_tried_is_derived_from_the_hyper_parameters() -> None:
    assert own(OneLayer).search == Tuning(depths=DEPTHS)
    assert own(TwoRegions).search == Tuning(regions={"first": LOW, "high": HIGH})
    assert own(Nothing).search is None
    mine = Tuning(values={"size": (1, 2)})
    assert own(Nothing, tuning=mine).search == mine
    assert own(OwnNetwork, network="mine:Network").search is None


def test_a_record_alone_can_be_tuned(register: Any) -> None:
    register("mine", own(OneLayer))
    register("two", own(TwoRegions))
    register("none", own(Nothing))
    register("network", own(OwnNetwork, network="mine:Network"))
    assert start("mine", 20, 8) == {"layer": 17}
    assert grid("mine", 20, 8) == {"layer": [2, 5, 8, 11, 14, 17]}
    assert list(grid("two", 20, 8)) == [
        f"{region}.{field}"
        for region in ("first", "high")
        for field in ("layers", "clamp", "moment_weight")
    ]
    with pytest.raises(JeepError, match="none cannot be tuned: it has no regions"):
        grid("none", 20, 8)
    with pytest.raises(JeepError, match="network cannot be tuned: it writes what a trained"):
        grid("network", 20, 8)


def test_the_start_of_a_record_is_laid_over_the_derived_one(register: Any) -> None:
    tuning = Tuning(regions={"first": LOW}, start={"first": {"clamp": 9}, "n_steps": 4})
    register("mine", own(TwoRegions, tuning=tuning))
    found = start("mine", 20, 10)
    assert found == {
        "first": {"layers": [3, 4, 5, 6], "clamp": 9, "moment_weight": 3.0}, "n_steps": 4
    }  # fmt: skip


PROPOSAL: dict[str, Any] = {
    "rule": RULE,
    "hparams": {
        "learning_rate": 2.0,
        "low": {"layers": [1, 2], "clamp": 1.5, "moment_weight": 30},
        "high": {"layers": [5], "clamp": 1.0, "moment_weight": 30},
    },
}


def test_a_record_makes_its_own_hyper_parameters_of_a_proposal(register: Any) -> None:
    register("mine", own(OneLayer, automatic=lambda found: {"layer": found["high"]["layers"][-1]}))
    assert hparams_for(PROPOSAL, "mine", 9, 64) == OneLayer(layer=5)
    register("low", own(MemitHParams, automatic=taking("low", "learning_rate")))
    found = hparams_for(PROPOSAL, "low", 9, 64)
    assert isinstance(found, MemitHParams)
    assert (found.learning_rate, found.low.layers) == (2.0, (1, 2))
    register("lost", own(OneLayer, automatic=taking("middle")))
    with pytest.raises(InvalidHParams, match="lost cannot use what the probe proposes: KeyError"):
        hparams_for(PROPOSAL, "lost", 9, 64)


def test_a_refusal_of_auto_names_the_editors_that_offer_it(register: Any) -> None:
    register("mine", own(OneLayer, automatic=taking("low")))
    offering = "jeep, memit, pmet, rome, alphaedit, ft-wd, ultraedit, locft, crispedit, mine"
    with pytest.raises(InvalidHParams, match=f"mend has no .* which are for {offering}:"):
        check_automatic("mend")


def test_editors_that_say_nothing_are_drawn_apart(register: Any) -> None:
    register("mine", own(OneLayer))
    register("yours", own(OneLayer))
    register("ours", own(OneLayer, title="Ours", plot=PlotStyle("#123456", "*", ":")))
    found = plot_styles(["memit", "mine", "yours", "ours"])
    assert found["ours"] == PlotStyle("#123456", "*", ":")
    assert found["memit"].color == colours.VERMILION
    assert len({look.color for look in found.values()}) == 4
    assert [title_of(name) for name in ("memit", "mine", "ours", "unedited", "memit-fast")] == [
        "MEMIT", "MINE", "Ours", "UNEDITED", "MEMIT-FAST"
    ]  # fmt: skip


def test_the_curve_shows_the_editors_of_many_facts_in_their_order(register: Any) -> None:
    register("mine", own(OneLayer, order=4.5))
    register("few", own(OneLayer, many_facts=False))
    names = ("few", "jeep", "mine", "memit", "malmen", "memit-fast", "rome")
    settings = {name: Setting(name) for name in names}
    cells = curve(Plan(settings, 9, 1, [1], [0], "contrast", None))
    assert [cell.labels["editor"] for cell in cells] == ["malmen", "mine", "memit", "jeep"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hparams": dict}, "its hparams are no subclass of EditorHParams"),
        ({"editor": "mine"}, "its editor must be 'module:class', not 'mine'"),
        ({"network": "mine"}, "its network must be 'module:class', not 'mine'"),
        ({"network": "mine:Net"}, "it has a network, so OneLayer must be a HypernetworkHParams"),
        ({"tuning": {"layer": [1]}}, "its tuning must be a Tuning, not {'layer': [1]}"),
        ({"plot": "red"}, "its plot must be a PlotStyle, not 'red'"),
        ({"title": 7}, "its title must be a str, not 7"),
        ({"order": "first"}, "its order must be a number, not 'first'"),
        ({"automatic": ["low"]}, "its automatic must be a function, not ['low']"),
    ],
)
def test_a_mistake_in_a_record_is_named(changes: dict[str, Any], message: str) -> None:
    assert mistake(replace(own(OneLayer), **changes)) == message


def test_a_network_is_asked_for_of_an_editor_that_has_one() -> None:
    with pytest.raises(InvalidHParams, match="memit has no trained network; those with one: mend"):
        editors.network_class("memit")


def test_trainings_are_for_editors_with_a_network(register: Any) -> None:
    assert HypernetworkRequest(editor="malmen").editor == "malmen"
    with pytest.raises(ValidationError) as raised:
        HypernetworkRequest(editor="memit")
    [error] = raised.value.errors()
    assert (error["type"], error["loc"]) == ("literal_error", ("editor",))
    assert error["msg"] == "Input should be 'mend' or 'malmen'"
    register("mine", own(OwnNetwork, network="mine:Network"))
    assert HypernetworkRequest(editor="mine").editor == "mine"
    assert OwnNetwork.last_layers(9) == [7, 8]


def test_an_editor_without_an_objective_has_none_in_advance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Late:
        def run(self, context: EditContext, hparams: Any) -> EditorOutcome:
            raise AssertionError

    region = {"layers": [0], "clamp": 1.0, "moment_weight": 1.0}
    hparams = MemitHParams.model_validate({"low": region})
    assert objective_for("memit", hparams) is not None
    assert objective_for("memit", OneLayer(layer=1)) is None
    monkeypatch.setattr("jeep_core.editors.base.create", lambda name: Late())
    assert objective_for("late", hparams) is None


class Dense:
    """A second moment as the closed forms see one: no room of the library is behind it."""

    name, precision = "layer 1", torch.float64

    def __init__(self, moment: torch.Tensor) -> None:
        self.stored = moment

    @contextmanager
    def in_use(self) -> Iterator[None]:
        yield

    def distrust(self) -> None:
        raise AssertionError

    def unsolved(self, rows: torch.Tensor) -> int:
        return len(rows)

    def lower_in(self, dtype: torch.dtype) -> torch.Tensor:
        return torch.linalg.cholesky(self.stored.to(dtype))

    def half_solved(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return torch.linalg.solve_triangular(self.lower_in(dtype), rows.to(dtype).T, upper=False)

    def times(self, right: torch.Tensor) -> torch.Tensor:
        return self.stored.double() @ right

    def after(self, keys: KeptKeys, weight: float) -> tuple[Dense, int]:
        return self, 0  # fewer than a block

    def in_null_space(self, threshold: float) -> Dense:
        return Dense(torch.eye(self.null_basis(threshold).shape[1], dtype=torch.float64))

    def null_basis(self, threshold: float) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(self.stored.double())
        return vectors[:, values < threshold]


def matrix(solution: Solution) -> torch.Tensor:
    return solution.left @ solution.right.T


def test_closed_forms_take_any_second_moment() -> None:
    torch.manual_seed(0)
    keys, residuals, earlier = torch.randn(3, 12), torch.randn(3, 5), torch.randn(2, 12)
    factor = Dense(torch.diag(torch.linspace(0.01, 2, 12, dtype=torch.float64)))
    rows = torch.cat([keys, earlier]).double()
    whole = 0.5 * factor.stored + rows.T @ rows
    expected = residuals.double().T @ torch.linalg.solve(whole, keys.double().T).T
    found = matrix(solve_update(keys, residuals, factor, 0.5, earlier))
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    projected = matrix(in_null_space(1.0)(keys, residuals, factor, 0.5, earlier))
    direct = matrix(solve_in_null_space(keys, residuals, factor, 1.0, 0.5, earlier))
    assert torch.equal(projected, direct)
    assert float(projected[:, 6:].abs().max()) < 1e-12, "eigenvalues above the threshold"


def test_a_region_is_written_by_the_closed_form_that_it_is_given() -> None:
    base = random_model("gptj")
    facts = [Fact("Lyon", "{} lies in", "Peru")]
    rows = [FactTokens(*fact_rows(base.tokenizer, fact, [""])) for fact in facts]
    moments = Moments(base, TEXTS)
    moments.ensure([1])
    asked: list[tuple[tuple[int, ...], float]] = []

    def eighth(keys: Any, residuals: Any, factor: Any, weight: float, previous: Any = None) -> Any:
        asked.append((tuple(keys.shape), weight))
        found = solve_update(keys, residuals, factor, weight, previous)
        return replace(found, left=found.left / 8)

    region = Region(layers=(1,), clamp=1.0, moment_weight=7.0)
    found = {}
    for name, solve in (("whole", solve_update), ("eighth", eighth)):
        context = EditContext(ModelView(base), rows, moments)
        outcome, targets = EditorOutcome(), Targets(torch.ones(1, base.hidden_size))
        hparams = MemitHParams(low=region)
        write_region(context, "low", region, "subject_last", targets, hparams, outcome, solve=solve)
        [update] = outcome.delta.updates.values()
        found[name] = update.matrix()
    assert asked == [((1, base.mlp_size), 7.0)]
    assert torch.equal(found["eighth"], found["whole"] / 8)
