"""``jeep export``, and ``jeep exports``: versions as files for other programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from service.cli import tables
from service.cli.commands.outward.choices import (
    all_options,
    check_folder,
    check_together,
    flags_given,
)
from service.cli.commands.outward.pushing import check_push, folder_aside, push_folder
from service.cli.common import (
    EXIT_FAILED,
    AsJson,
    Url,
    complain,
    connected,
    err,
    follow,
    out,
    show,
    show_list,
    show_status,
)
from service.cli.groups import group as new_group

if TYPE_CHECKING:
    from service.client import Client
    from service.contracts.schemas import JobOut
    from service.contracts.schemas.exports import Export, Proof

ExportId = Annotated[str, typer.Argument(help="As jeep exports list shows it.")]
Folder = Annotated[Path, typer.Option("--out", help="Folder for the files.")]

OWN_FOLDER = re.compile(r"(?<![A-Z_])FOLDER(?![A-Z_])")
"""What stands for the folder of an export in the program that uses it."""
PUBLIC = "A repository that is made is for everybody."


@dataclass(frozen=True)
class _Wanted:
    """The use of an export when it has ended; ``options`` are those that it is made with."""

    folder: Path | None
    strengthen: bool
    push: str | None
    public: bool
    options: dict[str, Any]
    as_json: bool


group = new_group(
    "Exported versions: list, show, get, remove.",
    lists=True,
    epilog="jeep export makes one.",
)


def export(
    context: typer.Context,
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
    flags: dict[str, Any] = {
        "max_rank": max_rank,
        "max_error": max_error,
        "dtype": dtype,
        "type": type,
    }
    flags |= {"edited": edited, "include_facts": include_facts or None}
    check_together(flags_given(context), format, push)
    options = all_options(option or [], flags)
    if folder is not None:
        check_folder(folder)
    if push is not None:
        check_push(push)
    if file is not None:
        _one_file(version, file, format, url)
        return
    with connected(url) as client:
        if push is not None:
            client.check_admin()  # what leaves the service for others is an administrator's matter
        job = client.submit_export(version, format=format or "safetensors", **options)
        if no_wait:
            show_status(job, as_json)
            return
        _carry_out(client, job, _Wanted(folder, strengthen, push, public, options, as_json))


def _carry_out(client: Client, job: JobOut, wanted: _Wanted) -> None:
    """Wait for an export, edit again what it has lost, fetch it and push it, as is wanted."""
    with _told(wanted.as_json) as answer:
        found = _finished(client, job, answer, wanted)
        if wanted.strengthen and found.result and found.result.proof.n_lost:
            found = _strengthened(client, found, answer, wanted)
        if wanted.folder is not None:
            _fetch(client, found.id, wanted.folder, wanted.as_json)
        _check_proof(found)
        if wanted.push is not None:
            answer["pushed"] = _push(
                client, found.id, wanted.push, wanted.folder, wanted.public, wanted.as_json
            )


@contextmanager
def _told(as_json: bool) -> Iterator[dict[str, Any]]:
    """An answer that is filled in the block, and printed once at its end, whatever ends it."""
    answer: dict[str, Any] = {}
    try:
        yield answer
    finally:
        if as_json and answer:
            print(json.dumps(answer, indent=2, ensure_ascii=False))


def _finished(client: Client, job: JobOut, answer: dict[str, Any], wanted: _Wanted) -> Export:
    """The export when its job has ended, in ``answer`` too; exit code 1 unless it succeeded."""
    from service.contracts.jobs import JobStatus

    done = follow(client, job.id, quiet=wanted.as_json)
    found = client.export_result(job.resource_id)
    answer.clear()
    answer.update(found.model_dump(mode="json"))
    if not wanted.as_json:
        out.print(export_table(found, wanted.folder))
    if done.status is not JobStatus.SUCCEEDED:
        raise typer.Exit(EXIT_FAILED)
    return found


def _check_proof(found: Export) -> None:
    """End the command where an export's proof does not hold."""
    if found.result is None or not found.result.proof.ok:
        complain("not all that was proven holds: jeep exports proof " + found.id)
        raise typer.Exit(EXIT_FAILED)


