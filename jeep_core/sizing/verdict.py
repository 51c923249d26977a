"""Whether a model and its edits fit on a GPU, and with which settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from jeep_core.sizing.architecture import BYTES, Architecture
from jeep_core.sizing.demand import Editing, Settings, Workload
from jeep_core.sizing.memory import Need, factors_kept, of_fact
from jeep_core.sizing.split import Held, fullest

Outcome = Literal["fits", "fits with settings", "does not fit"]
MIB = 2**20
VALUES = "value optimisation"


@dataclass(frozen=True)
class Asked:
    """An edit that is to fit into ``usable`` bytes; ``held``: what of it a GPU holds."""

    arch: Architecture
    editing: Editing
    load: Workload
    settings: Settings
    usable: int
    held: Held

    @property
    def need(self) -> Need:
        """Its bytes with these settings."""
        return self.held(self.arch, self.editing, self.load, self.settings)

    def with_(self, **settings: Any) -> Asked:
        """The same with other settings."""
        return replace(self, settings=replace(self.settings, **settings))


@dataclass(frozen=True)
class Change:
    """A setting that makes something smaller: what is asked then, and the sentence that says it."""

    name: str
    asked: Asked
    text: str


@dataclass(frozen=True)
class Fit:
    """The outcome on one GPU, with the settings under which it holds, and what they need.

    For a model that does not fit these are the smallest settings.
    """

    outcome: Outcome
    need: Need
    settings: Settings
    load: Workload
    changes: tuple[str, ...] = ()


def fit(
    arch: Architecture,
    editing: Editing,
    load: Workload,
    settings: Settings,
    usable: int,
    gpus: int = 1,
) -> Fit:
    """Whether an edit fits into ``usable`` bytes, with as few changes of settings as do.

    Of several GPUs it is the fullest that must have room.

    Changes are tried in the order in which they cost least, and those that turn out not to be
    needed are taken back.
    """
    asked = Asked(arch, editing, load, settings, usable, fullest(gpus))
    found = asked.need
    if found.total <= usable:
        return Fit("fits", found, settings, load)
    taken: list[str] = []
    # the bound on value optimisation is for all GPUs together, and little of it for the fullest
    names = [name for name in CHANGES if gpus == 1 or name != VALUES]
    for name in names:
        taken.append(name)
        settled = _settled(asked, taken)
        if settled.need.total <= usable:
            break
    else:
        return replace(settled, outcome="does not fit")
    for name in list(taken):
        fewer = [other for other in taken if other != name]
        without = _settled(asked, fewer)
        if without.need.total <= usable:
            taken, settled = fewer, without
    return settled


def _settled(asked: Asked, names: Sequence[str]) -> Fit:
    """The outcome with these changes made, in their order."""
    said: dict[str, str] = {}
    for name in names:
        change = CHANGES[name](asked)
        if change is not None:
            asked, said[change.name] = change.asked, change.text
    if VALUES in names and asked.editing.follows is None:
        # last: it takes what everything else leaves
        bounded = _rest_for_values(asked)
        if bounded is not None:
            asked, said[bounded.name] = bounded.asked, bounded.text
    changes = tuple(said.values())
    return Fit("fits with settings", asked.need, asked.settings, asked.load, changes)


def _rest_for_values(asked: Asked) -> Change | None:
    """A bound on value optimisation, if it would take more than is left."""
    peak, load = asked.need.peaks["values"], asked.load
    one = of_fact(asked.arch, asked.editing, load, BYTES[asked.settings.dtype])
    together = asked.settings.together(load.facts) if asked.editing.together else 1
    left = asked.usable - (peak - round(together * one))
    if peak <= asked.usable or together == 1:
        return None
    megabytes = int(max(left, one) // MIB)
    facts = max(1, min(together, int(megabytes * MIB // one)))
    text = f"JEEP_EDIT_MEMORY_MB={megabytes}: {facts} facts are optimised together, not {together}"
    return Change("values", asked.with_(edit_bytes=max(1, megabytes) * MIB), text)


Maker = Callable[[Asked], Change | None]


def _values(asked: Asked) -> Change | None:
    return None  # what is left is known when all else is settled


def _moments(asked: Asked) -> Change | None:
    """Second moments before serving, of as many layers at once as fit."""
    if "moments" not in asked.need.peaks:
        return None
    count = len(asked.editing.matrices)
    for layers in range(count, 0, -1):
        changed = asked.with_(layers_at_once=layers)
        if changed.need.peaks["moments"] <= asked.usable or layers == 1:
            break
    some = f"{layers} of the {count} layers at a time" if layers < count else "all layers"
    text = f"second moments before serving, {some} (jeep moments compute --layers …)"
    return Change("moments", changed, text)


def _moments_elsewhere(asked: Asked) -> Change | None:
    """Second moments on the CPU, where not even those of one layer fit beside the weights."""
    found = asked.need
    if "moments" not in found.peaks or "moments" in fitting(found, asked.usable):
        return None
    text = (
        "second moments on the CPU, before serving "
        f"(jeep moments compute --device cpu --dtype {asked.settings.dtype})"
    )
    return Change("moments", asked.with_(layers_at_once=0), text)


def fitting(found: Need, usable: int) -> set[str]:
    """The parts that fit."""
    return {name for name, size in found.peaks.items() if size <= usable}


def _factors(asked: Asked) -> Change | None:
    def kept(settings: Settings) -> int:
        return factors_kept(asked.arch, asked.editing, asked.load, settings)

    least = kept(replace(asked.settings, factor_bytes=0))
    if kept(asked.settings) <= least:
        return None
    megabytes = -(-least // MIB)
    text = f"JEEP_FACTOR_MEMORY_MB={megabytes}: the factor of one layer is kept, others are read"
    return Change("factors", asked.with_(factor_bytes=megabytes * MIB), text)


def _versions(asked: Asked) -> Change | None:
    if asked.settings.versions <= 1:
        return None
    text = f"JEEP_VERSIONS_IN_MEMORY=1, not {asked.settings.versions}"
    return Change("versions", asked.with_(versions=1), text)


def _clients(asked: Asked) -> Change | None:
    if asked.load.clients <= 1:
        return None
    text = f"one client at a time, not {asked.load.clients}"
    return Change("clients", replace(asked, load=replace(asked.load, clients=1)), text)


def _dtype(asked: Asked) -> Change | None:
    if BYTES[asked.settings.dtype] == 2:
        return None
    text = f"JEEP_DTYPE=bfloat16, not {asked.settings.dtype}"
    return Change("dtype", asked.with_(dtype="bfloat16"), text)


CHANGES: dict[str, Maker] = {
    VALUES: _values,
    "moments": _moments,
    "factors": _factors,
    "versions": _versions,
    "bfloat16": _dtype,
    "clients": _clients,
    "moments elsewhere": _moments_elsewhere,
}
"""What can be made smaller, in the order in which it is tried."""
