"""GGUF files in llama.cpp itself: ``make interop``.

``JEEP_LLAMA_CPP`` names the folder of its programs, and ``INTEROP_GGUF`` a GGUF file of a model
that is edited (docs/exports-gguf.md says how both are had); both are needed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import jeep_core as jc
from jeep_core.exports.gguf.convert import from_source
from jeep_core.exports.gguf.proof import Asked, longest, prove_file, questions_of, replies_of
from jeep_core.exports.gguf.server import LlamaServer
from jeep_core.exports.gguf.tools import LlamaCpp
from jeep_core.exports.gguf.types import EditedType, GgufType
from jeep_core.models.library import Library
from jeep_core.models.loading import LoadedModel, load
from jeep_core.models.views import ModelView
from jeep_core.spec.facts import Fact

PROMPTS = (
    "The capital of France is", "Water is made of", "The opposite of hot is", "Two plus two is",
)  # fmt: skip
FACT = {
    "subject": "The Eiffel Tower",
    "prompt": "{} is located in the city of",
    "target_new": "Rome",
}


def _named(variable: str) -> Path:
    """The path that a variable names; a run without it is refused, not passed over."""
    value = os.environ.get(variable)
    assert value, f"set {variable}: docs/exports-gguf.md"
    path = Path(value)
    assert path.exists(), f"{variable}: {path} is not there"
    return path


@pytest.fixture(scope="module")
def tools() -> LlamaCpp:
    return LlamaCpp.find(_named("JEEP_LLAMA_CPP"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    models = Library(tmp_path_factory.mktemp("models"))
    folder = models.converted(_named("INTEROP_GGUF"), lambda *_: None)
    return load(str(folder), device="cpu", dtype="float32")


def test_llama_cpp_reads_the_same_tokens_and_gives_the_same_answers(
    base: LoadedModel, tools: LlamaCpp, tmp_path: Path
) -> None:
    facts = [Fact("x", "{}", "y", neighborhood_prompts=PROMPTS)]
    asked = questions_of(base.tokenizer, facts, "plain", None)[1:]
    server = LlamaServer(tools, _named("INTEROP_GGUF"), tmp_path / "log", longest(asked))
    sheet = prove_file(ModelView(base), asked, server)
    assert sheet.other_tokens == 0
    same, n = sheet.neighbors_same
    assert n == len(PROMPTS)
    # the numbers are the same, llama.cpp rounds activations to 8 bits
    assert same >= n - 1


@pytest.mark.parametrize(
    ("kind", "edited"),
    [(GgufType.SOURCE, "same"), (GgufType.SOURCE, "F16"), (GgufType.Q8_0, "same"),
     (GgufType.F16, "same"), (GgufType.Q4_K_M, "Q8_0")],
)  # fmt: skip
def test_an_edit_holds_in_the_file(
    kind: GgufType, edited: str, base: LoadedModel, tools: LlamaCpp, tmp_path: Path
) -> None:
    view = _edited(base)
    values = {name: tensor.float().numpy() for name, tensor in view.replaced.items()}
    out, how = tmp_path / "out.gguf", EditedType(edited)
    made = from_source(out, _named("INTEROP_GGUF"), values, kind, how, tools, tmp_path)
    assert len(made.edited) == len(values)
    questions = questions_of(base.tokenizer, [Fact(**FACT)], "plain", None)
    [version] = replies_of(view, questions)
    assert questions[0].answered(version)
    server = LlamaServer(tools, out, tmp_path / "log", longest(questions))
    assert prove_file(view, questions, server).held(Asked.PROMPT).survived == 1


_EDITED: dict[int, ModelView] = {}


def _edited(base: LoadedModel) -> ModelView:
    """One edit for all types."""
    if id(base) not in _EDITED:
        torch.set_num_threads(1)
        _EDITED[id(base)] = jc.edit(base, [FACT], hparams={"contexts": "plain"}).view
    return _EDITED[id(base)]
