"""MEND and MALMEN: the algebra, training, and edits by a network trained at reduced size."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from jeep_core.atlas.corpus import load_facts
from jeep_core.commands import WrongArgument
from jeep_core.commands.train_network import run, train_network
from jeep_core.decoding.generation import score
from jeep_core.editing import edit
from jeep_core.editors.malmen.hparams import MalmenHParams
from jeep_core.editors.malmen.network import MalmenNetwork
from jeep_core.editors.mend.hparams import MendHParams
from jeep_core.editors.networks import network as network_module
from jeep_core.editors.networks.hparams import HypernetworkHParams
from jeep_core.editors.networks.network import Hypernetwork, NetworkSpec
from jeep_core.editors.networks.storage import create_network, network_path, spec_of
from jeep_core.editors.networks.training import Training, TrainingSettings
from jeep_core.editors.networks.triples import atlas_cases, triples_of
from jeep_core.errors import Cancelled, InvalidHParams, JeepError, NumericalError
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor, stop_if
from jeep_core.spec.facts import Fact
from jeep_core.storage.records import unsealed
from jeep_core.suites import Case, Question, load_counterfact
from jeep_core.values.gradient_pairs import Pairs

CLASSES: dict[str, type[HypernetworkHParams]] = {"mend": MendHParams, "malmen": MalmenHParams}
HPARAMS = {"layers": [1, 2, 3], "rank": 8, "n_blocks": 2}
SUBJECTS = ("Lima", "Oslo", "Paris", "Rome", "Kyiv", "Bonn", "Quito", "Cairo", "Delhi", "Tunis",
            "Minsk", "Accra")  # fmt: skip
WEIGHT = "transformer.h.1.mlp.fc_out.weight"
ANSWERS = ("Peru", "Norway", "France", "Italy")
SETTINGS = TrainingSettings(
    steps=30, facts=4, learning_rate=3e-3, scalar_learning_rate=0.2, edit_weight=1.0, save_every=7
)


def cases() -> list[Fact]:
    found = []
    for i, subject in enumerate(SUBJECTS):
        other = SUBJECTS[(i + 1) % len(SUBJECTS)]
        found.append(
            Fact(
                subject,
                "{} is a city in the country of",
                ANSWERS[i % 4],
                ANSWERS[(i + 1) % 4],
                (f"{subject}'s country is", f"The city of {subject} lies in"),
                (f"{other} is a city in the country of", f"{other} lies in"),
            )
        )
    return found


def training(base: LoadedModel, editor: str, **changes: Any) -> Training:
    hparams = CLASSES[editor].model_validate(HPARAMS)
    triples, _ = triples_of(base.tokenizer, cases(), base.max_positions)
    settings = replace(SETTINGS, **{k: v for k, v in changes.items() if k != "folder"})
    spec = spec_of(base, editor, hparams)
    return Training(base, spec, triples, settings, changes.get("folder"))


@pytest.mark.parametrize("rate", [1e30, 1e300])
@pytest.mark.parametrize("editor", CLASSES)
def test_a_rate_that_is_far_too_large_ends_the_training(
    gptj: LoadedModel, editor: str, rate: float, tmp_path: Path
) -> None:
    """No checkpoint is left that holds values that are not finite."""
    run = training(gptj, editor, folder=tmp_path, learning_rate=rate, save_every=1)
    with pytest.raises(
        NumericalError, match=r"step \d+ is (not finite|beyond).*smaller learning_rate"
    ):
        run.run()
    for path in tmp_path.glob("state.json"):
        state = json.loads(unsealed(path.read_bytes()))
        assert all(isfinite(value) for step in state["history"] for value in step)


def test_a_gradient_that_is_not_finite_changes_no_network(gptj: LoadedModel) -> None:
    run = training(gptj, "mend")
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    run.view.replace(WEIGHT, torch.full_like(run.view.parameter(WEIGHT), torch.nan))
    with pytest.raises(NumericalError, match=r"the NLL of new answers in step 1 is not finite"):
        run.step(0)
    assert all(torch.equal(before[n], t) for n, t in run.network.state_dict().items())


def awake(editor: str, sizes: tuple[tuple[int, int], ...] = ((5, 7), (5, 7))) -> Hypernetwork:
    """A small network in which no parameter is at its start."""
    spec = NetworkSpec(editor, tuple(range(len(sizes))), 3, 2, sizes)
    network = create_network(spec)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    network.log_step.data += 8
    return network


def some_pairs(n: int, seed: int = 2, sizes: tuple[int, int] = (5, 7)) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, sizes[1], generator=generator), torch.randn(
        n, sizes[0], generator=generator
    )


def closed_form(network: Hypernetwork, layer: int, pairs: Pairs) -> torch.Tensor:
    """Δ (out, in) by the papers' formulas, differentiable, float64 at the end."""
    u, delta = network(layer, pairs)
    step = network.log_step[layer].exp()
    if not isinstance(network, MalmenNetwork):
        return (-step * delta.T @ u).double()
    keys = pairs[0].T.double()
    shifts = (-step * (pairs[0] * u).sum(1, keepdim=True) * delta).T.double()
    damping = network.log_damping[layer].double().exp()
    return shifts @ keys.T @ torch.linalg.inv(keys @ keys.T + damping * torch.eye(len(keys)))


