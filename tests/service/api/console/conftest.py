"""A console for the tests of one file."""

from support.service.console import kept, shared_console, shown  # noqa: F401
