"""``jeep store``: check a store, show its size, tidy it up; ``jeep backup`` and ``restore``."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from jeep_core.errors import is_passing
from jeep_core.storage.looking import present
from jeep_core.text.counting import counted
from service.cli import tables
from service.cli.common import (
    EXIT_FAILED,
    EXIT_USAGE,
    AsJson,
    StoreFolder,
    Url,
    complain,
    connected,
    out,
    show,
)
from service.cli.groups import group as new_group
from service.cli.library import worker_part
from service.cli.listing import Listing
from service.settings import Settings, SettingsError, load_settings
from service.store import Store, StoreError, denial, is_denied
from service.store.maintenance import disk
from service.store.maintenance.backup import back_up
from service.store.maintenance.backup import restore as restore_store
from service.store.maintenance.repair import Repair
from service.store.maintenance.repair import repair as repair_store
from service.store.maintenance.retention import droppable_bytes, plan_retention
from service.store.maintenance.room import MB
from service.store.maintenance.usage import usage
from service.store.maintenance.verify import verify

Folder = Annotated[Path, typer.Argument(help="Folder of the backup.")]

group = new_group(
    "Check a store, show its size, tidy it up.",
    epilog="jeep backup and jeep restore copy a store and make one from a copy.",
)


def _opened(folder: Path | None, **given: object) -> tuple[Settings, Store]:
    """Settings and store; the command ends with a message where there is none."""
    settings = None
    try:
        settings = load_settings(store=folder, **given)
        if not present(settings.store / "format.json"):
            raise SettingsError(f"JEEP_STORE: {settings.store} is no store")
        return settings, Store.open(settings.store)
    except (SettingsError, StoreError, OSError) as error:
        complain(denial(error, settings.store) if settings and is_denied(error) else str(error))
        raise typer.Exit(EXIT_FAILED if is_passing(error) else EXIT_USAGE) from None


@group.command("verify")
def verify_store(
    store: StoreFolder = None,
    as_json: AsJson = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Move damaged versions that nothing needs aside.")
    ] = False,
) -> None:
    """Read every file; print what is damaged and what to do.  Exit code 1 if any file is.

    With --repair, damaged versions are moved aside and reported first; no worker may be running.
    """
    opened = _opened(store)[1]
    repairs = _repaired(opened) if repair else []
    try:
        report = verify(opened)
    except OSError as error:  # of a folder; of a file it is in the report
        complain(f"not verified, the store cannot be read now: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    if as_json:
        record = {**asdict(report), "repairs": [asdict(one) for one in repairs]}
        print(json.dumps(record, indent=2))
    else:
        for one in repairs:
            if one.folder is None:
                complain(f"{one.version} stays where it is: {one.why_not}")
                continue
            moved = f"{one.version} was moved to {opened.root / one.folder}"
            with_it = f"{counted(one.tensors, 'tensor')} that only it names"
            advice = "remove the folder when nobody needs it"
            out.print(f"{moved}, with {with_it}; {advice}", markup=False, soft_wrap=True)
        for found in report.findings:
            complain(f"{found.path}: {found.what}\n  → {found.advice}")
        out.print(
            f"{counted(report.versions, 'version')} ({report.thin} thin), "
            f"{counted(report.tensors, 'tensor')} read, "
            f"{len(report.findings) or 'nothing'} damaged",
            markup=False,
        )
    if report.findings:
        raise typer.Exit(EXIT_FAILED)


def _repaired(store: Store) -> list[Repair]:
    """Repair damaged versions; the command ends if the store's state cannot be read."""
    try:
        return repair_store(store)
    except (StoreError, OSError) as error:
        complain(f"nothing was repaired: {error}")
        raise typer.Exit(EXIT_FAILED) from None


@group.command("du")
def du_store(store: StoreFolder = None, as_json: AsJson = False) -> None:
    """Show the store's disk usage by kind of file."""
    settings, opened = _opened(store)
    try:
        used = usage(opened)
    except StoreError as error:
        complain(f"{error}: see jeep store verify")
        raise typer.Exit(EXIT_FAILED) from None
    except OSError as error:
        complain(str(error))
        raise typer.Exit(EXIT_FAILED) from None
    total, free = sum(one.bytes for one in used.values()), shutil.disk_usage(opened.root).free
    limit = settings.max_store_mb and settings.max_store_mb * MB
    if as_json:
        kinds = {kind: asdict(one) for kind, one in used.items()}
        print(json.dumps({"kinds": kinds, "bytes": total, "limit": limit, "free": free}, indent=2))
        return
    table = Listing("kind", "files", "bytes")
    table.columns[1].justify = table.columns[2].justify = "right"
    for kind, one in used.items():
        table.add_row(kind, f"{one.files:,}", f"{one.bytes:,}")
    table.add_row("all", f"{sum(one.files for one in used.values()):,}", f"{total:,}")
    out.print(table)
    said = f"limit {limit:,} bytes" if limit else "no limit (JEEP_MAX_STORE_MB)"
    out.print(f"{said}, {free:,} bytes free on the disk", markup=False)


@group.command("state")
def show_state(as_json: AsJson = False, url: Url = None) -> None:
    """Show what a follower on another host is told of a service's store.

    It needs a key with the scope follow, as such a follower does: try its address and key with it.
    """
    with connected(url) as client:
        show(client.store_state(), as_json, tables.followed)