@pytest.mark.parametrize("editor", CLASSES)
@pytest.mark.parametrize("tokens", [1, 2, 6, 40])
def test_sums_over_chunks_equal_the_closed_form(editor: str, tokens: int) -> None:
    """In one piece and in three, in fewer tokens than the keys' size and in more."""
    network, pairs = awake(editor), some_pairs(tokens)
    expected = closed_form(network, 1, pairs)
    for pieces in (1, 3):
        total = network.sum(1)
        for u, delta in zip(pairs[0].chunk(pieces), pairs[1].chunk(pieces), strict=True):
            total.add((u, delta))
        assert torch.allclose(total.update().matrix(), expected, rtol=1e-4, atol=1e-6)
    doubled = network.sum(1, 2.0)
    doubled.add(pairs)
    assert torch.allclose(doubled.update().matrix(), 2 * expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("editor", CLASSES)
@pytest.mark.parametrize("tokens", [3, 40])
@pytest.mark.parametrize("chunk", [1024, 4])
def test_the_separated_graphs_give_the_true_gradients(
    editor: str, tokens: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunk by chunk against one graph through the closed form, λ and steps included."""
    monkeypatch.setattr(network_module, "CHUNK_TOKENS", chunk)
    network, pairs = awake(editor), some_pairs(tokens)
    by_delta = torch.randn(5, 7, generator=torch.Generator().manual_seed(3))
    (closed_form(network, 0, pairs) * by_delta).sum().backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    network.backward(0, pairs, by_delta)
    for name, parameter in network.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], rtol=1e-3, atol=1e-5), name
    assert expected["log_step"][0] != 0


def test_a_fresh_network_passes_on_what_is_normalised() -> None:
    network = create_network(NetworkSpec("mend", (4, 6), 3, 2, ((5, 7), (5, 7))))
    mean, deviation = torch.arange(12.0), torch.arange(12.0) + 0.5
    network.set_statistics({4: (mean, deviation), 6: (mean, torch.zeros(12))})
    pairs = some_pairs(6)
    u, delta = network(4, pairs)
    assert torch.allclose(torch.cat([u, delta], 1), (torch.cat(pairs, 1) - mean) / deviation)
    assert all(torch.isfinite(part).all() for part in network(6, (mean[None, :7], mean[None, 7:])))


def test_layers_of_one_shape_share_their_network_and_have_their_own_scales() -> None:
    network = awake("mend", ((5, 7), (6, 7), (5, 7)))
    names = {name.split(".")[1] for name, _ in network.named_parameters() if "networks" in name}
    assert names == {"5x7", "6x7"}
    network.sum(1).add(some_pairs(3, sizes=(6, 7)))
    network.networks["5x7"][0].scale.data[1] *= 3
    shared = some_pairs(6)
    assert not torch.allclose(network(0, shared)[0], network(2, shared)[0])


def test_a_system_that_cannot_be_factored_names_its_layer() -> None:
    network = awake("malmen")
    u, delta = some_pairs(3)
    total = network.sum(1)
    total.add((u * torch.nan, delta))
    with pytest.raises(NumericalError, match=r"^layer 1: "):
        total.update()


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("editor", CLASSES)
@pytest.mark.parametrize("family", ["gptj", "gpt2"])
def test_training_lowers_the_loss_and_an_edit_raises_the_new_answer(
    editor: str, family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base: LoadedModel = request.getfixturevalue(family)
    before = ModelView(base).weights_sha256()
    data = tmp_path / "cases.json"
    data.write_text(json.dumps([_record(case) for case in cases()]))
    hparams = CLASSES[editor].model_validate(HPARAMS)
    seen: list[tuple[str, int, int]] = []
    path = train_network(base, editor, hparams, SETTINGS, tmp_path / "nets", data,
                         Monitor(lambda *a: seen.append(a)))  # fmt: skip
    assert path == network_path(tmp_path / "nets", base, editor)
    assert {file.name for file in path.parent.iterdir()} == {path.name, f"{editor}.json"}
    assert seen[-1] == ("train", 30, 30)
    record = json.loads(path.with_suffix(".json").read_text())
    nll = [nll for _, nll, _ in record["loss"]]
    assert nll[-1] < nll[0] - 0.3
    assert record["held_back"]["nll_after"] < record["held_back"]["nll_before"]
    fact = cases()[5]
    result = edit(base, [fact], editor, hparams=HPARAMS, hypernetworks=tmp_path / "nets")
    assert ModelView(base).weights_sha256() == before
    assert list(result.delta.updates) == [base.family.weight_name(layer) for layer in (1, 2, 3)]
    view = ModelView(base)
    view.apply(result.delta)
    [was], [now] = (score(v, [(fact.text, fact.target_new)]) for v in (ModelView(base), view))
    assert now.mean > was.mean + 0.5
    again = edit(base, [fact], editor, hparams=HPARAMS, hypernetworks=tmp_path / "nets")
    for name, update in result.delta.updates.items():
        assert torch.equal(update.matrix(), again.delta.updates[name].matrix())


def _record(case: Fact) -> dict[str, Any]:
    return {
        "requested_rewrite": {
            "prompt": case.prompt,
            "subject": case.subject,
            "target_new": {"str": case.target_new},
            "target_true": {"str": case.target_true},
        },
        "paraphrase_prompts": list(case.paraphrase_prompts),
        "neighborhood_prompts": list(case.neighborhood_prompts),
    }


@pytest.mark.parametrize("editor", CLASSES)
def test_an_interrupted_run_ends_with_the_same_network(
    gptj: LoadedModel, editor: str, tmp_path: Path
) -> None:
    uninterrupted = training(gptj, editor, steps=12)
    whole = uninterrupted.run().state_dict()
    cut = training(gptj, editor, steps=12, save_every=5, folder=tmp_path)
    cut.monitor = Monitor(check=stop_if(lambda: cut.done == 8))  # the last checkpoint is at 5
    with pytest.raises(Cancelled):
        cut.run()
    resumed = training(gptj, editor, steps=12, save_every=5, folder=tmp_path)
    continued = resumed.run().state_dict()
    assert resumed.curve == uninterrupted.curve
    for name, tensor in whole.items():
        assert torch.equal(tensor, continued[name]), name
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


@pytest.mark.parametrize("pattern", ["state.json", "state-*.safetensors"])
def test_a_damaged_checkpoint_is_not_continued(
    gptj: LoadedModel, tmp_path: Path, pattern: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = training(gptj, "mend", steps=4).run().state_dict()
    training(gptj, "mend", steps=2, save_every=1, folder=tmp_path).run()
    [path] = tmp_path.glob(pattern)
    data = bytearray(path.read_bytes())
    data[-90] ^= 1
    path.write_bytes(data)
    again = training(gptj, "mend", steps=4, folder=tmp_path).run().state_dict()
    assert "starts again" in caplog.text
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_a_training_does_not_begin_afresh_for_want_of_memory(
    gptj: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise SafetensorError("Cannot allocate memory (os error 12)")

    training(gptj, "mend", steps=2, save_every=1, folder=tmp_path).run()
    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr("jeep_core.editors.networks.training.load_whole", failing)
    with pytest.raises(SafetensorError):
        training(gptj, "mend", steps=4, folder=tmp_path).run()
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_checkpoint_of_another_run_is_not_continued(gptj: LoadedModel, tmp_path: Path) -> None:
    training(gptj, "mend", steps=2, save_every=1, folder=tmp_path).run()
    with pytest.raises(JeepError, match="other settings"):
        training(gptj, "mend", steps=4, seed=1, folder=tmp_path).run()
    with pytest.raises(JeepError, match="other network"):
        training(gptj, "malmen", steps=4, folder=tmp_path).run()
    longer = training(gptj, "mend", steps=3, folder=tmp_path)
    longer.run()
    assert longer.done == 3


def test_the_seed_decides_the_training(gptj: LoadedModel) -> None:
    first, second, other = (
        training(gptj, "mend", steps=2, seed=seed).run().state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["networks.32x128.0.up"], other["networks.32x128.0.up"])


# ---------------------------------------------------------------- what it is trained on


def test_triples_take_what_the_cases_have(gptj: LoadedModel) -> None:
    whole = cases()
    bare = replace(whole[0], paraphrase_prompts=())
    triples, dropped = triples_of(gptj.tokenizer, [*whole, bare], gptj.max_positions)
    assert (len(triples), dropped) == (12, 1)
    assert len(triples[0].equivalents) == 3
    assert triples[0].equivalents[0] == triples[0].edit
    assert gptj.tokenizer.decode(list(triples[0].unrelated[0].ids)).endswith("country of Norway")
    with pytest.raises(JeepError, match="no case"):
        triples_of(gptj.tokenizer, [bare], gptj.max_positions)


def test_rows_to_train_on_join_as_their_case_says(gptj: LoadedModel) -> None:
    case = replace(cases()[0], prompt="{} is (", target_new="Peru", join="auto")
    texts = {}
    for join in ("auto", "space", "none"):
        [triple], _ = triples_of(gptj.tokenizer, [replace(case, join=join)], gptj.max_positions)
        texts[join] = [
            gptj.tokenizer.decode(list(row.ids[row.prediction + 1 :]))
            for row in (triple.edit, triple.equivalents[1], triple.unrelated[0])
        ]
    assert [text[0] for text in texts["auto"]] == ["P", " ", " "]
    assert [text[0] for text in texts["space"]] == [" ", " ", " "]
    assert " " not in [text[0] for text in texts["none"]]


def test_unrelated_questions_of_a_suite_are_trained_on(gptj: LoadedModel) -> None:
    """zsRE and its like have no neighbors that share the true answer."""
    [first, *_] = cases()
    questions = (Question("Where is Oslo?", "Norway"),)
    given = {**vars(first), "neighborhood_prompts": (), "target_true": None}
    [triple], dropped = triples_of(
        gptj.tokenizer, [Case(**given, unrelated=questions)], gptj.max_positions
    )
    assert dropped == 0
    assert [gptj.tokenizer.decode(list(row.ids)) for row in triple.unrelated] == [
        "Where is Oslo? Norway"
    ]


def test_a_batch_has_one_edit_per_subject(gptj: LoadedModel) -> None:
    run = training(gptj, "mend")
    run.train = [replace(t, subject="same") for t in run.train]
    assert len(run._batch(random.Random(0))) == 1


def test_the_bundled_cases_edit_no_subject_of_a_suite() -> None:
    edited = {case.subject for case in atlas_cases()}
    for suite in ("atlas-counterfact", "atlas-counterfact-validation"):
        assert not edited & {case.subject for case in load_counterfact(suite).cases}
    untouched = {fact.subject for fact in load_facts() if fact.split == "untouched"}
    assert edited <= untouched
    assert len(edited) > 1000
    case = atlas_cases()[0]
    assert case.target_new != case.target_true
    assert all(case.text not in text for text in case.paraphrase_prompts)
    assert atlas_cases(1) != atlas_cases(0)
    assert atlas_cases(0) == atlas_cases(0)


# ---------------------------------------------------------------- without a network


@pytest.mark.parametrize("editor", CLASSES)
def test_without_a_network_the_error_says_how_to_make_one(
    gptj: LoadedModel, editor: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidHParams) as caught:
        edit(gptj, cases()[:1], editor, hparams=HPARAMS, hypernetworks=tmp_path)
    [problem] = caught.value.problems
    assert (problem.pointer, problem.code) == ("/editor", "no_hypernetwork")
    assert problem.message.endswith(
        f"make one with: jeep networks train {editor} tiny-gptj --layers 1,2,3 --rank 8 "
        "--blocks 2 --data CASES.json"
    )


def test_a_network_for_other_hyper_parameters_is_no_network(
    gptj: LoadedModel, tmp_path: Path
) -> None:
    data = tmp_path / "cases.json"
    data.write_text(json.dumps([_record(case) for case in cases()]))
    hparams = MendHParams.model_validate(HPARAMS)
    path = train_network(gptj, "mend", hparams, replace(SETTINGS, steps=1), tmp_path, data)
    with pytest.raises(InvalidHParams, match="the one there is for layers 1 2 3, rank 8"):
        edit(gptj, cases()[:1], "mend", hparams={**HPARAMS, "rank": 9}, hypernetworks=tmp_path)
    other = network_path(tmp_path, gptj, "malmen")
    shutil.copy(path, other)
    record = json.loads(unsealed(path.with_suffix(".json").read_bytes()))
    record["network"]["editor"] = "malmen"
    other.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(JeepError, match="not a network for malmen"):
        edit(gptj, cases()[:1], "malmen", hparams=HPARAMS, hypernetworks=tmp_path)


def test_the_training_command_names_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(JeepError, match="/nowhere is not there: name a model folder"):
        run(editor="mend", model="/nowhere", folder=tmp_path)
    with pytest.raises(WrongArgument, match="EDITOR: 'memit' has no network to train"):
        run(editor="memit", model="atlas-gptj", folder=tmp_path)


def test_the_training_command_counts_lost_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {
        "subject": "Atlantis",
        "src": "Where is Atlantis?",
        "answers": ["Peru"],
        "rephrase": "In which country is Atlantis?",
        "loc": "where is Lemuria",
        "loc_ans": "Chad",
    }
    data = tmp_path / "questions.json"
    data.write_text(json.dumps([record, {**record, "src": "Where is it?"}]))
    small: dict[str, Any] = {"layers": [8], "rank": 2, "blocks": 1, "steps": 1, "facts": 1}
    run(editor="mend", model="atlas-gptj", folder=tmp_path, data=data, device="cpu", **small)
    assert "questions.json: 1 of 2 records (1 no_subject)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"layers": [2, 2]}, ("/hparams/layers", "value_error")),
        ({"layers": [2, 9]}, ("/hparams/layers", "no_such_layer")),
        ({"layers": []}, ("/hparams/layers", "too_short")),
        ({"rank": 0}, ("/hparams/rank", "greater_than_equal")),
        ({"step_scale": 0}, ("/hparams/step_scale", "greater_than")),
    ],
)
def test_wrong_hyper_parameters_are_named(
    gptj: LoadedModel, change: dict[str, Any], expected: tuple[str, str]
) -> None:
    with pytest.raises(InvalidHParams) as caught:
        edit(gptj, cases()[:1], "malmen", hparams={**HPARAMS, **change})
    [problem] = caught.value.problems
    assert (problem.pointer, problem.code) == expected
