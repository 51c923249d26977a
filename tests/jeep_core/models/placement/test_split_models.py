"""Models whose blocks lie on several devices, against the same models on one.

Every boundary is crossed: neighbouring blocks lie on different devices, and embedding and head on
a third one.  An operation that mixes them raises (`logical_devices`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.library import tiny
from support.library.logical_devices import MixedDevices, logical_devices

from jeep_core.decoding.asking import Question, ask
from jeep_core.decoding.generation import Sampling, generate, score, score_texts
from jeep_core.decoding.scoring import Asked, read
from jeep_core.editing import EditResult, edit, tokenize
from jeep_core.editors import EDITORS
from jeep_core.editors.jeep.editor import Jeep
from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.editors.malmen.hparams import MalmenHParams
from jeep_core.editors.mend.hparams import MendHParams
from jeep_core.editors.networks.storage import network_path, save_network, spec_of
from jeep_core.editors.networks.training import Training, TrainingSettings
from jeep_core.editors.networks.triples import Triple
from jeep_core.evaluation.drift import Passage, drift
from jeep_core.evaluation.explanation import Attribution, Batch
from jeep_core.models.loading import LoadedModel, wrap
from jeep_core.models.placement.device_map import layout_of
from jeep_core.models.placement.moving import put
from jeep_core.models.views import ModelView
from jeep_core.moments.cache import Moments
from jeep_core.probe.patching import exchange, pairs, restoration
from jeep_core.probe.prompts import prepare
from jeep_core.probe.readings import read as read_states
from jeep_core.spec.facts import Fact
from jeep_core.spec.matrices import AttentionOut, GradientOf, Measured
from jeep_core.spec.positions import tokenize_prompt
from jeep_core.values.anchor import contributions

MAP = "ends@cpu:1,0@cpu:2,1@cpu:3,2@cpu:2,3@cpu:3"
EVERYTHING = os.environ.get("FAULTS") == "all"
PREFIXES = ("", "The river is wide")
FACTS = (
    Fact("Paris", "{} is a city in the country of", "Peru", "France"),
    Fact("東京", "The capital of Japan is {}", "old", "new"),
)
PROMPTS = ("Paris is a city", "The river is wide and the land around it is old. People", "I")
LOW = {"layers": [0, 1], "clamp": 2.0, "moment_weight": 5}
TUNED = {"layers": [1, 2], "n_passes": 2, "learning_rate": 0.01, "stop_loss": 1e-6}
TRAINED = {"layers": [1, 2], "rank": 4, "n_blocks": 1}
HPARAMS: dict[str, dict[str, Any]] = {
    "jeep": {
        "low": LOW,
        "high": {"layers": [2], "clamp": 1.0, "moment_weight": 20, "projection": "attention"},
        "n_steps": 2,
        "early_prefixes": 1,
    },
    "memit": {"low": {**LOW, "spread": "linear"}, "n_steps": 2},
    "pmet": {"low": {**LOW, "layers": [1, 2]}, "n_steps": 2},
    "alphaedit": {"low": {**LOW, "null_space": 1e9}, "n_steps": 2},
    "rome": {"layer": 1, "n_steps": 2},
    "ft-wd": {"layer": 2, "n_steps": 2},
    "locft": TUNED,
    "crispedit": {**TUNED, "energy": 0.8},
    "ultraedit": {"layers": [1, 2]},
    "mend": TRAINED,
    "malmen": TRAINED,
}


WITHOUT_A_NETWORK = sorted(set(HPARAMS) - {"jeep", "mend", "malmen"})


def some(names: Iterable[str], *always: str) -> list[str]:
    """All of them with ``FAULTS=all``, else those that there is time for."""
    return [name for name in names if EVERYTHING or name in always]


@pytest.fixture(scope="module", autouse=True)
def _devices() -> Iterator[None]:
    with logical_devices():
        yield


@cache
def whole(family: str) -> LoadedModel:
    return tiny.random_model(family)


@cache
def split(family: str) -> LoadedModel:
    base = tiny.random_model(family)
    put(base.model, base.family, layout_of(MAP, base.n_layers))
    return wrap(base.name, base.model, base.tokenizer)


def both(family: str) -> tuple[LoadedModel, LoadedModel]:
    return whole(family), split(family)


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert (found.cpu() - expected).norm() <= tolerance * expected.norm()


def an_edit(base: LoadedModel, editor: str, **more: Any) -> EditResult:
    moments = Moments(base, tiny.TEXTS, samples=400)
    given = {"prefixes": PREFIXES, "moments": moments, "hparams": HPARAMS[editor], **more}
    return edit(base, FACTS, editor, **given)


@cache
def by_memit() -> list[EditResult]:
    """An edit of either model."""
    return [an_edit(base, "memit") for base in both("llama")]


def assert_same_edit(found: EditResult, expected: EditResult) -> None:
    assert found.delta.updates.keys() == expected.delta.updates.keys()
    for name, update in expected.delta.updates.items():
        near(found.delta.updates[name].matrix(), update.matrix(), 1e-5)
        near(found.view.parameter(name), expected.view.parameter(name), 1e-5)


@pytest.mark.parametrize("family", some(tiny.ALL_FAMILIES, "gpt2", "gemma2"))
def test_blocks_lie_where_the_map_says(family: str) -> None:
    base, model = whole(family), split(family)
    assert str(model.layout) == MAP
    assert (model.model_hash, model.weights_sha256) == (base.model_hash, base.weights_sha256)
    tied = base.model.get_input_embeddings().weight is base.model.get_output_embeddings().weight
    embedding, head = model.model.get_input_embeddings(), model.model.get_output_embeddings()
    assert (embedding.weight is head.weight) == tied
    assert str(ModelView(model).parameter(model.family.weight_name(1)).device) == "cpu:3"


def test_devices_of_these_tests_do_not_mix() -> None:
    one, two = (torch.ones(2, 3, device=f"cpu:{number}") for number in (1, 2))
    place = torch.tensor([1])
    operations: list[Callable[[], Any]] = [
        lambda: one + two,
        lambda: one @ torch.ones(3),
        lambda: torch.cat([one, two]),
        lambda: one[place.to("cpu:2")],
        lambda: one.index_put((place,), two[0]),
        lambda: one.numpy(),
    ]
    for operation in operations:
        with pytest.raises(MixedDevices):
            operation()
    moved = one.to("cpu:2").requires_grad_()
    assert (moved + two * 2)[place].tolist() == [[3, 3, 3]]
    # back over both devices, to the first one
    [gradient] = torch.autograd.grad((moved.to("cpu:1") * one).sum(), [moved])
    assert (str(gradient.device), gradient.sum().item()) == ("cpu:2", 6)


def test_without_its_hooks_a_split_model_does_not_run() -> None:
    """The devices of these tests tell when a tensor is not moved."""
    base = tiny.random_model("llama")
    put(base.model, base.family, layout_of(MAP, base.n_layers))
    base.family.layers_of(base.model)[2]._forward_pre_hooks.clear()
    with pytest.raises(MixedDevices):
        base.model(input_ids=torch.tensor([[5, 6]]).to("cpu:1"))


@pytest.mark.parametrize("family", some(tiny.ALL_FAMILIES, "gpt2", "gemma2"))
def test_an_edit_is_the_same(family: str) -> None:
    expected, found = (an_edit(base, "jeep") for base in both(family))
    assert_same_edit(found, expected)
    again, plain = (generate(one.view, PROMPTS, Sampling(4)) for one in (found, expected))
    assert [one.text for one in again] == [one.text for one in plain]


def test_values_are_anchored_to_the_same_norm() -> None:
    objective = Jeep().anchor_objective(JeepHParams.model_validate(HPARAMS["jeep"]))
    assert objective is not None
    expected, found = (
        contributions(ModelView(base), tokenize(base, FACTS, PREFIXES), objective)
        for base in both("gemma2")
    )
    near(found, expected, 1e-5)


@pytest.mark.parametrize("editor", some(WITHOUT_A_NETWORK, "rome", "crispedit", "ultraedit"))
def test_every_editor_writes_the_same(editor: str) -> None:
    expected, found = (an_edit(base, editor) for base in both("gptj"))
    assert_same_edit(found, expected)
    assert found.view.base.weights_sha256 == ModelView(found.view.base).weights_sha256()


def test_every_editor_is_here() -> None:
    assert set(HPARAMS) == set(EDITORS)


@pytest.mark.parametrize("editor", some(("mend", "malmen"), "mend"))
def test_a_network_is_trained_and_edits_the_same(editor: str, tmp_path: Path) -> None:
    cls: Any = {"mend": MendHParams, "malmen": MalmenHParams}[editor]
    results = []
    for number, base in enumerate(both("gptj")):
        rows = [tokenize_prompt(base.tokenizer, f.prompt, f.subject, f.target_new) for f in FACTS]
        triples = [
            Triple(f.subject, row, [row], [rows[0]]) for f, row in zip(FACTS, rows, strict=True)
        ]
        spec = spec_of(base, editor, cls.model_validate(TRAINED))
        training = Training(base, spec, triples, TrainingSettings(steps=2, facts=2))
        folder = tmp_path / str(number)
        save_network(training.run(), network_path(folder, base, editor), training.record())
        results.append(an_edit(base, editor, hypernetworks=folder))
    assert_same_edit(results[1], results[0])


def test_an_edit_upon_an_edit_keeps_the_keys_of_the_first() -> None:
    """Keys and updates of a store come from the CPU, those of a new edit lie with its block."""
    results = []
    for first in by_memit():
        view, base = first.view.fork(), first.view.base
        view.history = {
            name: [replace(update, **{part: getattr(update, part).cpu() for part in parts})]
            for name, update in first.delta.updates.items()
            for parts in [[p for p in ("left", "right", "dense") if getattr(update, p) is not None]]
        }
        keys = {place: tensor.cpu() for place, tensor in first.keys.items()}
        facts = [Fact("Oslo", "{} lies in", "Japan")]
        moments = Moments(base, tiny.TEXTS, samples=400)
        results.append(
            edit(view, facts, "memit", hparams=HPARAMS["memit"], prefixes=PREFIXES,
                 moments=moments, previous_keys=keys)
        )  # fmt: skip
    assert_same_edit(results[1], results[0])


def test_second_moments_are_the_same_and_lie_with_their_blocks() -> None:
    places: list[Measured] = [0, 1, AttentionOut(2), GradientOf(1), GradientOf(2)]
    expected, found = (Moments(base, tiny.TEXTS, samples=400) for base in both("llama"))
    for moments in (expected, found):
        moments.ensure(places)
    for place in places:
        moment = found.factor(place).stored
        near(moment, expected.factor(place).stored, 1e-6)
        assert moment.device == split("llama").device_of(place)


@pytest.mark.parametrize("family", some(("gpt2", "llama", "gemma3_text"), "llama"))
def test_answers_are_the_same_token_for_token(family: str) -> None:
    questions = [Question(p, [(" Peru", "auto")], written=3) for p in PROMPTS]
    found = []
    for base in both(family):
        view = ModelView(base)
        texts = [
            [(one.text, [token.id for token in one.tokens]) for one in generate(view, PROMPTS, how)]
            for how in (Sampling(6), Sampling(6, temperature=1.0, seed=3, prompt_top=2))
        ]
        told = ask(view, questions)
        scores = [
            *(one.log_probability for one in score(view, [(p, " Peru") for p in PROMPTS])),
            *(one.log_probability for one in score_texts(view, tiny.TEXTS[:2])),
            *(one.log_probability for one in read(view, [Asked(PROMPTS[0], "Peru", True)])),
            *(one.log_probability for answer in told for one in answer.scores),
        ]
        found.append((texts, [one.text for one in told], scores))
    assert found[1][:2] == found[0][:2]
    assert found[1][2] == pytest.approx(found[0][2], rel=1e-5)


def test_rows_join_and_leave_a_batch() -> None:
    prompts = [f"{PROMPTS[i % 3]} {'old ' * (i % 4)}" for i in range(66)]
    expected, found = (
        [one.text for one in generate(ModelView(base), prompts, Sampling(2))]
        for base in both("gpt2")
    )
    assert found == expected


def test_versions_are_compared_and_explained() -> None:
    figures = []
    for result in by_memit():
        base = result.view.base
        passages = [Passage(text, "text") for text in tiny.TEXTS[:3]]
        moved = drift(ModelView(base), result.view, passages, worst=2)
        ids = base.tokenizer.encode("Paris is a city in the country of Peru").ids
        told = Attribution(result.view, [Batch(result.delta.updates, len(FACTS))]).explain(
            ids, len(ids) - 1
        )
        shares = [one.share for one in told.shares] + [one.norm for one in told.places]
        figures.append([moved.kl, told.base, told.probability, *shares])
    assert figures[1] == pytest.approx(figures[0], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("family", some(("gptj", "gemma2"), "gptj"))
def test_a_probe_reads_and_patches_the_same(family: str) -> None:
    found = []
    for base in both(family):
        view = ModelView(base)
        prompts = prepare(view, FACTS).prompts
        readings = read_states(view, prompts)
        patched = exchange(view, pairs(view, prompts))
        restored = restoration(view, prompts)
        found.append([readings.probability, patched.own, restored.own])
    for mine, expected in zip(found[1], found[0], strict=True):
        assert torch.allclose(mine, expected, rtol=1e-4, atol=1e-6, equal_nan=True)
