"""From the files of a folder to a tokenizer that fits the model's embedding."""

from __future__ import annotations

import json
import logging
from importlib import import_module
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from jeep_core.errors import UnsupportedModel, is_passing, reason_of
from jeep_core.models.checkpoints.advice import some
from jeep_core.models.checkpoints.files import read_record, refuse_pointer
from jeep_core.models.checkpoints.refusals import refused_as
from jeep_core.text.chat import ChatTemplate

log = logging.getLogger(__name__)

FAST, SENTENCEPIECE = "tokenizer.json", "tokenizer.model"
TOKENIZER_CONFIG = "tokenizer_config.json"
PLAIN = ("vocab.json", "merges.txt")

_PARTS = ("normalizer", "pre_tokenizer", "model", "post_processor", "decoder")
_COPY_BOTH = f"copy {FAST} and tokenizer_config.json of the model into the folder"
SAMPLE = "Lyon is a city in the country of France."
"""A text that every tokenizer can read."""

_SAMPLES = (
    SAMPLE,
    "São Paulo, 東京 and Zürich: 3 cities, 42 facts!",
    "the end",
)


def load_tokenizer(folder: Path, rows: int) -> tuple[Tokenizer, ChatTemplate | None]:
    """The tokenizer of a folder for an embedding of ``rows`` rows, and its chat template if any.

    Raises:
        UnsupportedModel: the folder has none, a damaged one, or one that cannot be this model's;
            or its chat template cannot be read.
    """
    _check_files(folder)
    with refused_as(f"the tokenizer in {folder} cannot be read", _COPY_BOTH):
        # mistral_format: otherwise a package that happens to be installed would decide
        loaded: Any = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, mistral_format=False
        )
    tokenizer = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(tokenizer, Tokenizer):
        raise UnsupportedModel(
            f"the tokenizer in {folder} ({type(loaded).__name__}) has no fast form, which is "
            f"needed: copy a {FAST} of the model into the folder"
        )
    if (folder / FAST).exists():
        tokenizer = _as_filed(folder, tokenizer)
    _check_vocabulary(folder, tokenizer, rows)
    if not (folder / FAST).exists() and (folder / SENTENCEPIECE).exists():
        _compare_with_sentencepiece(folder, tokenizer)
    return tokenizer, _template(loaded)


def _template(loaded: Any) -> ChatTemplate | None:
    """The chat template; of several the one that is called ``default``."""
    found = loaded.chat_template
    source = found.get("default") if isinstance(found, dict) else found
    if not source:
        return None
    tokens = {k: str(v) for k, v in loaded.special_tokens_map.items() if not isinstance(v, list)}
    template = ChatTemplate(str(source), tokens)
    template.check()
    return template


def without_unembedded(tokenizer: Tokenizer, rows: int) -> Tokenizer:
    """The tokenizer without added tokens that the embedding has no row for.

    Gemma 3 has one, for images: text that contains it is read as ordinary text.
    """
    state = json.loads(tokenizer.to_str())
    beyond = [token["content"] for token in state["added_tokens"] if token["id"] >= rows]
    if not beyond:
        return tokenizer
    log.warning("the model has no embedding of %s: read as ordinary text", some(beyond))
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < rows]
    return Tokenizer.from_str(json.dumps(state))


def _check_files(folder: Path) -> None:
    """Refuse files that transformers makes an empty tokenizer of, or silently ignores."""
    for name in (FAST, SENTENCEPIECE, *PLAIN):
        refuse_pointer(folder / name)
    if (folder / FAST).exists():
        with refused_as(f"{folder / FAST} is damaged", "copy it again"):
            Tokenizer.from_file(str(folder / FAST))
    elif (folder / SENTENCEPIECE).exists():
        _sentencepiece(folder)
    elif not all((folder / name).exists() for name in PLAIN):
        others = [
            p.name for p in (folder / "tekken.json", *folder.glob("*.tiktoken")) if p.exists()
        ]
        found = f" that can be read ({some(others)} cannot)" if others else ""
        raise UnsupportedModel(
            f"{folder} has no tokenizer{found}: copy {FAST} and tokenizer_config.json of the model "
            "into it"
        )


