"""``jeep export``, and ``jeep exports``: versions as files for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from service.cli import tables
from service.cli.common import (
    EXIT_FAILED,
    AsJson,
    Url,
    complain,
    connected,
    err,
    finish,
    follow,
    out,
    show,
    show_records,
    show_status,
)
from service.cli.groups import group as new_group

if TYPE_CHECKING:
    from service.client import Client
    from service.contracts.schemas import JobOut
    from service.contracts.schemas.exports import Export, Proof

ExportId = Annotated[str, typer.Argument(help="As jeep exports list shows it.")]
Folder = Annotated[Path, typer.Option("--out", help="Folder for the files.")]

PUBLIC = "A repository that is made is for everybody."

group = new_group(
    "Exported versions: list, show, get, remove.",
    lists=True,
    epilog="jeep export makes one.",
)


def export(
    version: Annotated[str, typer.Argument(help="Version id, snapshot name, head or base.")],
    file: Annotated[
        Path | None, typer.Argument(help="As jeep versions export: one file, without --out.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="peft, merged, gguf or safetensors; a service may have more."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for the files; without it they stay there.")
    ] = None,
    max_rank: Annotated[int | None, typer.Option(help="peft: highest rank of a module.")] = None,
    max_error: Annotated[
        float | None, typer.Option(help="peft: what a module may miss of its change.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    type: Annotated[
        str | None, typer.Option(help="gguf: source, F16, BF16, Q8_0 or Q4_K_M.")
    ] = None,
    edited: Annotated[
        str | None, typer.Option(help="gguf: type of the edited matrices: same, Q8_0 or F16.")
    ] = None,
    strengthen: Annotated[
        bool,
        typer.Option(
            "--strengthen",
            help="gguf: edit facts that the file loses again with a margin, and export that.",
        ),
    ] = False,
    include_facts: Annotated[
        bool, typer.Option("--include-facts", help="Write the edited facts beside it.")
    ] = False,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of another format; repeatable.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Also upload them to this repository.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help=PUBLIC)] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Only queue it.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Export a version for other programs.

    Waits for the files, fetches them, compares each with its hash, and says how many edited facts
    they hold.  A download that broke off goes on: jeep exports get.
    """
    if push is not None and (file is not None or no_wait):
        raise typer.BadParameter(
            "needs the files: leave out FILE and --no-wait", param_hint="--push"
        )
    if push is not None:
        _can_push()
    if file is not None:
        _one_file(version, file, format, folder, url)
        return
    options: dict[str, Any] = {"max_rank": max_rank, "max_error": max_error, "dtype": dtype}
    options |= {"type": type, "edited": edited}
    options |= {"include_facts": include_facts or None} | _named(option or [])
    with connected(url) as client:
        job = client.submit_export(version, format=format or "safetensors", **options)
        if no_wait:
            show_status(job, as_json)
            return
        found = _proven(client, job, folder, options if strengthen else None, as_json)
        if push is not None:
            _push(client, found.id, push, folder, public, as_json)


def _proven(
    client: Client,
    job: JobOut,
    folder: Path | None,
    strengthened: dict[str, Any] | None,
    as_json: bool,
) -> Export:
    """Wait for an export and fetch it; with options for it lost facts are edited again before."""
    found = _finished(client, job, as_json)
    if strengthened is not None and found.result and found.result.proof.n_lost:
        found = _strengthened(client, found, strengthened, as_json)
    if folder is not None:
        _fetch(client, found.id, folder, as_json)
    if found.result is None or not found.result.proof.ok:
        complain("not all that was proven holds: jeep exports proof " + found.id)
        raise typer.Exit(EXIT_FAILED)
    return found


def _finished(client: Client, job: JobOut, as_json: bool) -> Export:
    found: Export = finish(
        client, job.id, as_json, export_table, lambda _: client.export_result(job.resource_id)
    )
    return found


def _strengthened(client: Client, lost: Export, options: dict[str, Any], as_json: bool) -> Export:
    """The export of a version in which the facts that ``lost`` has lost are edited again."""
    from service.contracts.jobs import JobStatus

    stronger = follow(client, client.strengthen_export(lost.id).id, quiet=as_json)
    if stronger.status is not JobStatus.SUCCEEDED:
        complain(f"the lost facts could not be edited again: jeep jobs show {stronger.id}")
        raise typer.Exit(EXIT_FAILED)
    version = stronger.result["version"]
    err.print(f"{version} has the lost facts again, with a margin", markup=False)
    job = client.submit_export(version, format=lost.format, **options)
    return _finished(client, job, as_json)


@group.command("list")
def list_exports(as_json: AsJson = False, url: Url = None) -> None:
    """List the exports, newest first."""
    with connected(url) as client:
        show_records(list(client.exports()), as_json, tables.exports)


