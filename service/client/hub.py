"""Giving the files of an export to the hub of Hugging Face, or to another that speaks like it.

The files go up in one commit, so that a push that breaks off leaves nothing half written.  The
token is sent to the hub's own address only: redirects are refused, and so is plain HTTP to
anything but this machine.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jeep_core.errors import Coded, reason_of
from jeep_core.exports.folders import RECORD, DamagedExport, read_record, verify
from service.client.files import inside
from service.settings import HubSettings, SettingsError, is_loopback

if TYPE_CHECKING:
    import httpx2

HOW = "pip install 'jeep-edit[hub]' where this command runs"
TIMEOUT_S = 600.0
"""For the hub to take a part of a file, or to answer."""
_LONGEST = 300
_REPOSITORY = re.compile(r"[A-Za-z0-9](?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?", re.ASCII)
_LONGEST_NAME = 96


class PushFailed(Coded, Exception):
    """The hub did not take the files; nothing of them is in the repository."""

    code = "push_failed"


@dataclass(frozen=True)
class Pushed:
    """A commit that a push has made; ``url`` shows it."""

    repository: str
    url: str
    commit: str
    files: int


def push(folder: Path, repository: str, settings: HubSettings, private: bool = True) -> Pushed:
    """Upload the files of an export into a repository of models, which is made if it is missing.

    These are the files that the folder's ``export.json`` lists, and itself; whatever else lies
    there stays.  ``repository`` is ``OWNER/NAME``; ``private`` counts for one that is made.

    Raises:
        SettingsError: there is no token, it is malformed, or the address may not be given it.
        PushFailed: the folder is no whole export, its proof does not hold, the repository's name
            is none, huggingface_hub is missing, or the hub refuses or cannot be reached.
    """
    endpoint, token = check(settings, repository)
    from huggingface_hub import CommitOperationAdd, HfApi

    names = _files_of(folder)
    api = HfApi(endpoint=endpoint, token=token, library_name="jeep-edit")
    try:
        with _careful():
            api.create_repo(
                repository, visibility="private" if private else "public", exist_ok=True
            )
            done = api.create_commit(
                repository,
                [CommitOperationAdd(name, folder / name) for name in names],
                commit_message="Export of an edited version",
            )
    except Exception as error:  # huggingface_hub, its HTTP client and its checks raise their own
        raise PushFailed(_said(error, repository, endpoint, token)) from None
    return Pushed(repository, str(done.commit_url), str(done.oid), len(names))


def check(settings: HubSettings, repository: str) -> tuple[str, str]:
    """The hub's address and the token, before anything is made to be pushed.

    Raises:
        SettingsError: there is no token, it is malformed, or the address may not be given it.
        PushFailed: huggingface_hub is missing, or ``repository`` is no ``OWNER/NAME``.
    """
    found = _address(settings.hub_endpoint), settings.token()
    if find_spec("huggingface_hub") is None:
        raise PushFailed(f"huggingface_hub is not installed: {HOW}")
    wrong = "--" in repository or ".." in repository or repository.endswith(".git")
    if wrong or len(repository) > _LONGEST_NAME or not _REPOSITORY.fullmatch(repository):
        raise PushFailed(
            f"{repository!r} is no repository of a hub: give OWNER/NAME, of letters, digits, '-', "
            f"'_' and '.', which is at most {_LONGEST_NAME} long"
        )
    return found


def _files_of(folder: Path) -> list[str]:
    """The files of a whole export whose proof holds, its record among them.

    Raises:
        PushFailed: the folder is none.
    """
    try:
        record = read_record(folder)
        names = [one["path"] for one in record["files"]]
        for name in names:
            inside(folder, name)
        verify(folder)
    except (DamagedExport, OSError) as error:
        raise PushFailed(f"{error}: nothing was pushed") from None
    if not record.get("proof", {}).get("ok", True):
        raise PushFailed(f"{folder} holds an export whose proof does not hold: it is not pushed")
    return [*names, RECORD]


def _address(endpoint: str) -> str:
    """The hub's address, if a token may be sent to it."""
    parts = urlsplit(endpoint)
    local = is_loopback(parts.hostname or "")
    if parts.username or parts.password or not parts.hostname:
        raise SettingsError("JEEP_HUB_ENDPOINT: give an address without a user or a password")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise SettingsError(
            f"JEEP_HUB_ENDPOINT: {endpoint!r} is not https: a token is sent in plain text to "
            "this machine only"
        )
    return endpoint.rstrip("/")


@contextmanager
def _careful() -> Iterator[None]:
    """Have huggingface_hub follow no redirect and commit everything at once."""
    import httpx2
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    def client() -> httpx2.Client:
        hooks: dict[str, list[Any]] = {"request": [_refuse_plain], "response": [_refuse_redirect]}
        return httpx2.Client(event_hooks=hooks, follow_redirects=False, timeout=TIMEOUT_S)

    def usual() -> httpx2.Client:
        return httpx2.Client(follow_redirects=True, timeout=None)

    xet, quiet = constants.HF_HUB_DISABLE_XET, are_progress_bars_disabled()
    # with it, large folders go up in several commits, by another client with rules of its own
    constants.HF_HUB_DISABLE_XET = True
    disable_progress_bars()
    set_client_factory(client)
    try:
        with warnings.catch_warnings():
            # huggingface_hub 2.4 gives its client files in a way that this one calls deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        constants.HF_HUB_DISABLE_XET = xet
        if not quiet:
            enable_progress_bars()
        set_client_factory(usual)


class _Elsewhere(PushFailed):
    """The hub sends the client somewhere else."""


def _refuse_plain(request: httpx2.Request) -> None:
    if request.url.scheme != "https" and not is_loopback(request.url.host):
        raise _Elsewhere(f"it names {request.url.host}, which is not reached by https")


def _refuse_redirect(response: httpx2.Response) -> None:
    if response.has_redirect_location:
        raise _Elsewhere(
            f"it redirects to {response.headers['location']}: set JEEP_HUB_ENDPOINT to where the "
            "hub is"
        )


def _said(error: BaseException, repository: str, endpoint: str, token: str) -> str:
    """A sentence without the token: the hub's own, else that of the error beneath all others."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    said = next((one for one in chain if getattr(one, "server_message", None)), None)
    reason = reason_of(chain[-1])
    if said is not None:
        answer = getattr(said, "response", None)
        reason = f"{getattr(answer, 'status_code', '')}: {getattr(said, 'server_message', '')}"
    reason = reason.replace(token, "(the token)")[:_LONGEST]
    return f"{endpoint} did not take the files for {repository}: {reason}"
