"""Whether an actor takes computing time from the process that has the work done."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Of a machine since it was started; containers on it have the same one."""

Where = tuple[str, frozenset[str]]
"""A machine, and the devices on it that a process computes on."""
NOWHERE: Where = ("", frozenset())


def where(devices: Iterable[torch.device]) -> Where:
    """The machine of this process, and these devices by names that are the same in any process."""
    machine = f"{platform.node()} {uuid.getnode():x}"
    with suppress(OSError):
        machine = BOOT_ID.read_text().strip()
    return machine, frozenset(map(_name, devices))


def beside(one: Where, other: Where) -> bool:
    """Whether both compute on the same device of the same machine."""
    return one[0] == other[0] and not one[1].isdisjoint(other[1])


def _name(device: torch.device) -> str:
    """Ray shows an actor its own GPUs alone, numbered from 0."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_properties(device).uuid)
    return device.type
