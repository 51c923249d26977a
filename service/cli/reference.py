"""The reference of the command line: ``python -m service.cli.reference > docs/cli.md``."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import fill
from typing import Any

from service.cli.tree import ALIASES, VISIBLE, walk

HEAD = """# The command line

Written by `python -m service.cli.reference > docs/cli.md`.

`jeep COMMAND --help` (or `-h`) shows the same for one command, `jeep --version` the version.
Commands that ask a running service take `--url` (else `JEEP_HOST` and `JEEP_PORT`) and
`--key-file` (else `JEEP_API_KEY` or `JEEP_KEY_FILE`), and most print the answer as JSON with
`--json`. A group that has a `list` runs it where no command is named: `jeep jobs --status failed`.
In a pipe or a file every row of a table is one line. Ctrl-C ends the waiting, not the job:
`jeep jobs follow` goes on, `jeep jobs cancel` ends it.

Settings that are secrets (`JEEP_REDIS_PASSWORD`, `JEEP_STORE_KEY`, `JEEP_JUDGE_KEY`) are no
options, as everybody on a machine sees those of its processes: each is a variable, or a file of its
name among the secrets of a container or a unit (`jeep_redis_password`).

Exit codes: 0 it worked, 1 it failed, 2 the command line or a setting makes no sense, 3 the port or
the store is in use, 75 a process that is to be started again (another store, an api that is away),
78 the worker cannot work as configured, 130 interrupted. What passes, such as too little memory or
a network that is away, ends a service or a worker with 1 or 75, never with 2 or 78.
"""
COMMON = {"url", "key_file", "as_json"}
"""Options that the head describes."""


def main() -> None:
    """Print the page."""
    print("\n".join(page()))


def page() -> Iterator[str]:
    """The lines of the page."""
    yield HEAD
    yield "## All commands\n"
    yield from _tree()
    yield "\n## Earlier names\n"
    yield "They take the same arguments and options.\n"
    yield "| name | is now |\n|---|---|"
    yield from (f"| `jeep {one.name}` | `{one.help}` |" for one in ALIASES)
    settings = ""
    for path, command in walk():
        if hasattr(command, "commands"):
            yield f"\n## {' '.join(path)}\n\n{_text(command.help)}"
            if command.epilog:
                yield f"\n{_text(command.epilog)}"
            continue
        yield f"\n{'#' * len(path)} {' '.join(path)}\n\n{_wrapped(command.help)}\n"
        yield f"```\n{_usage(path, command)}\n```"
        options = list(_options(command))
        if "--redis-url" in "".join(options):  # the same for all commands that run the service
            if settings:
                yield f"\nIts options are those of [{settings}](#{settings.replace(' ', '-')})."
                continue
            settings = " ".join(path)
        if options:
            yield "\n| | |\n|---|---|"
            yield from options


def _tree() -> Iterator[str]:
    """The commands by panel, each with its line and, for a group, its commands."""
    yield "```"
    panel = None
    for later in VISIBLE:
        if later.rich_help_panel != panel:
            panel = later.rich_help_panel
            yield f"{panel}:"
        yield f"  jeep {later.name:<14}{later.help}"
        inner = getattr(later.load(), "commands", {})
        yield from (f"         {name:<12}{_first_line(one)}" for name, one in inner.items())
    yield "```"


def _first_line(command: Any) -> str:
    """The first sentence of a command's help."""
    line, stop, _ = _text(command.help).splitlines()[0].partition(". ")
    return line + stop.rstrip()


def _text(help: str) -> str:
    """A help text as Markdown; a bracket is escaped there for the terminal's markup."""
    return help.strip().replace("\\[", "[")


def _wrapped(help: str) -> str:
    """The paragraphs of a command's help as Markdown, in lines of bounded length."""
    parts = _text(help).split("\n\n")
    return "\n\n".join(fill(part, 96, break_on_hyphens=False) for part in parts)


def _usage(path: tuple[str, ...], command: Any) -> str:
    words = [*path]
    for one in command.params:
        if one.param_type_name == "argument":
            name = str(one.metavar or one.name).upper() + ("…" if one.nargs == -1 else "")
            words.append(name if one.required else f"[{name}]")
        elif one.required:
            words.append(f"{one.opts[0]} {_value(one)}")
    words += ["[OPTIONS]"] if list(_options(command)) else []
    return " ".join(words)


def _options(command: Any) -> Iterator[str]:
    for one in command.params:
        if one.name in COMMON:
            continue
        text = _text(one.help or "").replace("|", "\\|")
        if one.param_type_name == "argument":
            yield f"| `{str(one.name).upper()}` | {text} |"
            continue
        flags = ", ".join(f"`{flag}`" for flag in (*one.opts, *one.secondary_opts))
        value = "" if one.is_flag else f" {_value(one)}"
        if value:
            flags = f"`{one.opts[0]}{value}`"
        default = one.default
        shown = not one.is_flag and default not in (None, "", []) and not one.required
        yield f"| {flags} | {text}{f' Default: {default}.' if shown else ''} |"


def _value(option: Any) -> str:
    """The placeholder of an option's value."""
    name = str(option.opts[0]).rpartition("-")[2].upper()
    return f"{name}…" if option.multiple else name


if __name__ == "__main__":
    main()
