"""Load a model and its tokenizer from a folder, a hub id, or the bundled ones by name."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from jeep_core import atlas
from jeep_core.encoding import without_end
from jeep_core.errors import UnsupportedModel
from jeep_core.families import Family, family_of, is_transposed
from jeep_core.places import Place

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.  ``tokenizer`` is the bare tokenizer: no padding, no truncation, no EOS.

    ``weights_sha256`` covers names, dtypes, shapes and bytes of all parameters, ``model_hash``
    also the configuration and the tokenizer.
    """

    name: str
    model: Any
    tokenizer: Tokenizer
    family: Family
    eos_token_ids: frozenset[int]
    tensor_hashes: Mapping[str, str]
    weights_sha256: str
    model_hash: str

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.family.layers_of(self.model))

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
        """Where the model lives."""
        return self._first.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return self._first.dtype

    @property
    def _first(self) -> torch.Tensor:
        first: torch.Tensor = next(iter(self.model.parameters()))
        return first


def load(name_or_path: str, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load a causal language model for editing.

    Args:
        name_or_path: ``atlas-gptj``, ``atlas-llama``, a local folder, or a hub id.
        device: a torch device, or ``auto``: the first GPU, else the CPU.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: float32 on the CPU, the
            stored type on a GPU.

    Raises:
        UnsupportedModel: there is no such model, no family row fits, or the weights are
            quantised or not safetensors.
    """
    where = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    source = str(atlas.MODELS.get(name_or_path, name_or_path))
    if Path(source).is_file():
        raise UnsupportedModel(f"{source} is a file, not a model folder\n{_conversion(source)}")
    if Path(source).is_absolute() and not (Path(source) / "config.json").is_file():
        raise UnsupportedModel(f"{source} is not a model folder: it has no config.json")
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"cannot load {source}: {error}") from error
    family_of(config)
    torch_dtype = _dtype(dtype, where)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=torch_dtype, use_safetensors=True, trust_remote_code=False
        )
    except OSError as error:
        raise UnsupportedModel(
            f"cannot load safetensors weights from {source}: {error}\n{_conversion(source)}"
        ) from error
    model = model.to(where).eval().requires_grad_(False)
    fast = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    return wrap(name_or_path, model, fast.backend_tokenizer)


def wrap(name: str, model: Any, tokenizer: Tokenizer) -> LoadedModel:
    """Describe a model that is already in memory; its parameters are not changed."""
    tokenizer = without_end(Tokenizer.from_str(tokenizer.to_str()))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    hashes = {key: tensor_sha256(value) for key, value in model.named_parameters()}
    weights = combined_sha256(hashes)
    parts = [_config_json(model.config), tokenizer.to_str(), weights]
    eos = model.config.eos_token_id
    return LoadedModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        family=family_of(model.config),
        eos_token_ids=frozenset(eos if isinstance(eos, list) else [eos] if eos is not None else []),
        tensor_hashes=hashes,
        weights_sha256=weights,
        model_hash=hashlib.sha256("\0".join(parts).encode()).hexdigest(),
    )


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """The raw bytes of a tensor, row-major."""
    flat = tensor.detach().to("cpu").contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()


def tensor_sha256(tensor: torch.Tensor) -> str:
    """SHA-256 of the raw bytes of a tensor."""
    return hashlib.sha256(tensor_bytes(tensor)).hexdigest()


def combined_sha256(hashes: Mapping[str, str]) -> str:
    """One hash for a set of named tensors, independent of their order."""
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def texts_of(path: Path) -> list[str]:
    """The documents of a text file: one a line, empty lines left out."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def texts_sha256(texts: Iterable[str]) -> str:
    """SHA-256 of a corpus."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


def _conversion(source: str) -> str:
    """How to make safetensors of a checkpoint in another format, which may run code when read."""
    folder = str(Path(source).parent if Path(source).is_file() else source)
    out = f"{Path(folder).name}-safetensors"
    code = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"[A.from_pretrained({folder!r}).save_pretrained({out!r}) for A in (M, T)]"
    )
    return (
        "only safetensors are read; files like pytorch_model.bin can run code: if you trust the "
        f"source, convert them with\n  python -c {shlex.quote(code)}\nand load {out}"
    )


def _dtype(name: str, device: str) -> Any:
    if name == "auto":
        return torch.float32 if device == "cpu" else "auto"
    if name not in DTYPES:
        raise UnsupportedModel(f"dtype {name!r} is not one of: auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _config_json(config: Any) -> str:
    values = config.to_dict()
    for volatile in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        values.pop(volatile, None)
    return json.dumps(values, sort_keys=True, default=str)
