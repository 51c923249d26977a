"""The sizes of a model from its configuration, and the numbers of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from jeep_core.errors import UnsupportedModel
from jeep_core.models.contents import Flag
from jeep_core.models.families import Family, family_of, refuse_reader_of_images

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by type of weights."""
_OPTIONAL = {
    "intermediate_size": None,
    "num_key_value_heads": None,
    "head_dim": None,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "dtype": None,
}
"""What a configuration may leave out; None: it follows from other sizes."""


@dataclass(frozen=True)
class Architecture:
    """A model's sizes.  ``dtype``: the type its weights are stored in.

    ``biases``: whether MLP, queries-keys-values, and the attention's output have biases.
    """

    family: Family
    layers: int
    d: int
    d_ff: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    positions: int
    tied: bool
    dtype: str
    biases: tuple[bool, bool, bool]

    @property
    def queries(self) -> int:
        """The width of all heads together, which the attention's output projection reads."""
        return self.heads * self.head_size

    @property
    def attention_weights(self) -> int:
        """Numbers in the matrices of one block's attention."""
        return self.d * (2 * self.queries + 2 * self.kv_heads * self.head_size)

    @property
    def mlp_weights(self) -> int:
        """Numbers in the matrices of one block's MLP."""
        return (3 if self.family.contents.gated else 2) * self.d * self.d_ff

    @property
    def block_weights(self) -> int:
        """Numbers in all matrices of one block."""
        return self.attention_weights + self.mlp_weights

    @property
    def block_parameters(self) -> int:
        """Numbers in one block, biases and norms included."""
        contents = self.family.contents
        mlp, qkv, out = self.biases
        inner = (2 if contents.gated else 1) * self.d_ff
        total = self.block_weights + contents.block_norms * self._norm
        total += (inner + self.d) * mlp + self.d * out
        total += (self.queries + 2 * self.kv_heads * self.head_size) * qkv
        return total + 2 * self.head_size * contents.head_norms

    @property
    def parameters(self) -> int:
        """Numbers in the whole model, each tensor once."""
        contents = self.family.contents
        total = self.vocabulary * self.d + self.layers * self.block_parameters + self._norm
        if not self.tied:
            total += self.vocabulary * self.d
        if self.family.absolute_positions:
            total += self.positions * self.d
        return total + self.vocabulary * contents.head_bias

    @property
    def _norm(self) -> int:
        return (2 if self.family.contents.norm_bias else 1) * self.d

    def key_size(self, attention: bool) -> int:
        """Dimension of the keys of a block's MLP, or of its attention."""
        return self.queries if attention else self.d_ff

    def kv_bytes(self, weight: int) -> int:
        """Bytes of the keys and values of one token in all blocks."""
        return 2 * self.layers * self.kv_heads * self.head_size * weight


def architecture_of(record: Mapping[str, Any], where: str) -> Architecture:
    """The sizes that a configuration says, as transformers would read it.

    Args:
        record: the object in ``config.json``.
        where: its file, for messages.

    Raises:
        UnsupportedModel: no family fits, as `family_of` says it, or a size is missing or no size.
    """
    kind = record.get("model_type")
    refuse_reader_of_images(where, kind)
    family = family_of(_Settings({"layer_types": [], "sliding_window": None, **record}))
    read = _Reader(record, family, where)
    contents = family.contents
    d, heads = read.size("hidden_size"), read.size("num_attention_heads")
    d_ff = read.size("intermediate_size", 4 * d if "intermediate_size" in contents.names else None)
    dtype = str(record.get("dtype") or record.get("torch_dtype") or "float32")
    return Architecture(
        family=family,
        layers=read.size("num_hidden_layers"),
        d=d,
        d_ff=d_ff,
        heads=heads,
        kv_heads=read.size("num_key_value_heads", heads),
        head_size=read.size("head_dim", d // heads),
        vocabulary=read.size("vocab_size"),
        positions=read.size("max_position_embeddings", _OPTIONAL["max_position_embeddings"]),
        tied=bool(read.get("tie_word_embeddings")),
        dtype=dtype.removeprefix("torch."),
        biases=(
            read.flag(contents.mlp_bias), read.flag(contents.qkv_bias), read.flag(contents.out_bias)
        ),
    )  # fmt: skip


class _Settings(SimpleNamespace):
    """A configuration's values as attributes."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        super().__init__(**{"model_type": None, **{str(k): v for k, v in record.items()}})


class _Reader:
    """Values of a configuration by the names that all families share."""

    def __init__(self, record: Mapping[str, Any], family: Family, where: str) -> None:
        self.record, self.family, self.where = record, family, where

    def get(self, name: str) -> Any:
        """A value; where it is left out, the one that transformers takes; None: it is not said."""
        contents = self.family.contents
        for key in (contents.names.get(name, name), name):
            if key in self.record:
                return self.record[key]
        return contents.defaults.get(name, _OPTIONAL.get(name))

    def size(self, name: str, otherwise: int | None = None) -> int:
        """A count of at least 1."""
        value = self.get(name)
        value = otherwise if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            key = self.family.contents.names.get(name, name)
            said = f"has {key} {value!r}" if value is not None else f"lacks {key}"
            raise UnsupportedModel(
                f"{self.where} {said}, which must be a whole number from 1 on: copy the file again"
            )
        return value

    def flag(self, flag: Flag) -> bool:
        """A flag of the family, or of the configuration that it names."""
        return flag if isinstance(flag, bool) else bool(self.get(flag))
