"""The kinds of commands and groups that ``jeep`` is made of."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence, Set
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

GIVEN = "jeep.given"
"""Where a context keeps the words that were given to its command."""
FLAG = re.compile(r"'(--?[\w-]+)'")
"""A flag in quotes, as typer's messages name one."""
KEY_FILE: ContextVar[Path | None] = ContextVar("KEY_FILE", default=None)
"""The file given as ``--key-file``."""
KeyFile = Annotated[
    Path | None,
    typer.Option(help="File with the API key (JEEP_KEY_FILE; the key itself: JEEP_API_KEY)."),
]
Command = TypeVar("Command", bound=Callable[..., Any])


class Verb(TyperCommand):
    """A command.  Without positional arguments, a repeatable option takes several words at once.

    ``--sizes 1 16 64`` then means ``--sizes 1 --sizes 16 --sizes 64``.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer's, with the words kept in ``ctx.meta``."""
        ctx.meta[GIVEN] = list(args)
        arguments = [one for one in self.params if one.param_type_name == "argument"]
        if not arguments:
            repeatable = {flag for one in self.params if one.multiple for flag in one.opts}
            args = list(_spread(args, repeatable))
        return super().parse_args(ctx, args)


def _spread(words: Sequence[str], repeatable: Set[str]) -> Iterator[str]:
    """The words, with the flag of a repeatable option before every one of its values."""
    flag, values = "", 0
    for word in words:
        if word in repeatable:
            flag, values = word, 0
        elif len(word) > 1 and word.startswith("-"):
            flag = ""
        elif flag:
            values += 1
            if values > 1:
                yield flag
        yield word


class Group(TyperGroup):
    """A group that suggests what an unknown name may have meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer's; without a word the help is shown, with the exit code for wrong usage."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer's, with the complaint in our form."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            from jeep_core.spec.naming import did_you_mean, near_names  # slow to import

            shown = [known for known, command in self.commands.items() if not command.hidden]
            near = near_names(name, shown) or near_names(name, self.commands)
            advice = did_you_mean(name, near, ": ")
            ctx.fail(f"there is no command {name!r}{advice}")
        return super().resolve_command(ctx, args)


class ListingGroup(Group):
    """A group whose command ``list`` is the one that is meant where none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer's, with ``list`` put in: ``jeep jobs --status failed``."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


class CommandGroup(typer.Typer):
    """A Typer whose commands with ``--url`` also take ``--key-file``."""

    def command(self, *args: Any, **options: Any) -> Callable[[Command], Command]:
        """As Typer's."""
        register = super().command

        def take(command: Command) -> Command:
            given = {"cls": Verb, "help": paragraphs(inspect.getdoc(command) or ""), **options}
            register(*args, **given)(_with_key_file(command))
            return command

        return take


def paragraphs(text: str) -> str:
    """A text without the line breaks inside its paragraphs: the terminal's width breaks them."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def group(line: str, *, lists: bool = False, epilog: str | None = None) -> CommandGroup:
    """A group of commands.

    Args:
        line: its help, as ``tree.py`` has it.
        lists: whether its command ``list`` is run where none is named.
        epilog: shown below its help.
    """
    return CommandGroup(
        cls=ListingGroup if lists else Group,
        callback=lambda: None,  # makes a group of a single command, too
        help=line,
        epilog=epilog,
        no_args_is_help=not lists,
        add_completion=False,
    )


class Later(TyperCommand):
    """A command or group that is imported when it is run; its name and line are known before.

    Args:
        name: as it is typed.
        where: ``module:attribute`` in ``service.cli.commands``: a function or a `CommandGroup`.
        line: its help in the overview.
        panel: of the overview.
        hidden: whether the overview leaves it out.
    """

    def __init__(
        self, name: str, where: str, line: str, panel: str | None = None, hidden: bool = False
    ) -> None:
        super().__init__(name, help=line, rich_help_panel=panel, hidden=hidden)
        self.where = where

    def load(self) -> Any:
        """Import the command: a `Verb` or a `Group`."""
        from service.ops.garbage import postponed  # the overview needs no part of the service

        module, _, attribute = self.where.partition(":")
        with postponed():
            found = getattr(import_module(f"service.cli.commands.{module}"), attribute)
        if not isinstance(found, typer.Typer):
            verb = CommandGroup(add_completion=False)
            verb.command(self.name)(found)
            found = verb
        command = get_command(found)
        command.name, command.hidden = self.name, self.hidden
        return command

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """The context of the command itself, so that it is the one that parses and runs."""
        return self.load().make_context(info_name, args, parent=parent, **extra)


def _with_key_file(command: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(command)
    if "url" not in signature.parameters:
        return command

    def run(**flags: Any) -> None:
        KEY_FILE.set(flags.pop("key_file"))
        command(**flags)

    key_file = inspect.Parameter(
        "key_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=KeyFile
    )
    hints = {**get_type_hints(command, include_extras=True), "key_file": KeyFile}
    parameters = [p.replace(annotation=hints[name]) for name, p in signature.parameters.items()]
    run.__name__, run.__doc__, run.__annotations__ = command.__name__, command.__doc__, hints
    run.__signature__ = inspect.Signature([*parameters, key_file])  # type: ignore[attr-defined]
    return run


def sentence(error: typer.TyperException) -> str:
    """A complaint about the command line as one sentence: what is wrong, and where help is."""
    text = " ".join(error.format_message().split()).removesuffix(".")
    text = text.replace("(Possible options: ", "(did you mean ").replace("Value error, ", "", 1)
    text = FLAG.sub(r"\1", text.removeprefix("Invalid value for "))
    if text[1:2].islower():  # not the name of an argument
        text = text[0].lower() + text[1:]
    context = getattr(error, "ctx", None)
    path = "jeep" if context is None else context.command_path
    more = "" if text.endswith("?") or context is None else f"; see {path} --help"
    return f"{path}: {text}{more}"
