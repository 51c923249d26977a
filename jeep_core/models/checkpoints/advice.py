"""Commands that make a folder this library reads of one that it does not."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

_TIED = ("embed", "wte", "lm_head")
"""Parts of the names of embeddings and heads, of all families."""


def convert_pickled(folder: Path) -> str:
    """For weights like ``pytorch_model.bin``, which may run code when they are read."""
    source, out = str(folder), f"{folder.name}-safetensors"
    code = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"[A.from_pretrained({source!r}).save_pretrained({out!r}) for A in (M, T)]"
    )
    return (
        "only safetensors are read; files like pytorch_model.bin can run code: if you trust the "
        f"source, convert them with\n{_command(code)}\nand load {out}"
    )


def convert_gguf(file: Path) -> str:
    """For a folder that holds the format of llama.cpp."""
    return f"a GGUF file is converted if it is named itself: {file}"


def merge_adapter(folder: Path, base: str, modules: Sequence[str] = ()) -> str:
    """For an adapter: ``base`` is the model that it was trained for, ``modules`` what it changes.

    Where it changes the embedding or the head, they get a matrix each: PEFT would merge into the
    one matrix of both, and so change the other one, too.
    """
    out = f"{folder.name}-merged"
    untied = (
        "h = m.get_output_embeddings(); h.weight = type(h.weight)(h.weight.detach().clone()); "
        "m.config.tie_word_embeddings = False; "
    )
    code = (
        "from peft import PeftModel as P; "
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"m = M.from_pretrained({base!r}, dtype='auto'); "
        f"{untied if any(part in name for name in modules for part in _TIED) else ''}"
        f"P.from_pretrained(m, {str(folder)!r}).merge_and_unload().save_pretrained({out!r}); "
        f"T.from_pretrained({base!r}).save_pretrained({out!r})"
    )
    return f"merge it into its model (pip install peft) with\n{_command(code)}\nand load {out}"


def save_text_part(folder: Path, text_class: str) -> str:
    """For a model that reads images too, whose text part is a model of class ``text_class``."""
    source, out = str(folder), f"{folder.name}-text"
    code = (
        "from transformers import AutoModelForImageTextToText as M, AutoTokenizer as T, "
        f"{text_class} as G; "
        f"m = M.from_pretrained({source!r}, dtype='auto'); t = G(m.config.text_config); "
        "t.model, t.lm_head, t.generation_config = "
        "m.model.language_model, m.lm_head, m.generation_config; "
        f"t.save_pretrained({out!r}); T.from_pretrained({source!r}).save_pretrained({out!r})"
    )
    return f"save its text part with\n{_command(code)}\nand load {out}"


def some(names: Sequence[str], shown: int = 3) -> str:
    """The first few names, then how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _command(code: str) -> str:
    return f"  python -c {shlex.quote(code)}"
