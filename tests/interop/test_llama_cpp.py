"""GGUF files in llama.cpp itself: ``make interop`` builds it if ``JEEP_LLAMA_CPP`` names none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import jeep_core as jc
from jeep_core.exports.gguf.convert import from_source
from jeep_core.exports.gguf.proof import Asked, longest, prove_file, questions_of, replies_of
from jeep_core.exports.gguf.server import LlamaServer
from jeep_core.exports.gguf.tools import LlamaCpp
from jeep_core.exports.gguf.types import EditedType, GgufType
from jeep_core.models.library import gguf_source_of
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


@pytest.fixture(scope="module")
def tools() -> LlamaCpp:
    found = LlamaCpp.find(Path(os.environ["JEEP_LLAMA_CPP"]))
    assert found.quantizer is not None, "JEEP_LLAMA_CPP has no llama-quantize"
    assert found.server is not None, "JEEP_LLAMA_CPP has no llama-server"
    return found


@pytest.fixture(scope="module")
def base(smollm2: Path) -> LoadedModel:
    return load(str(smollm2), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def source(base: LoadedModel) -> Path:
    assert base.folder is not None
    found = gguf_source_of(base.folder)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def edited(base: LoadedModel) -> ModelView:
    return jc.edit(base, [FACT], hparams={"contexts": "plain"}).view


def test_llama_cpp_reads_the_same_tokens_and_gives_the_same_answers(
    base: LoadedModel, source: Path, tools: LlamaCpp, tmp_path: Path
) -> None:
    """Where matrices are quantised, llama.cpp rounds activations to 8 bits, and near ties turn; as
    F16 the same numbers give the same answers.
    """
    facts = [Fact("x", "{}", "y", neighborhood_prompts=PROMPTS)]
    asked = questions_of(base.tokenizer, facts, "plain", None)[1:]
    finer = tmp_path / "f16.gguf"
    from_source(finer, source, {}, GgufType.F16, EditedType.SAME, tools, tmp_path)
    for file in (source, finer):
        server = LlamaServer(tools, file, tmp_path / "log", longest(asked))
        sheet = prove_file(ModelView(base), asked, server)
        assert sheet.other_tokens == 0
        same, n = sheet.neighbors_same
        assert n == len(PROMPTS)
        print(f"\n{file.name}: {same} of {n} answers are the same")
    assert same == n


@pytest.mark.parametrize(
    ("kind", "finer"),
    [(GgufType.SOURCE, "same"), (GgufType.SOURCE, "F16"), (GgufType.Q8_0, "same"),
     (GgufType.F16, "same"), (GgufType.Q4_K_M, "Q8_0")],
)  # fmt: skip
def test_an_edit_holds_in_the_file(
    kind: GgufType,
    finer: str,
    base: LoadedModel,
    source: Path,
    edited: ModelView,
    tools: LlamaCpp,
    tmp_path: Path,
) -> None:
    values = {name: tensor.float().numpy() for name, tensor in edited.replaced.items()}
    out = tmp_path / "out.gguf"
    made = from_source(out, source, values, kind, EditedType(finer), tools, tmp_path)
    assert len(made.edited) == len(values)
    questions = questions_of(base.tokenizer, [Fact(**FACT)], "plain", None)
    [version] = replies_of(edited, questions)
    assert questions[0].answered(version)
    server = LlamaServer(tools, out, tmp_path / "log", longest(questions))
    assert prove_file(edited, questions, server).held(Asked.PROMPT).survived == 1