@group.command("show")
def show_export(export_id: ExportId, as_json: AsJson = False, url: Url = None) -> None:
    """Show an export: its files and its proof."""
    with connected(url) as client:
        show(client.export_result(export_id), as_json, export_table)


@group.command("get")
def get_export(export_id: ExportId, folder: Folder, url: Url = None) -> None:
    """Fetch the files of an export; one that is there is not fetched again."""
    with connected(url) as client:
        _fetch(client, export_id, folder, quiet=False)


@group.command("push")
def push_export(
    export_id: ExportId,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Of the hub.")],
    public: Annotated[bool, typer.Option("--public", help=PUBLIC)] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Upload the files of an export to the hub of Hugging Face.

    In one commit, with the token of the file that JEEP_HUB_TOKEN_FILE names; JEEP_HUB_ENDPOINT is
    another hub's address.
    """
    with connected(url) as client:
        _push(client, export_id, repository, None, public, as_json)


@group.command("proof")
def show_proof(export_id: ExportId, url: Url = None) -> None:
    """Print the whole proof sheet as JSON: every fact with both answers."""
    with connected(url) as client:
        print(json.dumps(client.export_proof(export_id), indent=2, ensure_ascii=False))


@group.command("remove")
def remove_export(export_id: ExportId, url: Url = None) -> None:
    """Remove the files of an export."""
    with connected(url) as client:
        client.remove_export(export_id)
        out.print(f"the files of {export_id} are removed", markup=False)


def export_table(answer: Export) -> RenderableType:
    """An export: what was written, and what it says."""
    result = answer.result
    if result is None:
        return tables.without_result(answer)
    files = f"{len(result.files)} files, {result.bytes:,} bytes"
    gone = "" if answer.available else ", removed"
    lines = [f"{answer.id}: {result.version} as {result.format}, {files}{gone}"]
    if "rank" in result.details:
        lines.append(f"rank {result.details['rank']}, misses {result.details['error']:.2g}")
    return Group(*map(Text, [*lines, *_proof_lines(result.proof)]), Text(f"\n{result.use}"))


def _proof_lines(proof: Proof) -> list[str]:
    lines = [
        f"{check.name}: {check.value:.3g}{'' if check.ok else ' (too much)'}, {check.said}"
        for check in proof.checks
    ]
    if proof.hold is None:
        return [*lines, *([proof.not_asked] if proof.not_asked else [])]
    lines.append(
        f"{proof.hold} of {proof.facts} edited facts hold in the files, {proof.hold_in_version} in "
        "the version"
    )
    if proof.advice:
        lines.append(f"to keep them: {proof.advice}")
    return lines + [f"  lost: {one.prompt} {one.target_new!r}" for one in proof.lost[:10]]


def _fetch(client: Client, export_id: str, folder: Path, quiet: bool) -> None:
    from service.client import DamagedDownload
    from service.contracts.schemas.exports import ExportFile

    def hear(file: ExportFile, done: int) -> None:
        if not quiet and done == file.bytes:
            err.print(f"{folder / file.path}: {done:,} bytes", markup=False)

    try:
        client.download_export(export_id, folder, hear)
    except DamagedDownload as error:
        complain(str(error))
        raise typer.Exit(EXIT_FAILED) from None


def _can_push() -> None:
    """End here, before minutes of work, where no file could be given to the hub."""
    from service.client.hub import PushFailed, check
    from service.settings import HubSettings, SettingsError

    try:
        check(HubSettings())
    except (PushFailed, SettingsError) as error:
        complain(f"jeep: {error}")
        raise typer.Exit(EXIT_FAILED) from None


def _push(
    client: Client, export_id: str, repository: str, folder: Path | None, public: bool, quiet: bool
) -> None:
    """Upload the files, which are fetched first where no folder has them."""
    from service.client.hub import PushFailed, push
    from service.settings import HubSettings, SettingsError

    _can_push()
    with TemporaryDirectory(prefix="jeep-push-") as aside:
        if folder is None:
            folder = Path(aside)
            _fetch(client, export_id, folder, quiet=True)
        try:
            done = push(folder, repository, HubSettings(), private=not public)
        except (PushFailed, SettingsError) as error:
            complain(f"jeep: {error}")
            raise typer.Exit(EXIT_FAILED) from None
    if not quiet:
        err.print(f"{done.files} files are in {done.url}", markup=False)


def _one_file(
    version: str, file: Path, format: str | None, folder: Path | None, url: str | None
) -> None:
    """As ``jeep versions export``."""
    if folder is not None:
        raise typer.BadParameter("name a file or a folder, not both", param_hint="--out")
    with connected(url) as client:
        out.print(f"{file}: {client.export(version, file, format):,} bytes", markup=False)


def _named(options: list[str]) -> dict[str, Any]:
    """Options of formats that this command does not know: JSON where it is, else text."""
    found: dict[str, Any] = {}
    for one in options:
        name, equals, value = one.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{one!r} is not NAME=VALUE", param_hint="--option")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
