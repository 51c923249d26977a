"""The number of threads for the matrix products of each lane."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from jeep_core.executors.threads import with_threads
from jeep_core.models.loading import LoadedModel

SMALL_MODEL = 100_000_000
"""Parameters up to which one thread is fastest for work too short to be split."""
FEW_FACTS = 4
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cpu_quota(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> float | None:
    """CPUs that the process's control group may use on average, None if there is no limit.

    The smallest limit of its group and of those above it, of version 2 (``cpu.max``) or 1
    (``cpu.cfs_quota_us``); in a container they are those of the container.  A file that cannot be
    read, or says something else, sets no limit.
    """
    found: list[float] = []
    lines: list[str] = []
    with suppress(OSError):
        lines = own.read_text(errors="replace").splitlines()
    # a line is number:controllers:path
    for line in ["::/", *(line for line in lines if line.count(":") >= 2)]:
        _, controllers, path = line.split(":", 2)
        second = controllers == ""
        if not second and "cpu" not in controllers.split(","):
            continue
        root = cgroups if second else cgroups / "cpu"
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            limit = _second(folder) if second else _first(folder)
            found += [] if limit is None else [limit]
    return min(found, default=None)


def _second(folder: Path) -> float | None:
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)  # "max", without a limit, is no number
    return None


def _first(folder: Path) -> float | None:
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    return None


def default_threads(quota: float | None) -> int:
    """Threads of a process that may use so many CPUs: torch's number, no more than its CPUs.

    A thread beyond the limit would get its time from the others, which wait for it.
    """
    most = torch.get_num_threads()
    return most if quota is None else max(1, min(most, int(quota)))


def decode_threads(base: LoadedModel) -> int | None:
    """Threads of the decoding thread's matrix products; None leaves torch's own number."""
    return 1 if _small(base) else None


@contextmanager
def edit_threads(base: LoadedModel, facts: int) -> Iterator[int]:
    """How many threads are left for other work while a batch is edited, for the block.

    Passes over a few facts gain little from a second thread: on a CPU they take half of those that
    there are, of a small model one.  The same batch always takes the same number, whatever else
    runs, as sums of floating-point numbers depend on it.  What is kept for later edits is made with
    all of them.
    """
    every = torch.get_num_threads()
    own = every
    if facts <= FEW_FACTS and base.device.type == "cpu":
        own = 1 if _small(base) else max(1, every // 2)
    with with_threads(own):
        yield every - own


def _small(base: LoadedModel) -> bool:
    size = sum(parameter.numel() for parameter in base.model.parameters())
    return base.device.type == "cpu" and size <= SMALL_MODEL
