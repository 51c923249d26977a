"""Errors of other libraries over a bad folder, as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jeep_core.errors import UnsupportedModel, is_out_of_memory, is_passing, reason_of


@contextmanager
def refused_as(sentence: str, advice: str) -> Iterator[None]:
    """Turn any error of the block into ``sentence (reason): advice``.

    Each configuration, format and tokenizer fails in its own way; Rust's panics are not even an
    ``Exception``.  A machine without enough memory, or a disk that does not answer now, is no
    fault of a folder.

    Raises:
        MemoryError: memory was not enough, in whatever way a library has said so.
        OSError: as the block raised it, if it is one of the disk now (`is_passing`).
        UnsupportedModel: the block raised another error.
    """
    try:
        yield
    except (UnsupportedModel, MemoryError):
        raise
    except BaseException as error:
        if is_out_of_memory(error):
            raise MemoryError(reason_of(error)) from error
        if is_passing(error):
            raise
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # Ctrl-C and the like
        raise UnsupportedModel(f"{sentence} ({reason_of(error)}): {advice}") from None
