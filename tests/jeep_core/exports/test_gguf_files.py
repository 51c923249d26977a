"""Versions of models that came as GGUF files, given back as such files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file
from support.library import gguf_files, played_llama

from jeep_core.errors import MissingProgram, NotExportable
from jeep_core.exports.gguf.convert import check_types, from_folder, from_source
from jeep_core.exports.gguf.repack import Content, tensors_of, write_with
from jeep_core.exports.gguf.tools import LlamaCpp
from jeep_core.exports.gguf.types import EditedType, GgufType
from jeep_core.models.gguf.convert import convert, prepare
from jeep_core.models.gguf.reader import read

NONE = LlamaCpp()
EDITED = {
    "llama": ["model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"],
    "gemma": ["model.layers.0.mlp.down_proj.weight", "model.norm.weight"],
    "gpt2": ["transformer.h.1.mlp.c_proj.weight", "transformer.h.0.attn.c_proj.weight"],
    "gpt_neox": ["gpt_neox.layers.0.attention.query_key_value.weight"],
}
DOWN = EDITED["llama"][0]


def source_of(tmp_path: Path, family: str = "llama", kind: Kind = Kind.Q8_0) -> Path:
    path = tmp_path / "source.gguf"
    gguf_files.write(path, family, gguf_files.random_model(family), kind)
    return path


def numbers_of(path: Path, folder: Path) -> dict[str, np.ndarray]:
    """The weights of a file under the names of transformers, as an edit sees them."""
    folder.mkdir()
    convert(prepare(path), folder, lambda *_: None)
    return {n: t.float().numpy() for n, t in load_file(folder / "model.safetensors").items()}


def changed(values: dict[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        name: values[name] + random.normal(size=values[name].shape).astype(np.float32)
        for name in names
    }


def datas(path: Path) -> dict[str, tuple[int, bytes]]:
    """Type and bytes of each tensor, read by the package gguf."""
    return {t.name: (int(t.tensor_type), t.data.tobytes()) for t in GGUFReader(path).tensors}


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.Q8_0, Kind.Q4_1], ids=lambda k: k.name)
@pytest.mark.parametrize("family", EDITED)
def test_only_the_edited_matrices_change_and_keep_their_type(
    family: str, kind: Kind, tmp_path: Path
) -> None:
    source = source_of(tmp_path, family, kind)
    before = numbers_of(source, tmp_path / "before")
    values = changed(before, EDITED[family])
    out = tmp_path / "out.gguf"
    made = from_source(out, source, values, GgufType.SOURCE, EditedType.SAME, NONE, tmp_path)
    assert out.stat().st_size == source.stat().st_size
    known = tensors_of(read(source))
    own = {known[name].source: name for name in values}
    old, new = datas(source), datas(out)
    assert {name for name in old if old[name] != new[name]} == set(own)
    assert {name: new[name][0] for name in own} == {name: old[name][0] for name in own}
    assert set(made.edited) == set(own)
    # everything before the data, tokenizer and names among it, is the same
    start = min(e.start for e in read(source).tensors.values())
    assert out.read_bytes()[:start] == source.read_bytes()[:start]
    after = numbers_of(out, tmp_path / "after")
    for name, wanted in values.items():
        stored = Kind(new[known[name].source][0])
        in_file = values[name].T if known[name].transposed else wanted
        if known[name].minus_one:
            rounded = (wanted + np.float32(1)) - np.float32(1)
        else:
            rounded = dequantize(quantize(np.ascontiguousarray(in_file), stored), stored)
            rounded = rounded.T if known[name].transposed else rounded
        np.testing.assert_array_equal(after[name], rounded)
        assert np.abs(after[name] - wanted).max() < 0.3
    for name in set(before) - set(values):
        np.testing.assert_array_equal(after[name], before[name])


def test_edited_matrices_can_be_stored_finer_than_the_rest(tmp_path: Path) -> None:
    source = source_of(tmp_path, kind=Kind.Q4_1)
    before = numbers_of(source, tmp_path / "before")
    values = changed(before, [DOWN])
    out = tmp_path / "out.gguf"
    made = from_source(out, source, values, GgufType.SOURCE, EditedType.F16, NONE, tmp_path)
    assert made.edited == {"blk.1.ffn_down.weight": "F16"}
    old, new = datas(source), datas(out)
    assert {name for name in old if old[name] != new[name]} == {"blk.1.ffn_down.weight"}
    after = numbers_of(out, tmp_path / "after")
    np.testing.assert_array_equal(after[DOWN], values[DOWN].astype(np.float16))
    for name in set(before) - {DOWN}:
        np.testing.assert_array_equal(after[name], before[name])


def test_other_types_go_through_the_quantizer(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    values = changed(numbers_of(source, tmp_path / "before"), [DOWN])
    played_llama.quantizer(tmp_path / "llama")
    tools, scratch = LlamaCpp.find(tmp_path / "llama"), tmp_path / "scratch"
    scratch.mkdir()
    out = tmp_path / "out.gguf"
    made = from_source(out, source, values, GgufType.Q4_K_M, EditedType.F16, tools, scratch)
    assert (made.programs, made.edited) == (
        ("llama-quantize",), {"blk.1.ffn_down.weight": "F16"},
    )  # fmt: skip
    given = json.loads((tmp_path / "llama" / "build" / "bin" / "quantizer.json").read_text())
    # what is quantised already may be quantised again, and the edited matrix is named whole
    assert given[:3] == [
        "--allow-requantize", "--tensor-type", r"^blk\.1\.ffn_down\.weight$=f16",
    ]  # fmt: skip
    assert given[-2:] == ["Q4_K_M", "1"]
    [stored] = [t for t in GGUFReader(out).tensors if t.name == "blk.1.ffn_down.weight"]
    np.testing.assert_array_equal(stored.data, values[DOWN].astype(np.float16))
    assert not list(scratch.glob("*.gguf"))


def test_k_quants_take_the_quantizer_for_the_edited_matrices_alone(tmp_path: Path) -> None:
    model = gguf_files.random_model("llama", intermediate_size=256)
    source = tmp_path / "source.gguf"
    gguf_files.write(source, "llama", model, Kind.Q8_0)
    played_llama.quantizer(tmp_path / "llama")
    tools, scratch = LlamaCpp.find(tmp_path / "llama"), tmp_path / "scratch"
    scratch.mkdir()
    # a file with one matrix of Q4_K: the one that will be edited
    values = numbers_of(source, tmp_path / "before")
    tools.run(
        "llama-quantize",
        ["--tensor-type", r"^blk\.1\.ffn_down\.weight$=q4_k", str(source), str(tmp_path / "k"),
         "Q8_0", "1"],
        tmp_path / "log",
    )  # fmt: skip
    [row] = [t for t in GGUFReader(tmp_path / "k").tensors if t.name == "blk.1.ffn_down.weight"]
    assert row.tensor_type == Kind.Q4_K
    with_metadata = tmp_path / "k.gguf"
    content = Content(int(Kind.Q4_K), np.array(row.data).reshape(len(row.data), -1))
    write_with(with_metadata, read(source), {row.name: content})
    edited = changed(values, [DOWN])
    out = tmp_path / "out.gguf"
    with pytest.raises(MissingProgram, match=r"llama-quantize of llama.cpp was not.*JEEP_LLA"):
        from_source(out, with_metadata, edited, GgufType.SOURCE, EditedType.SAME, NONE, scratch)
    made = from_source(out, with_metadata, edited, GgufType.SOURCE, EditedType.SAME, tools, scratch)
    assert made.edited == {"blk.1.ffn_down.weight": "Q4_K"}
    old, new = datas(with_metadata), datas(out)
    assert {name for name in old if old[name] != new[name]} == {"blk.1.ffn_down.weight"}
    assert not list(scratch.glob("*.gguf"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model.layers.9.mlp.down_proj.weight", 0.0, "no model.layers.9.mlp.down_proj.weight"),
        (DOWN, np.nan, "holds NaN or infinity in blk.1.ffn_down.weight"),
        (DOWN, np.inf, "holds NaN or infinity in blk.1.ffn_down.weight"),
    ],
)
def test_what_does_not_fit_the_file_is_refused_and_nothing_is_written(
    name: str, value: float, said: str, tmp_path: Path
) -> None:
    source = source_of(tmp_path)
    shape = read(source).tensors["blk.1.ffn_down.weight"].shape
    out = tmp_path / "out.gguf"
    with pytest.raises(NotExportable, match=said):
        from_source(
            out, source, {name: np.full(shape, value, np.float32)}, GgufType.SOURCE,
            EditedType.SAME, NONE, tmp_path,
        )  # fmt: skip
    assert not out.exists()


def test_a_matrix_of_another_shape_is_refused(tmp_path: Path) -> None:
    source, out = source_of(tmp_path), tmp_path / "out.gguf"
    values = {DOWN: np.zeros((3, 32), np.float32)}
    with pytest.raises(NotExportable, match="not of the model in the file"):
        from_source(out, source, values, GgufType.SOURCE, EditedType.SAME, NONE, tmp_path)
    assert not out.exists()


def folder_with_config(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
    return folder


def test_a_folder_is_converted_and_quantised(tmp_path: Path) -> None:
    played_llama.converter(tmp_path / "llama", source_of(tmp_path, kind=Kind.F32))
    played_llama.quantizer(tmp_path / "llama")
    tools, scratch = LlamaCpp.find(tmp_path / "llama"), tmp_path / "scratch"
    scratch.mkdir()
    folder, out = folder_with_config(tmp_path), tmp_path / "out.gguf"
    made = from_folder(out, folder, [DOWN], GgufType.Q8_0, EditedType.SAME, tools, scratch)
    assert made.programs == ("convert_hf_to_gguf.py", "llama-quantize")
    assert made.edited == {"blk.1.ffn_down.weight": "Q8_0"}
    assert not list(scratch.glob("*.gguf"))
    plain = tmp_path / "plain.gguf"
    made = from_folder(plain, folder, [DOWN], GgufType.F16, EditedType.SAME, tools, scratch)
    assert made.programs == ("convert_hf_to_gguf.py",)


def test_a_model_that_the_converter_does_not_know_is_refused_with_its_words(
    tmp_path: Path,
) -> None:
    played_llama.converter(tmp_path / "llama")
    tools, out = LlamaCpp.find(tmp_path / "llama"), tmp_path / "out.gguf"
    with pytest.raises(NotExportable, match=r"ended with 1: .*BPE pre-tokenizer was not recog"):
        from_folder(
            out, folder_with_config(tmp_path), [], GgufType.F16, EditedType.SAME, tools, tmp_path
        )
    assert not out.exists()


@pytest.mark.parametrize("kind", [GgufType.F16, GgufType.Q4_K_M])
def test_without_llama_cpp_it_is_said_how_it_is_installed(kind: GgufType, tmp_path: Path) -> None:
    with pytest.raises(MissingProgram, match="name its folder in JEEP_LLAMA_CPP") as caught:
        from_folder(
            tmp_path / "out.gguf", folder_with_config(tmp_path), [], kind, EditedType.SAME,
            NONE, tmp_path,
        )  # fmt: skip
    assert caught.value.code == "missing_program"


def test_a_model_of_a_folder_has_no_type_of_its_source(tmp_path: Path) -> None:
    with pytest.raises(NotExportable, match="name one of F16, BF16, Q8_0, Q4_K_M"):
        from_folder(
            tmp_path / "out.gguf", tmp_path, [], GgufType.SOURCE, EditedType.SAME, NONE, tmp_path
        )


def test_edited_matrices_are_not_stored_coarser_than_the_rest() -> None:
    with pytest.raises(NotExportable, match='leave "edited" out'):
        check_types(GgufType.F16, EditedType.Q8_0)
    check_types(GgufType.Q4_K_M, EditedType.F16)
    check_types(GgufType.F16, EditedType.SAME)
