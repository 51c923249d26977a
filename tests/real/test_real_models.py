"""The models that are fetched by name, as they are: ``make real-models``.

They are fetched into the directory ``REAL_MODELS``, or into one for this run.  What they say is
the greedy continuation of their own weights; SentencePiece is built of the file's vocabulary.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from jeep_core.decoding.generation import complete
from jeep_core.editing import resolve_hparams
from jeep_core.editors.jeep.hparams import JeepHParams
from jeep_core.models.catalogue import CATALOGUE
from jeep_core.models.library import Library
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from jeep_core.probe.defaults.choose import choose
from jeep_core.text.chat import has_template

SAYS = {"smollm2-135m": " Paris.", "gemma3-270m": " the capital of the country of France."}


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("REAL_MODELS")
    return Path(kept) if kept else tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session", params=CATALOGUE)
def model(request: pytest.FixtureRequest, directory: Path) -> LoadedModel:
    began = time.monotonic()
    Library(directory).get(request.param, "auto", lambda *_: None)
    print(f"{request.param}: {time.monotonic() - began:.1f} s")
    return load(request.param, "cpu", models_dir=directory)


def test_a_question_is_answered(model: LoadedModel) -> None:
    answer = complete(ModelView(model), "The capital of France is", max_new_tokens=8)
    assert answer.startswith(SAYS[model.name])


def test_it_expects_english_more_than_letters_by_chance(model: LoadedModel) -> None:
    """Rows in a wrong order, or norms by 1 too large, make a model that knows nothing."""
    losses = []
    for text in (
        "The sun rises in the east and sets in the west.",
        "sun the east in west sets. The",
    ):
        ids = torch.tensor([model.tokenizer.encode(text).ids])
        with torch.no_grad():
            logits = model.model(ids).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item())
    assert losses[0] < 2.5
    assert losses[0] < losses[1] - 1.5


def test_digits_are_read_as_the_model_was_trained(model: LoadedModel) -> None:
    tokens = model.tokenizer.encode("In 2023, 1234 people").tokens
    assert [token for token in tokens if token.isdigit()] == list("20231234")


def test_the_preset_is_what_a_probe_of_the_model_chooses(model: LoadedModel) -> None:
    """Layers are the same; rates may differ by rounding in the second digit."""
    chosen, _ = choose(model, "jeep")
    chat = has_template(model)
    preset = resolve_hparams(model.name, "jeep", None, {}, model.n_layers, chat=chat)
    assert chosen.source == "probe now"
    assert isinstance(chosen.hparams, JeepHParams)
    assert isinstance(preset, JeepHParams)
    for name, region in preset.regions.items():
        assert chosen.hparams.regions[name].layers == region.layers
    assert chosen.hparams.learning_rate == pytest.approx(preset.learning_rate, rel=0.1)
    high = (chosen.hparams.high.learning_rate, preset.high.learning_rate)
    assert high[0] == pytest.approx(high[1], rel=0.1)
