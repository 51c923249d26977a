"""GGUF files that are damaged, or of a kind that is not converted: one sentence each."""

from __future__ import annotations

import errno
import shutil
import struct
from collections import namedtuple
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from support.library import gguf_files

from jeep_core.errors import UnsupportedModel
from jeep_core.models.gguf.convert import convert, prepare
from jeep_core.models.gguf.reader import read


@pytest.fixture(scope="module")
def model() -> Any:
    return gguf_files.random_model("llama")


@pytest.fixture(scope="module")
def whole(model: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "x.gguf"
    gguf_files.write(path, "llama", model, Kind.Q8_0)
    return path.read_bytes()


def attempt(path: Path) -> None:
    """Convert a file."""
    folder = path.parent / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    convert(prepare(path), folder, lambda *_: None)


def refusal(path: Path) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(UnsupportedModel) as refused:
        attempt(path)
    said = str(refused.value)
    assert "\n" not in said
    return said


def test_a_cut_file_is_refused_wherever_it_is_cut(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    ends = [4, 8, 23, 24, 30, *range(100, len(whole), len(whole) // 60), len(whole) - 1]
    for end in ends:
        path.write_bytes(whole[:end])
        assert "is damaged" in refusal(path), end
    path.write_bytes(b"")
    assert "no GGUF file" in refusal(path)


def test_a_file_with_changed_bytes_in_its_header_is_refused_or_read(
    whole: bytes, tmp_path: Path
) -> None:
    """Wrong lengths never take the memory that they name, and nothing else is raised."""
    path, draw = tmp_path / "x.gguf", np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        for at in draw.integers(4, 9000, 3):
            data[at] = draw.integers(256)
        path.write_bytes(data)
        with suppress(UnsupportedModel):
            prepare(path)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"PK\3\4", "is no GGUF file"),
        (b"GGUF" + struct.pack("<I", 1), "that is of version 1"),
        (b"GGUF" + struct.pack(">I", 3), "that is big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "is damaged"),
    ],
)
def test_another_format_is_named(head: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(head + b"\0" * 100)
    assert said in refusal(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.add_uint16("split.count", 3), "is part 1 of 3 of a split GGUF: merge them"),
        (lambda w: w.add_string("general.type", "adapter"), "a part of the type 'adapter'"),
        (lambda w: w.add_expert_count(8), "is a mixture of experts"),
        (lambda w: w.add_string("general.architecture", "mamba"), "architecture 'mamba', and "),
        (lambda w: w.add_head_count_kv([2, 2, 4, 2]), "blocks that differ"),
        (lambda w: w.add_embedding_length(48), "not of the width"),
        (lambda w: w.add_block_count(5), "lacks blk.4."),
        (lambda w: w.add_block_count(3), "holds blk.3."),
        (lambda w: w.add_head_count(5), "which 5 heads cannot share"),
        (lambda w: w.add_context_length(0), "llama.context_length is 0"),
        (lambda w: w.add_tokenizer_model("bert"), "a tokenizer of the kind 'bert'"),
        (lambda w: w.add_token_types([1, 2]), "are not as many as its tokens"),
        (lambda w: w.add_token_list(["a"] * 420), "has 'a' and others more than once"),
        (lambda w: w.add_token_list(["a"] * 500), "it has 500 tokens and 448 rows"),
    ],
)  # fmt: skip
def test_what_is_not_converted_is_named(
    change: gguf_files.Change, said: str, model: Any, tmp_path: Path,
) -> None:  # fmt: skip
    def replace(writer: gguf.GGUFWriter) -> None:
        own = gguf.GGUFWriter(None, "llama")
        change(own)
        for key, value in own.kv_data[0].items():
            if key != "general.architecture" or "mamba" in str(value.value):
                writer.kv_data[0][key] = value

    gguf_files.write(tmp_path / "x.gguf", "llama", model, change=replace)
    assert said in refusal(tmp_path / "x.gguf")


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_metadata_of_another_type_is_refused_or_read(family: str, tmp_path: Path) -> None:
    model, path = gguf_files.random_model(family), tmp_path / "x.gguf"
    gguf_files.write(path, family, model)
    values: list[tuple[Any, gguf.GGUFValueType]] = [
        ("text", gguf.GGUFValueType.STRING), (-1, gguf.GGUFValueType.INT32),
        (float("nan"), gguf.GGUFValueType.FLOAT32),
        (["a", "b"], gguf.GGUFValueType.ARRAY),
        ([0.5], gguf.GGUFValueType.ARRAY),
    ]  # fmt: skip
    for key in read(path).metadata:
        for value, kind in values:

            def change(writer: gguf.GGUFWriter, key: str = key, new: Any = (value, kind)) -> None:
                writer.kv_data[0][key] = gguf.gguf_writer.GGUFValue(*new)

            gguf_files.write(path, family, model, change=change)
            with suppress(UnsupportedModel):
                attempt(path)


def test_missing_and_unknown_tensors_are_named(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    left_out = ["blk.2.ffn_up.weight", "blk.3.ffn_up.weight"]
    gguf_files.write(path, "llama", model, leave_out=left_out)
    assert "lacks blk.2.ffn_up.weight and 1 more" in refusal(path)

    def more(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("blk.0.ffn_gate_exps.weight", np.zeros((32, 32), np.float32))

    gguf_files.write(path, "llama", model, change=more)
    assert "holds blk.0.ffn_gate_exps.weight" in refusal(path)


@pytest.mark.parametrize(("number", "name"), [(9, "Q8_1"), (15, "Q8_K"), (99, "number 99")])
def test_a_type_that_cannot_be_dequantised_is_named(
    number: int, name: str, whole: bytes, tmp_path: Path
) -> None:
    data, named = bytearray(whole), b"blk.1.ffn_gate.weight"
    at = data.index(named) + len(named) + 4 + 2 * 8  # behind the number of sizes and the sizes
    assert struct.unpack_from("<I", data, at) == (8,)
    struct.pack_into("<I", data, at, number)
    (tmp_path / "x.gguf").write_bytes(data)
    assert f"tensors of the type {name} (blk.1.ffn_gate.weight" in refusal(tmp_path / "x.gguf")


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = gguf_files.random_model("llama")
    model.model.layers[2].mlp.down_proj.weight[0, 0] = float("nan")
    gguf_files.write(tmp_path / "x.gguf", "llama", model)
    assert "blk.2.ffn_down.weight holds NaN or infinity" in refusal(tmp_path / "x.gguf")


def test_a_disk_without_room_is_named_before_anything_is_written(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.gguf").write_bytes(whole)
    (tmp_path / "folder").mkdir()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(2**40, 2**40, 2**20))
    with pytest.raises(OSError, match=r"No space left on device \(64 MiB needed") as refused:
        convert(prepare(tmp_path / "x.gguf"), tmp_path / "folder", lambda *_: None)
    assert refused.value.errno == errno.ENOSPC
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_header_is_read_without_the_weights(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(whole)
    own, theirs = read(path), gguf.GGUFReader(path)
    assert own.tensors.keys() == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        found = own.tensors[tensor.name]
        assert found.shape == tuple(reversed(tensor.shape.tolist()))
        assert (found.kind, found.start) == (tensor.tensor_type, tensor.data_offset)
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            assert np.array_equal(own.metadata[key], field.contents()), key
