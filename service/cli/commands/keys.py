"""``jeep keys``: API keys, made and revoked in the store's folder.  A running api follows."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from service.cli import tables
from service.cli.common import (
    EXIT_FAILED,
    EXIT_USAGE,
    AsJson,
    StoreFolder,
    complain,
    err,
    out,
    show_list,
)
from service.cli.groups import group as new_group
from service.contracts.jobs import now
from service.contracts.schemas.access import ApiKey, AuditEntry, Scope
from service.settings import SettingsError, load_settings
from service.store import Store, StoreError

group = new_group("API keys: create, list, revoke.", lists=True)

USUAL = [Scope.READ, Scope.GENERATE, Scope.EDIT]


@group.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is, or what for.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="Repeatable; default: read, generate and edit."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Write the key to a new file that only you can read.")
    ] = None,
    store: StoreFolder = None,
) -> None:
    """Make a key and print it, once; the store keeps only a hash."""
    with _store(store, may_be_new=True) as (opened, is_new), _key_file(file) as descriptor:
        key, token = opened.keys.create(name, scope or USUAL)
        _note(opened, "create_key", key)
        if descriptor is None:
            print(token)
        else:
            os.write(descriptor, f"{token}\n".encode())
    where = "above" if file is None else f"in {file}"
    scopes = ", ".join(key.scopes)
    said = f"{key.id} ({key.name}: {scopes}) of the store {opened.root.absolute()}"
    err.print(f"{said}; the key is {where} and nowhere else", markup=False, soft_wrap=True)
    if is_new:
        complain(
            "this store is new: only a service that is started with it (--store, JEEP_STORE) takes "
            "the key; for one that runs elsewhere, name its store"
        )


@group.command("list")
def list_keys(as_json: AsJson = False, store: StoreFolder = None) -> None:
    """List the keys, oldest first."""
    with _store(store) as (opened, _):
        shown = [key.model_copy(update={"salt": "", "digest": ""}) for key in opened.keys.all()]
        show_list(shown, as_json, tables.keys)


@group.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="The key's id or name.")], store: StoreFolder = None
) -> None:
    """Revoke a key: from now on it gives no access."""
    with _store(store) as (opened, _):
        revoked = opened.keys.revoke(key)
        _note(opened, "revoke_key", revoked)
        out.print(f"{revoked.id} ({revoked.name}) is revoked", markup=False)


def _note(store: Store, action: str, key: ApiKey) -> None:
    target = f"{key.id} {key.name}: {', '.join(key.scopes)}"
    store.audit.append(AuditEntry(when=now(), who=_caller(), action=action, target=target))


def _caller() -> str:
    """Return who runs the command: a name, or the number of a user who has none in a container."""
    try:
        return f"shell:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"shell:{os.getuid()}"


@contextmanager
def _store(folder: Path | None, may_be_new: bool = False) -> Iterator[tuple[Store, bool]]:
    """Yield the store, and whether it is new; an error in it, or in a name, ends the command."""
    try:
        path = load_settings(store=folder).store
        is_new = not (path / "format.json").is_file()
        if is_new and not may_be_new:
            complain(f"JEEP_STORE: there is no store in {path}")
            raise typer.Exit(EXIT_USAGE)
        yield Store.open(path), is_new
    except SettingsError as error:
        complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    except ValidationError:
        complain("a key's name has up to 64 letters, digits and . _ @ - and begins with the former")
        raise typer.Exit(EXIT_USAGE) from None
    except (StoreError, OSError) as error:
        complain(str(error))
        raise typer.Exit(EXIT_FAILED) from None


@contextmanager
def _key_file(path: Path | None) -> Iterator[int | None]:
    """Yield a new file, created before the key and removed again if no key was made."""
    if path is None:
        yield None
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        yield descriptor
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
