"""Whether lm-eval is installed here, without importing it."""

from __future__ import annotations

from importlib import metadata

from jeep_core.errors import JeepError

DISTRIBUTION = "lm-eval"
HOW = "install it where the worker runs (pip install 'jeep-edit[lm-eval]') and start it again"


class NoHarness(JeepError):
    """lm-eval is not installed where the worker runs."""

    code = "no_lm_eval"

    def __init__(self) -> None:
        super().__init__(f"the worker has no lm-eval: {HOW}")


def installed_version() -> str | None:
    """The version of lm-eval; None if it is not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