@group.command("check-disk")
def check_disk(
    folder: Annotated[
        Path | None, typer.Argument(help="A store, or where one is to be.  Default: JEEP_STORE.")
    ] = None,
    as_json: AsJson = False,
    hold: Annotated[
        bool, typer.Option("--hold", help="Hold a lock there while another machine checks.")
    ] = False,
) -> None:
    """Try what a store needs of a file system.  Exit code 1 if something is missing.

    Of a disk that machines share: run it with --hold on one of them, and without on the others.
    A network file system is for one host: alone it can pass, with a note; beside --hold it fails.
    """
    folder = _store_folder(None) if folder is None else folder
    if not folder.is_dir():
        complain(f"{folder} is no folder: make it first")
        raise typer.Exit(EXIT_USAGE)
    try:
        if hold:
            _held(folder)
            return
        found = disk.check_disk(folder)
    except (StoreError, OSError) as error:
        complain(f"{folder}: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    if as_json:
        print(json.dumps({**asdict(found), "sound": found.sound}, indent=2))
    else:
        table = Listing("what", "needed for", "")
        for check in found.checks:
            table.add_row(check.name, check.needed_for, check.problem or "yes")
        out.print(table)
        said = f"{found.folder}: {found.kind}, {found.free:,} bytes free"
        if not found.between_machines:
            said += "; between machines nothing was tried: run --hold on another one meanwhile"
            if found.of_machines:
                said += f".  {found.kind} is a network file system: {disk.ONE_HOST}"
        out.print(said, markup=False, soft_wrap=True)
    if not found.sound:
        raise typer.Exit(EXIT_FAILED)


def _held(folder: Path) -> None:
    """Hold until Ctrl-C."""
    with disk.hold(folder) as beat:
        out.print(f"{folder}: held; run jeep store check-disk on the others, end with Ctrl-C")
        try:
            while True:
                beat()
                time.sleep(disk.BEAT_S)
        except KeyboardInterrupt:
            pass


@group.command("gc")
def gc_store(
    store: StoreFolder = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be dropped.")
    ] = False,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Newest versions to keep (JEEP_KEEP_VERSIONS).")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The store's model, if it lies elsewhere than when it was last served."),
    ] = None,
) -> None:
    """Drop tensors of old versions that can be rebuilt, and unreferenced files.

    A running worker does this after every job; so without --dry-run there must be none.  The
    store's model is loaded: what is dropped is rebuilt first, to see that it comes out the same.
    """
    settings, opened = _opened(store, keep_versions=keep, model=model)
    if not dry_run:
        raise typer.Exit(worker_part("versions.collect_command").main(settings))
    try:
        plan = plan_retention(opened, settings.keep_versions)
        sizes = droppable_bytes(opened, plan)
    except StoreError as error:
        complain(f"{error}: see jeep store verify")
        raise typer.Exit(EXIT_FAILED) from None
    except OSError as error:
        complain(str(error))
        raise typer.Exit(EXIT_FAILED) from None
    table = Listing("version", "tensors", "bytes", "why")
    for manifest in opened.versions.all():
        if manifest.id in sizes:
            table.add_row(manifest.id, "would be dropped", f"{sizes[manifest.id]:,}", "")
        elif manifest.id in plan.kept:
            table.add_row(manifest.id, "stay", "", plan.kept[manifest.id])
        else:
            table.add_row(manifest.id, "are dropped", "", "rebuilt when needed")
    for version, what in opened.versions.damaged().items():
        table.add_row(version, "stay", "", f"damaged: {what}")
    out.print(table)
    out.print(f"{sum(sizes.values()):,} bytes would come free, if every rebuild matches")


def _store_folder(given: Path | None) -> Path:
    try:
        return load_settings(store=given).store
    except SettingsError as error:
        complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None


def backup(folder: Folder, store: StoreFolder = None) -> None:
    """Copy a store, also while it is in use.

    A second backup into the same folder copies only what is new.
    """
    root = _store_folder(store)
    try:
        if not present(root / "format.json"):
            complain(f"{root} is no store")
            raise typer.Exit(EXIT_USAGE)
        run = back_up(Store.open(root), folder)
    except (StoreError, OSError) as error:
        complain(f"no backup was made: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    count, size = len(run.backup.files), sum(e.size for e in run.backup.files.values())
    out.print(
        f"{folder}: head {run.backup.head}, weights {run.backup.weights_sha256[:12]}…, "
        f"{counted(count, 'file')}, {size:,} bytes ({run.new_bytes:,} new)",
        markup=False,
        soft_wrap=True,
    )
    for version, what in run.backup.damaged_versions.items():
        complain(f"{version} cannot be read, copied as it lies there: {what}")
    if run.backup.damaged:
        complain(f"left out, their bytes are damaged: {', '.join(run.backup.damaged)}")
    if run.backup.damaged or run.backup.damaged_versions:
        raise typer.Exit(EXIT_FAILED)


def restore(folder: Folder, store: StoreFolder = None) -> None:
    """Make a store from a backup.

    Its folder must be empty or missing.
    """
    root = _store_folder(store)
    try:
        backup = restore_store(folder, root)
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
