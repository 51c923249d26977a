"""Model editing as a library: facts in, a weight delta out, the model untouched.

Nothing here speaks HTTP, reads the environment or touches Redis.  Names are imported on first
use, so that the parts that need no torch (facts, positions, hyper-parameters) stay light.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Fact": "jeep_core.spec.facts",
    "LoadedModel": "jeep_core.models.loading",
    "ModelView": "jeep_core.models.views",
    "WeightDelta": "jeep_core.models.delta",
    "complete": "jeep_core.decoding.generation",
    "edit": "jeep_core.editing",
    "load": "jeep_core.models.loading",
    "load_preset": "jeep_core.spec.hparams",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
