"""The tokens that begin and end a text, by name."""

from __future__ import annotations

from jeep_core.models.loading import LoadedModel


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
