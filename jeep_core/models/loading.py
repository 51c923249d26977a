"""Load a model and its tokenizer from a folder, a hub id, or the bundled ones by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from jeep_core.errors import UnreadableText, UnsupportedModel
from jeep_core.models.checkpoints.end_tokens import ending_ids
from jeep_core.models.checkpoints.files import CONFIG, check_records, read_headers, read_record
from jeep_core.models.checkpoints.refusals import refused_as
from jeep_core.models.checkpoints.source import locate
from jeep_core.models.checkpoints.tokenizers import SAMPLE, load_tokenizer, without_unembedded
from jeep_core.models.checkpoints.weights import (
    CORRECT,
    check_weights,
    refuse_reported,
    refuse_untied,
)
from jeep_core.models.families import (
    Family,
    family_of,
    family_of_type,
    is_transposed,
    refuse_reader_of_images,
)
from jeep_core.models.fused.few_rows import prepared
from jeep_core.models.library import Library
from jeep_core.models.placement.device_map import Layout
from jeep_core.models.placement.devices import balanced_on_gpus, layout_on, resolved
from jeep_core.models.placement.moving import put
from jeep_core.spec.finite import all_finite
from jeep_core.spec.matrices import Measured, Place, layer_of
from jeep_core.text.chat import ChatTemplate
from jeep_core.text.encoding import encode, without_end

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.  ``tokenizer`` is the bare tokenizer: no padding, no truncation, no EOS.

    ``weights_sha256`` covers names, dtypes, shapes and bytes of all parameters, ``model_hash``
    also the configuration and the tokenizer.  ``chat`` is the chat template, None for models
    that have none; it counts in neither.  ``folder``: where its files are, None for a model that
    was made in memory.
    """

    name: str
    model: Any
    tokenizer: Tokenizer
    family: Family
    eos_token_ids: frozenset[int]
    tensor_hashes: Mapping[str, str]
    weights_sha256: str
    model_hash: str
    chat: ChatTemplate | None = None
    folder: Path | None = None

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.family.layers_of(self.model))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of layers and hidden size: a preset of the same name is meant for one shape."""
        return self.n_layers, self.hidden_size

    @property
    def hidden_size(self) -> int:
        """Size of the hidden states."""
        return int(self.model.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def mlp_size(self) -> int:
        """Inner size of the MLPs, the dimension of the keys."""
        return self.key_size(0)

    def key_size(self, place: Place) -> int:
        """The dimension of the keys at ``place``: inputs of its projection."""
        weight = self.model.get_parameter(self.family.weight_name(place))
        transposed = is_transposed(self.family.projection_of(self.model, place))
        return int(weight.shape[0 if transposed else 1])

    @property
    def max_positions(self) -> int:
        """Longest sequence the model was made for, in tokens."""
        return int(self.model.config.max_position_embeddings)

    @property
    def device(self) -> torch.device:
        """Where the model lives: tokens come in and logits come out there, whatever its blocks."""
        return self._first.device

    def device_of(self, place: Measured) -> torch.device:
        """Where the block of a place lives: its matrices, keys, gradients and second moments."""
        block = self.family.layers_of(self.model)[layer_of(place)]
        return next(block.parameters()).device

    @cached_property
    def layout(self) -> Layout:
        """The device of every block; ``str`` of it is what ``load`` takes."""
        blocks = (str(self.device_of(layer)) for layer in range(self.n_layers))
        return Layout(str(self.device), tuple(blocks))

    @cached_property
    def devices(self) -> list[torch.device]:
        """All devices that it lies on, each once, ``device`` first."""
        return [torch.device(name) for name in self.layout.devices]

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return self._first.dtype

    @property
    def _first(self) -> torch.Tensor:
        first: torch.Tensor = next(iter(self.model.parameters()))
        return first


def load(
    name_or_path: str,
    device: str = "auto",
    dtype: str = "auto",
    models_dir: Path | str | None = None,
) -> LoadedModel:
    """Load a causal language model for editing.

    Args:
        name_or_path: ``atlas-gptj``, ``atlas-llama``, a local folder, a GGUF file, a name of the
            model directory, or a hub id.
        device: a torch device, or ``auto``: the first GPU, else the CPU.  Several for one model:
            ranges of blocks such as ``0-39@cuda:0,40-79@cuda:1``, or ``balanced`` over all GPUs.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: float32 on the CPU, the
            stored type on a GPU.
        models_dir: the model directory: where names are looked for and GGUF files converted to.

    Raises:
        UnsupportedModel: there is no such model or device, no family row fits, the files of
            the folder are not those of one whole model in safetensors (docs/models.md), or a
            weight or the model's output is not finite.
        OSError: the model directory cannot be used.
    """
    where = resolved(device)
    torch_dtype = _dtype(dtype, where)
    folder = locate(name_or_path, Library(Path(models_dir)) if models_dir is not None else None)
    config = check_folder(folder)
    family = family_of(config)
    # before the weights are read
    layout = layout_on(where, config.num_hidden_layers)
    model = _model(folder, config, torch_dtype).eval().requires_grad_(False)
    put(model, family, layout or balanced_on_gpus(model, family))
    refuse_non_finite(name_or_path, model)
    tokenizer, chat = load_tokenizer(folder, model.get_input_embeddings().num_embeddings)
    _run_once(folder, model, tokenizer)
    prepared(model)
    return replace(wrap(name_or_path, model, tokenizer, chat), folder=folder)


def check_folder(folder: Path) -> Any:
    """Check all of a model folder that shows without reading the weights; its configuration.

    Raises:
        UnsupportedModel: no family row fits, or the files are not those of one whole model.
    """
    check_records(folder)
    config = _config(folder)
    check_weights(folder, config, family_of(config), read_headers(folder))
    return config


def refuse_non_finite(name: str, model: Any) -> None:
    """Refuse a model with weights that are not finite: its output would be meaningless.

    Reads every parameter once, which takes a quarter of the time that hashing it does.

    Raises:
        UnsupportedModel: names the first such tensor.
    """
    for key, tensor in model.named_parameters():
        if not all_finite(tensor):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise UnsupportedModel(
                f"cannot serve {name}: the weights {key} are not finite (NaN or infinity) in "
                f"{dtype}; get the checkpoint again, or choose another dtype if its own is wider"
            )


def wrap(
    name: str, model: Any, tokenizer: Tokenizer, chat: ChatTemplate | None = None
) -> LoadedModel:
    """Describe a model that is already in memory; its parameters are not changed."""
    tokenizer = without_end(Tokenizer.from_str(tokenizer.to_str()))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    hashes = {key: tensor_sha256(value) for key, value in model.named_parameters()}
    weights = combined_sha256(hashes)
    parts = [_config_json(model.config), tokenizer.to_str(), weights]
    rows = model.get_input_embeddings().num_embeddings
    return LoadedModel(
        name=name,
        model=model,
        tokenizer=without_unembedded(tokenizer, rows),
        family=family_of(model.config),
        eos_token_ids=ending_ids(model),
        tensor_hashes=hashes,
        weights_sha256=weights,
        model_hash=hashlib.sha256("\0".join(parts).encode()).hexdigest(),
        chat=chat,
    )


def tensor_data(tensor: torch.Tensor) -> memoryview:
    """The raw bytes of a tensor of any shape, dtype and device, row-major.

    They are the tensor's own where it is contiguous and in main memory, else a copy.
    """
    flat = tensor.detach().to("cpu").contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """A copy of the raw bytes of a tensor of any shape, dtype and device, row-major."""
    return tensor_data(tensor).tobytes()


def tensor_sha256(tensor: torch.Tensor) -> str:
    """SHA-256 of the raw bytes of a tensor of any shape, dtype and device."""
    return hashlib.sha256(tensor_data(tensor)).hexdigest()


def combined_sha256(hashes: Mapping[str, str]) -> str:
    """One hash for a set of named tensors, independent of their order."""
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def texts_of(path: Path) -> list[str]:
    """The documents of a text file: one a line, empty lines left out.

    Raises:
        UnreadableText: the file is not there, cannot be read, or is not UTF-8.
    """
    with _readable(path):
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def check_text(path: Path) -> None:
    """Look through a text file without keeping it.

    Raises:
        UnreadableText: as ``texts_of``, or the file has no documents.
    """
    filled = False
    with _readable(path), path.open(encoding="utf-8") as lines:
        for line in lines:
            filled = filled or bool(line.strip())
    if not filled:
        raise UnreadableText(f"{path} has no text: write one document a line")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnreadableText(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnreadableText(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}): convert it, "
            "one document a line"
        ) from None


def texts_sha256(texts: Iterable[str]) -> str:
    """SHA-256 of a corpus."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


