"""The tokens that begin and end a text, by name."""

from __future__ import annotations

from jeep_core.models.loading import LoadedModel
from jeep_core.text.chat import RefusedMessages

MARK = "answer"
"""What the assistant says where it is looked for what comes after."""


def special_tokens(base: LoadedModel) -> dict[str, str]:
    """Texts of ``bos_token`` and ``eos_token``, where the model has one.

    Those that the tokenizer's files name, else those of the configuration; of several ends the
    first.
    """
    found = {}
    for name in ("bos_token", "eos_token"):
        given = getattr(base.model.config, f"{name}_id", None)
        first = next(iter(given), None) if isinstance(given, list | tuple) else given
        text = base.tokenizer.id_to_token(first) if isinstance(first, int) and first >= 0 else None
        if text is not None:
            found[name] = text
        named = base.chat.tokens.get(name) if base.chat is not None else None
        if named:
            found[name] = named
    return found


def ending_id(base: LoadedModel) -> int | None:
    """The token that the model writes after an answer: decoding ends with it.

    Of a model of chats the one that its template ends an assistant's words with, else the one that
    ends a text.  None: the model names no such token.
    """
    if not base.eos_token_ids:
        return None
    if base.chat is not None:
        said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": MARK}]
        try:
            after = base.chat.render(said, begin_answer=False).rpartition(MARK)[2]
        except RefusedMessages:
            after = ""
        ids = base.tokenizer.encode(after, add_special_tokens=False).ids
        found = next((i for i in ids if i in base.eos_token_ids), None)
        if found is not None:
            return int(found)
    named = base.tokenizer.token_to_id(special_tokens(base).get("eos_token", ""))
    return int(named) if named in base.eos_token_ids else min(base.eos_token_ids)