def _as_filed(folder: Path, tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with the parts that its file describes.

    transformers rebuilds the tokenizers of many classes from the vocabulary alone, with the
    normalizer, the splitting and the decoder that are usual for the class or the kind of model.
    The tokens that are added stay as it has read them from all files of the folder.
    """
    filed = json.loads(Tokenizer.from_file(str(folder / FAST)).to_str())
    state = json.loads(tokenizer.to_str())
    config, splitting = folder / TOKENIZER_CONFIG, filed["pre_tokenizer"]
    prefix = read_record(config).get("add_prefix_space") if config.exists() else None
    if isinstance(prefix, bool) and "add_prefix_space" in (splitting or {}):
        splitting["add_prefix_space"] = prefix
    filed["post_processor"] = filed["post_processor"] or state["post_processor"]
    if all(_plain(state[part]) == _plain(filed[part]) for part in _PARTS):
        return tokenizer
    names = {token["content"] for token in filed["added_tokens"]}
    ids = {token["id"] for token in filed["added_tokens"]}
    more = [t for t in state["added_tokens"] if t["content"] not in names and t["id"] not in ids]
    filed["added_tokens"] = sorted([*filed["added_tokens"], *more], key=lambda t: int(t["id"]))
    return Tokenizer.from_str(json.dumps(filed))


def _plain(part: Any) -> Any:
    """A part without meaningless fields: an empty affix counts as none."""
    return {k: v or None for k, v in part.items()} if isinstance(part, dict) else part


def _check_vocabulary(folder: Path, tokenizer: Tokenizer, rows: int) -> None:
    """Added tokens may lie beyond the rows, as ``without_unembedded`` takes them out."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    own = {id: token for token, id in vocabulary.items() if token not in added}
    if not own:
        raise UnsupportedModel(
            f"the tokenizer in {folder} is empty, it has no vocabulary: copy {FAST} of the model "
            "into the folder"
        )
    with refused_as(f"the tokenizer in {folder} cannot read plain text", _COPY_BOTH):
        encoded = tokenizer.encode(SAMPLE)
        tokenizer.decode(encoded.ids)
    ids = own | {id: tokenizer.id_to_token(id) for id in encoded.ids}  # also what a template adds
    if max(ids) >= rows:
        raise UnsupportedModel(
            f"the tokenizer in {folder} is of another model: it has ids up to {max(ids)} "
            f"({ids[max(ids)]!r}), but the embedding has {rows} rows; copy {FAST} of the model "
            "into the folder"
        )


def _sentencepiece(folder: Path) -> Any:
    """The model of SentencePiece in a folder without another form of it."""
    path = folder / SENTENCEPIECE
    try:
        import_module("google.protobuf")  # transformers reads the file with it
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise UnsupportedModel(
            f"{path} needs the packages sentencepiece and protobuf ({error.name} is missing): "
            f"pip install sentencepiece protobuf, or copy {FAST} of the model into the folder"
        ) from None
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError, ValueError) as error:
        if is_passing(error):
            raise
        raise UnsupportedModel(
            f"{path} is damaged or no model of SentencePiece ({reason_of(error)}): copy {FAST} of "
            "the model into the folder"
        ) from None


def _compare_with_sentencepiece(folder: Path, tokenizer: Tokenizer) -> None:
    """transformers converts the file by the kind of model, also where that does not fit it."""
    original = _sentencepiece(folder)
    for text in _SAMPLES:
        if tokenizer.encode(text, add_special_tokens=False).ids != original.encode(text):
            raise UnsupportedModel(
                f"{folder / SENTENCEPIECE} is not converted faithfully for this kind of model "
                f"({text!r} gets other tokens): copy {FAST} of the model into the folder"
            )
