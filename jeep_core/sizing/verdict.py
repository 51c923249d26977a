"""Whether a model and its edits fit on a GPU, and with which settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jeep_core.sizing.architecture import BYTES, Architecture
from jeep_core.sizing.demand import Editing, Settings, Workload
from jeep_core.sizing.memory import Need, factors_kept, of_fact
from jeep_core.sizing.split import Held, fullest

Outcome = Literal["fits", "fits with settings", "does not fit"]
MIB = 2**20
VALUES = "value optimisation"


@dataclass(frozen=True)
class Change:
    """A setting that makes something smaller: the sentence that says it."""

    name: str
    settings: Settings
    load: Workload
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
    held = fullest(gpus)
    found = held(arch, editing, load, settings)
    if found.total <= usable:
        return Fit("fits", found, settings, load)
    taken: list[str] = []
    # the bound on value optimisation is for all GPUs together, and little of it for the fullest
    names = [name for name in CHANGES if gpus == 1 or name != VALUES]
    for name in names:
        taken.append(name)
        settled = _settled(arch, editing, load, settings, usable, taken, held)
        if settled.need.total <= usable:
            break
    else:
        return replace(settled, outcome="does not fit")
    for name in list(taken):
        fewer = [other for other in taken if other != name]
        without = _settled(arch, editing, load, settings, usable, fewer, held)
        if without.need.total <= usable:
            taken, settled = fewer, without
    return settled


def _settled(
    arch: Architecture,
    editing: Editing,
    load: Workload,
    settings: Settings,
    usable: int,
    names: Sequence[str],
    held: Held,
) -> Fit:
    """The outcome with these changes made, in their order."""
    said: dict[str, str] = {}
    for name in names:
        change = CHANGES[name](arch, editing, load, settings, usable, held)
        if change is not None:
            settings, load = change.settings, change.load
            said[change.name] = change.text
    found = held(arch, editing, load, settings)
    if VALUES in names and editing.follows is None:
        # last: it takes what everything else leaves
        settings, text = _rest_for_values(arch, editing, load, settings, found, usable)
        if text:
            said["values"] = text
            found = held(arch, editing, load, settings)
    return Fit("fits with settings", found, settings, load, tuple(said.values()))


def _rest_for_values(
    arch: Architecture,
    editing: Editing,
    load: Workload,
    settings: Settings,
    found: Need,
    usable: int,
) -> tuple[Settings, str]:
    """A bound on value optimisation, if it would take more than is left."""
    one = of_fact(arch, editing, load, BYTES[settings.dtype])
    together = 1 if editing.one_by_one else settings.together(load.facts)
    left = usable - (found.peaks["values"] - round(together * one))
    if found.peaks["values"] <= usable or together == 1:
        return settings, ""
    megabytes = int(max(left, one) // MIB)
    facts = max(1, min(together, int(megabytes * MIB // one)))
    bounded = replace(settings, edit_bytes=max(1, megabytes) * MIB)
    return bounded, (
        f"JEEP_EDIT_MEMORY_MB={megabytes}: {facts} facts are optimised together, not {together}"
    )


Maker = Callable[[Architecture, Editing, Workload, Settings, int, Held], Change | None]


def _values(
    arch: Architecture,
    editing: Editing,
    load: Workload,
    settings: Settings,
    usable: int,
    held: Held,
) -> Change | None:
    return None  # what is left is known when all else is settled


def _moments(
    arch: Architecture,
    editing: Editing,
    load: Workload,
    settings: Settings,
    usable: int,
    held: Held,
) -> Change | None:
    """Second moments before serving, of as many layers at once as fit."""
    if "moments" not in held(arch, editing, load, settings).peaks:
        return None
    count = len(editing.matrices)
    for layers in range(count, 0, -1):
        changed = replace(settings, layers_at_once=layers)
        if held(arch, editing, load, changed).peaks["moments"] <= usable or layers == 1:
            break
    some = f"{layers} of the {count} layers at a time" if layers < count else "all layers"
    text = f"second moments before serving, {some} (jeep moments compute --layers …)"
    return Change("moments", changed, load, text)


def _moments_elsewhere(
    arch: Architecture,
    editing: Editing,
    load: Workload,
    settings: Settings,
    usable: int,
    held: Held,
) -> Change | None:
    """Second moments on the CPU, where not even those of one layer fit beside the weights."""
    found = held(arch, editing, load, settings)
    if "moments" not in found.peaks or "moments" in fitting(found, usable):
        return None
    text = (
        "second moments on the CPU, before serving "
        f"(jeep moments compute --device cpu --dtype {settings.dtype})"
    )
    return Change("moments", replace(settings, layers_at_once=0), load, text)


def fitting(found: Need, usable: int) -> set[str]:
    """The parts that fit."""
    return {name for name, size in found.peaks.items() if size <= usable}


def _factors(
    arch: Architecture,
    editing: Editing,
    load: Workload,
    settings: Settings,
    usable: int,
    held: Held,
) -> Change | None:
    least = factors_kept(arch, editing, load, replace(settings, factor_bytes=0))
    if factors_kept(arch, editing, load, settings) <= least:
        return None
    megabytes = -(-least // MIB)
    changed = replace(settings, factor_bytes=megabytes * MIB)
    text = f"JEEP_FACTOR_MEMORY_MB={megabytes}: the factor of one layer is kept, others are read"
    return Change("factors", changed, load, text)


def _versions(
    arch: Architecture,
    editing: Editing,
    load: Workload,
    settings: Settings,
    usable: int,
    held: Held,
) -> Change | None:
    if settings.versions <= 1:
        return None
    text = f"JEEP_VERSIONS_IN_MEMORY=1, not {settings.versions}"
    return Change("versions", replace(settings, versions=1), load, text)


def _clients(
    arch: Architecture,
    editing: Editing,
    load: Workload,
    settings: Settings,
    usable: int,
    held: Held,
) -> Change | None:
    if load.clients <= 1:
        return None
    text = f"one client at a time, not {load.clients}"
    return Change("clients", settings, replace(load, clients=1), text)


def _dtype(
    arch: Architecture,
    editing: Editing,
    load: Workload,
    settings: Settings,
    usable: int,
    held: Held,
) -> Change | None:
    if BYTES[settings.dtype] == 2:
        return None
    text = f"JEEP_DTYPE=bfloat16, not {settings.dtype}"
    return Change("dtype", replace(settings, dtype="bfloat16"), load, text)


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
