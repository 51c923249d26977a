"""Commands that copy a store: to a backup, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.common import EXIT_FAILED, EXIT_USAGE, app, complain, out
from service.settings import SettingsError, load_settings
from service.store import Store, StoreError
from service.store.maintenance.backup import back_up, restore

Folder = Annotated[Path, typer.Argument(help="Folder of the backup.")]
StoreFolder = Annotated[Path | None, typer.Option("--store", help="The store (JEEP_STORE).")]


def _store_folder(given: Path | None) -> Path:
    try:
        return load_settings(store=given).store
    except SettingsError as error:
        complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None


@app.command("backup")
def backup_command(folder: Folder, store: StoreFolder = None) -> None:
    """Copy the store, also while it is in use; into the same folder again, only what is new."""
    root = _store_folder(store)
    if not (root / "format.json").exists():
        complain(f"{root} is no store")
        raise typer.Exit(EXIT_USAGE)
    try:
        run = back_up(Store.open(root), folder)
    except (StoreError, OSError) as error:
        complain(f"no backup was made: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    count, size = len(run.backup.files), sum(e.size for e in run.backup.files.values())
    out.print(
        f"{folder}: head {run.backup.head}, weights {run.backup.weights_sha256[:12]}…, "
        f"{count} files, {size:,} bytes ({run.new_bytes:,} new)",
        markup=False,
        soft_wrap=True,
    )
    for version, what in run.backup.damaged_versions.items():
        complain(f"{version} cannot be read, copied as it lies there: {what}")
    if run.backup.damaged:
        complain(f"left out, their bytes are damaged: {', '.join(run.backup.damaged)}")
    if run.backup.damaged or run.backup.damaged_versions:
        raise typer.Exit(EXIT_FAILED)


@app.command("restore")
def restore_command(folder: Folder, store: StoreFolder = None) -> None:
    """Make a store from a backup, in an empty or missing folder."""
    root = _store_folder(store)
    try:
        backup = restore(folder, root)
    except (StoreError, OSError) as error:
        complain(f"not restored: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    out.print(
        f"{root}: head {backup.head}, weights {backup.weights_sha256[:12]}…, "
        f"as of {backup.made_at:%Y-%m-%d %H:%M:%S} UTC",
        markup=False,
        soft_wrap=True,
    )
    if backup.damaged_versions:
        damaged = ", ".join(backup.damaged_versions)
        complain(f"cannot be read, as in the store that was backed up: {damaged}")
