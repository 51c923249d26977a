"""Refusals of editors, told from what goes wrong in a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jeep_core.errors import Cancelled, JeepError, NoCluster, WorkersLost

OF_THE_RUN = (Cancelled, NoCluster, WorkersLost)
WRONG = (ImportError, OSError, MemoryError, AttributeError, NameError, SyntaxError)
"""Causes that are no refusal, though the library reports them in its own words.  A file that is
not there is none of them: it may be a network that was never trained."""


class Refusal(JeepError):
    """The library says that an editor cannot do what is asked for: trying again is no use."""


@contextmanager
def refusals() -> Iterator[None]:
    """Raise the library's refusals in the block as `Refusal`, and all other errors as they are."""
    try:
        yield
    except JeepError as error:
        if isinstance(error, OF_THE_RUN) or any(isinstance(one, WRONG) for one in _chain(error)):
            raise
        raise Refusal(str(error)) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The errors that led to one, but for files that are not there."""
    found: BaseException | None = error
    while found is not None:
        found = found.__cause__ or found.__context__
        if found is not None and not isinstance(found, FileNotFoundError):
            yield found
