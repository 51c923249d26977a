"""Import the authors' code from a checkout, and run it where there is no CUDA device.

Nothing in the checkout is changed, and nothing is fetched.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class OnCpu(TorchFunctionMode):
    """The CPU for code that asks torch for "cuda", by ``.cuda()``, ``.to`` or ``device=``."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        kwargs = {name: _cpu(value) for name, value in (kwargs or {}).items()}
        return func(*map(_cpu, args), **kwargs)


def _cpu(value: Any) -> Any:
    asked = value if isinstance(value, (str, torch.device)) else None
    return "cpu" if asked is not None and str(asked).startswith("cuda") else value


@contextmanager
def imported(folder: Path, package: str) -> Iterator[ModuleType]:
    """A package of a checkout, imported from there; afterwards no module of it is left.

    The working directory is the checkout meanwhile, as its settings are read from there.
    ``datasets``, which is needed only to download text, is an empty module where it is missing.

    Raises:
        ModuleNotFoundError: the checkout lacks the package, or a package it needs is missing.
    """
    folder = folder.resolve()
    if not (folder / package).is_dir():
        raise ModuleNotFoundError(f"{folder} has no folder {package}: give a checkout of its code")
    before, here = set(sys.modules), Path.cwd()
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    try:
        if "datasets" not in sys.modules and importlib.util.find_spec("datasets") is None:
            sys.modules["datasets"] = _without_downloads()
        yield importlib.import_module(package)
    finally:
        os.chdir(here)
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name == "datasets" or any(one.is_relative_to(folder) for one in _places(name)):
                del sys.modules[name]


def _places(name: str) -> list[Path]:
    """The file of a module; the folders of a package, which may be without a file."""
    module = sys.modules[name]
    found = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return [Path(one) for one in found if one]


def _without_downloads() -> ModuleType:
    """A stand-in for ``datasets`` whose loader refuses."""

    def load_dataset(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the authors' code asked for a data set to download: none is fetched")

    module = ModuleType("datasets")
    vars(module).update(load_dataset=load_dataset, Dataset=object)
    return module
