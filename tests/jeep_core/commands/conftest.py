"""A study of a tiny model."""

from support.library.small_study import inputs  # noqa: F401
