"""Values that are not finite (NaN, infinity): found where they arise, never written.

Imports no torch, so that the store can use it, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any

from jeep_core.errors import NumericalError

if TYPE_CHECKING:
    import torch

SMALLER_STEPS = "a smaller learning_rate or fewer steps may help"
OTHER_VERSION = "use another version, or another dtype if the base model says this, too"


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether every element of a tensor (any shape) is finite: one pass, no copy of its size."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    return all(isfinite(float(end)) for end in tensor.detach().aminmax())


def check_tensor(tensor: torch.Tensor, what: str, advice: str) -> None:
    """Raise ``NumericalError`` if an element (of any shape) is not finite.

    ``what`` names layer and quantity, ``advice`` says what to do about it.
    """
    if not all_finite(tensor):
        raise NumericalError(f"{what} is not finite (NaN or infinity); {advice}")


def check_number(value: float, what: str, advice: str) -> float:
    """``value``; ``NumericalError``, as `check_tensor`, if it is not finite."""
    if not isfinite(value):
        raise NumericalError(f"{what} is not finite ({value}); {advice}")
    return value


@contextmanager
def overflow_named(what: str) -> Iterator[None]:
    """Raise `check_number`'s error where an optimiser's step is too large for its type.

    torch refuses such a number with a bare RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        if "without overflow" not in str(error):
            raise
        raise NumericalError(f"{what} is beyond float32; {SMALLER_STEPS}") from None


def not_finite(value: Any, pointer: str = "") -> str | None:
    """A JSON pointer to the first number in a record that is not finite; None if all are finite.

    ``value``: mappings, lists, tuples, objects with fields (pydantic models), plain values.
    """
    if isinstance(value, float):
        return None if isfinite(value) else pointer
    if value is None or isinstance(value, (str, bytes, int)):
        return None
    fields: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping):
        fields = value.items()
    elif isinstance(value, (list, tuple, set, frozenset)):
        fields = enumerate(value)
    elif hasattr(type(value), "model_fields"):
        fields = vars(value).items()
    else:
        return None
    for name, inner in fields:
        found = not_finite(inner, f"{pointer}/{name}")
        if found is not None:
            return found
    return None


def check_record(record: Any, what: str) -> None:
    """Raise ``NumericalError`` if a record holds a number that JSON cannot."""
    found = not_finite(record)
    if found is not None:
        raise NumericalError(f"{what}: the figure {found} is not finite, so it is not recorded")


def json_text(record: Any, what: str, **options: Any) -> str:
    """A record of plain values as JSON, by ``json.dumps`` with ``options``.

    Raises:
        NumericalError: a number is not finite; ``what`` names the record.
    """
    try:
        return json.dumps(record, allow_nan=False, **options)
    except ValueError:
        check_record(record, what)
        raise