def _config(folder: Path) -> Any:
    kind = read_record(folder / CONFIG).get("model_type")
    try:
        with refused_as(f"{folder / CONFIG} is no configuration of {kind!r}", CORRECT):
            config = AutoConfig.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
    except UnsupportedModel:
        family_of_type(kind)  # an unknown type says more than how it fails
        raise
    refuse_reader_of_images(folder, config.model_type)
    return config


def _model(folder: Path, config: Any, dtype: Any) -> Any:
    """The model, with nothing in it that its files do not contain."""
    advice = "if the machine is not the reason, copy its files again"
    with refused_as(f"the model in {folder} cannot be loaded", advice):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False,
            local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    model, found = loaded
    refuse_reported(folder, model, found)
    refuse_untied(folder, model)
    return model


@torch.no_grad()
def _run_once(folder: Path, model: Any, tokenizer: Tokenizer) -> None:
    """Run a few tokens: wrong settings of attention and norms show only when the model runs.

    Raises:
        UnsupportedModel: the model cannot be run, or its output is not finite.
    """
    ids = torch.tensor([encode(tokenizer, SAMPLE).ids[:8]], device=model.device)
    ids = ids[:, : model.config.max_position_embeddings]
    with refused_as(f"{folder / CONFIG} describes a model that does not run", CORRECT):
        logits = model(input_ids=ids, use_cache=False).logits
    if not all_finite(logits):
        dtype = str(model.dtype).removeprefix("torch.")
        raise UnsupportedModel(
            f"the model in {folder} says nothing but NaN or infinity in {dtype}, also its logits "
            f"of {SAMPLE!r}: look at the numbers in {CONFIG} (norm constants, rope_theta), or "
            "choose another dtype"
        )


def _dtype(name: str, device: str) -> Any:
    if name == "auto":
        names = [part.rpartition("@")[2] for part in device.split(",")]
        return torch.float32 if all(one.startswith("cpu") for one in names) else "auto"
    if name not in DTYPES:
        raise UnsupportedModel(f"dtype {name!r} is not one of: auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _config_json(config: Any) -> str:
    values = config.to_dict()
    for volatile in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        values.pop(volatile, None)
    return json.dumps(values, sort_keys=True, default=str)
