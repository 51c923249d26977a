"""Files of an export on their way to a hub: checked before, fetched aside, cleared up after."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer

from service.cli.common import EXIT_FAILED, complain

if TYPE_CHECKING:
    from service.client.hub import Pushed

PREFIX = "jeep-push-"
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def check_push(repository: str) -> None:
    """End here, before minutes of work, where no file could be given to the hub."""
    from service.client.hub import PushFailed, check
    from service.settings import HubSettings, SettingsError

    try:
        check(HubSettings(), repository)
    except (PushFailed, SettingsError) as error:
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_FAILED) from None


def push_folder(folder: Path, repository: str, public: bool) -> Pushed:
    """Upload the export in a folder; a refusal ends the command with a message."""
    from service.client.hub import PushFailed, push
    from service.settings import HubSettings, SettingsError

    try:
        return push(folder, repository, HubSettings(), private=not public)
    except (PushFailed, SettingsError) as error:
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_FAILED) from None


@contextmanager
def folder_aside() -> Iterator[Path]:
    """A folder that is gone after the block, also where a signal ends the process in it.

    An upload may wait minutes for the hub, so the folder is removed when the signal arrives and
    not when the block is left.
    """
    made: list[str] = []

    def clear_up(number: int, frame: FrameType | None) -> None:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    # one that is ignored (nohup) or handled already stays as it is
    taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, clear_up)
    # a signal between the making of the folder and the note of it would leave the folder
    signal.pthread_sigmask(signal.SIG_BLOCK, taken)
    try:
        made.append(tempfile.mkdtemp(prefix=PREFIX))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, taken)
    try:
        yield Path(made[0])
    finally:
        shutil.rmtree(made[0], ignore_errors=True)
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