def _strengthened(client: Client, lost: Export, answer: dict[str, Any], wanted: _Wanted) -> Export:
    """The export of a version in which the facts that ``lost`` has lost are edited again."""
    from service.contracts.jobs import JobStatus

    try:
        queued = client.strengthen_export(lost.id)
    except ValueError as error:
        complain(f"the lost facts cannot be edited again: {error}")
        raise typer.Exit(EXIT_FAILED) from None
    stronger = follow(client, queued.id, quiet=wanted.as_json)
    if stronger.status is not JobStatus.SUCCEEDED:
        complain(f"the lost facts could not be edited again: jeep jobs show {stronger.id}")
        raise typer.Exit(EXIT_FAILED)
    version = stronger.result["version"]
    moved = f"{version} is staged, and head is still {lost.version}"
    if stronger.result["activated"]:
        moved = f"head is now {version}; to go back: jeep rollback {lost.version}"
    err.print(f"{version} has the lost facts edited again, with a margin: {moved}", markup=False)
    job = client.submit_export(version, format=lost.format, **wanted.options)
    try:
        found = _finished(client, job, answer, wanted)
    except typer.Exit:
        complain(f"{version} could not be exported; {moved}")
        raise
    if found.result and found.result.proof.n_lost:
        n_lost = found.result.proof.n_lost
        complain(f"editing again did not help enough: facts lost in the file: {n_lost}; {moved}")
    return found


@group.command("list")
def list_exports(as_json: AsJson = False, url: Url = None) -> None:
    """List the exports, newest first."""
    with connected(url) as client:
        show_list(list(client.exports()), as_json, tables.exports)


@group.command("show")
def show_export(export_id: ExportId, as_json: AsJson = False, url: Url = None) -> None:
    """Show an export: its files and its proof."""
    with connected(url) as client:
        show(client.export_result(export_id), as_json, export_table)


@group.command("get")
def get_export(export_id: ExportId, folder: Folder, url: Url = None) -> None:
    """Fetch the files of an export; one that is there is not fetched again.

    Files of another export that was fetched into the folder before are removed, and nothing else.
    """
    check_folder(folder)
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
    another hub's address.  An export whose proof does not hold is not pushed, and the key
    (JEEP_API_KEY) must have the scope admin.
    """
    check_push(repository)
    with connected(url) as client:
        client.check_admin()
        found = client.export_result(export_id)
        if found.result is not None:  # else fetching the files says what became of them
            _check_proof(found)
        done = _push(client, export_id, repository, None, public, as_json)
    if as_json:
        print(json.dumps(done, indent=2, ensure_ascii=False))


@group.command("proof")
def show_proof(export_id: ExportId, url: Url = None) -> None:
    """Print the whole proof sheet as JSON: every fact with both answers."""
    with connected(url) as client:
        print(client.export_proof(export_id).model_dump_json(indent=2))


@group.command("remove")
def remove_export(export_id: ExportId, url: Url = None) -> None:
    """Remove the files of an export."""
    with connected(url) as client:
        client.remove_export(export_id)
        out.print(f"the files of {export_id} are removed", markup=False)


def export_table(answer: Export, folder: Path | None = None) -> RenderableType:
    """An export: what was written, and how it is used from the ``folder`` it was fetched into."""
    result = answer.result
    if result is None:
        return tables.without_result(answer)
    files = f"{len(result.files)} files, {result.bytes:,} bytes"
    gone = "" if answer.available else ", removed"
    # not in BASE_FOLDER, which is another one
    use = result.use if folder is None else OWN_FOLDER.sub(lambda _: str(folder), result.use)
    lines = [f"{answer.id}: {result.version} as {result.format}, {files}{gone}"]
    if "rank" in result.details:
        lines.append(f"rank {result.details['rank']}, misses {result.details['error']:.2g}")
    return Group(*map(Text, [*lines, *_proof_lines(result.proof)]), Text(f"\n{use}"))


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
    from service.contracts.schemas.exports import ExportFile

    def hear(file: ExportFile, done: int) -> None:
        if not quiet and done == file.bytes:
            err.print(f"{folder / file.path}: {done:,} bytes", markup=False)

    client.download_export(export_id, folder, hear)


def _push(
    client: Client, export_id: str, repository: str, folder: Path | None, public: bool, quiet: bool
) -> dict[str, Any]:
    """Upload the files, which are fetched first where no folder has them; the commit's address."""
    if folder is None:
        with folder_aside() as aside:
            _fetch(client, export_id, aside, quiet=True)
            done = push_folder(aside, repository, public)
    else:
        done = push_folder(folder, repository, public)
    if not quiet:
        err.print(f"{done.files} files are in {done.url}", markup=False)
    return asdict(done)


def _one_file(version: str, file: Path, format: str | None, url: str | None) -> None:
    """As ``jeep versions export``."""
    with connected(url) as client:
        out.print(f"{file}: {client.export(version, file, format):,} bytes", markup=False)
