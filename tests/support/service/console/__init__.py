"""Readers of the console, and what looks at its pages in a real browser."""

from support.service.console.readers import (
    HTML,
    PERSON,
    TOKEN,
    browser,
    change_headers,
    kept,
    new_key,
    read_as_text,
    seen,
    shared_console,
    shown,
    sign_in,
)

__all__ = [
    "HTML",
    "PERSON",
    "TOKEN",
    "browser",
    "change_headers",
    "kept",
    "new_key",
    "read_as_text",
    "seen",
    "shared_console",
    "shown",
    "sign_in",
]
