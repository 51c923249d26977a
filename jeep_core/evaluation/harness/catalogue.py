"""The tasks of lm-eval that can be run: those that ship, and those of the operator's folder.

A task is a YAML file with its data beside it.  All of it is local and lies in the folder that it
is found in: the file, what it includes, its data and the Python modules of its ``!function``s.
Whatever would be fetched, or lies elsewhere, is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from jeep_core.errors import JeepError
from jeep_core.spec.naming import did_you_mean

PREFIX = "lm-eval:"
"""Begins the name of a suite that is a task of lm-eval, or a file with one."""
BUNDLED = Path(__file__).parent / "data"
LOCAL_DATA = ("json", "csv", "parquet", "text", "arrow")
"""Values of ``dataset_path`` that read files; any other would be looked for on the hub."""
_READ_TOGETHER = 1 << 14


class UnknownTask(JeepError):
    """No task, group or file has this name."""

    code = "unknown_suite"


class InvalidTask(JeepError):
    """A task file that cannot be run here; the message names the file and the key."""

    code = "invalid_task"


class Function(str):
    """A ``!function`` of a task file: the dotted name of what it stands for."""

    __slots__ = ()


@dataclass(frozen=True)
class TaskFile:
    """One task.  ``files`` are all that it is made of, ``data_files`` as lm-eval is to read them.

    ``kind`` is lm-eval's ``output_type``.
    """

    name: str
    kind: str
    path: Path
    root: Path
    files: tuple[Path, ...]
    data_files: Mapping[str, tuple[str, ...]]

    @property
    def file(self) -> str:
        """The task file, as seen from its folder."""
        return self.path.relative_to(self.root).as_posix()

    @property
    def bundled(self) -> bool:
        """Whether the task ships with the library."""
        return self.root == BUNDLED

    def sha256(self) -> str:
        """The hash of names and bytes of all files."""
        found = hashlib.sha256()
        for path in self.files:
            found.update(path.relative_to(self.root).as_posix().encode() + b"\0")
            found.update(hashlib.sha256(path.read_bytes()).digest())
        return found.hexdigest()


@dataclass(frozen=True)
class TaskSet:
    """The tasks of one name, and the hash of all of them; ``name`` begins with `PREFIX`."""

    name: str
    tasks: tuple[TaskFile, ...]

    @property
    def sha256(self) -> str:
        """The hash of all their files."""
        parts = [f"{task.name}\0{task.sha256()}" for task in self.tasks]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Listed:
    """An entry of the catalogue: a task, or a group with the names of its tasks.

    ``problem``: why it cannot be run.
    """

    name: str
    file: str
    bundled: bool
    kind: str
    tasks: tuple[str, ...] = ()
    problem: str | None = None


def is_task(suite: str) -> bool:
    """Whether a suite's name means tasks of lm-eval."""
    return suite.startswith(PREFIX)


def listed(own: Path | None) -> list[Listed]:
    """All tasks and groups, those that ship first, by name; a wrong file with its problem."""
    found = {}
    for root in reversed(_roots(own)):
        for path in _yaml_files(root):
            entry = _entry(path, root)
            if entry is not None:
                found[entry.name] = entry
    return sorted(found.values(), key=lambda entry: (not entry.bundled, entry.name))


def find(suite: str, own: Path | None) -> TaskSet:
    """The tasks that ``lm-eval:NAME`` or ``lm-eval:PATH.yaml`` means.

    A name is a task's or a group's; those that ship come first.  A path is one inside ``own``.

    Raises:
        UnknownTask: there is none.
        InvalidTask: one of them cannot be run here.
    """
    asked = suite.removeprefix(PREFIX)
    if asked.endswith((".yaml", ".yml")):
        return TaskSet(suite, (_by_path(asked, own),))
    for root in _roots(own):
        paths = _named(root)
        if asked in paths:
            members = _members(paths[asked], root)
            chosen = [asked] if members is None else list(members)
            missing = [name for name in chosen if name not in paths]
            if missing:
                where = paths[asked].relative_to(root)
                message = f"{where}: its task {missing[0]!r} is in no file of the folder"
                raise InvalidTask(f"{message}: name tasks that are there")
            return TaskSet(suite, tuple(_checked(paths[name], root) for name in chosen))
    places = "the bundled ones" if own is None else "the bundled ones or JEEP_LM_EVAL_TASKS"
    known = sorted(name for root in _roots(own) for name in _named(root))
    advice = f"{did_you_mean(asked, known, '; ') or ':'} take one of {', '.join(known[:20])}"
    raise UnknownTask(f"no task called {asked!r} is among {places}{advice}")


def _roots(own: Path | None) -> list[Path]:
    return [BUNDLED] if own is None else [BUNDLED, own.resolve()]


def _yaml_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.yaml")):
        if path.is_file() and path.resolve().is_relative_to(root):
            yield path


def _named(root: Path) -> dict[str, Path]:
    """The files of a folder by the task or group in them; of several the first."""
    found: dict[str, Path] = {}
    for path in _yaml_files(root):
        try:
            name = _name(_merged(path, root))
        except InvalidTask:
            continue
        if name is not None:
            found.setdefault(name, path)
    return found


def _name(config: Mapping[str, Any]) -> str | None:
    name = config.get("group", config.get("task"))
    return name if isinstance(name, str) else None


def _entry(path: Path, root: Path) -> Listed | None:
    """The entry of a file; None for one that only others include."""
    file, bundled = path.relative_to(root).as_posix(), root == BUNDLED
    name: str | None = None
    try:
        config = _merged(path, root)
        name = _name(config)
        if name is None:
            return None
        members = _members(path, root)
        if members is not None:
            return Listed(name, file, bundled, "group", members)
        return Listed(name, file, bundled, _checked(path, root).kind)
    except InvalidTask as error:
        return Listed(name or path.stem, file, bundled, "", problem=str(error))


def _members(path: Path, root: Path) -> tuple[str, ...] | None:
    """The names of a group's tasks; None for a task."""
    config = _merged(path, root)
    if "group" not in config:
        return None
    names = config.get("task")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    raise InvalidTask(f"{path.relative_to(root)}: task: a group has a list of names of tasks")


def _by_path(asked: str, own: Path | None) -> TaskFile:
    """The task of a file.

    Raises:
        UnknownTask: it is not in the folder, whether it exists or not.
    """
    if own is None:
        raise UnknownTask(f"{asked}: no folder of task files is set: set JEEP_LM_EVAL_TASKS")
    root = own.resolve()
    path = (root / asked).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise UnknownTask(f"{asked} is no file in JEEP_LM_EVAL_TASKS: put it there with its data")
    return _checked(path, root)


def _checked(path: Path, root: Path) -> TaskFile:
    """A task that can be run from the files of its folder.

    Raises:
        InvalidTask: it cannot.
    """
    where = path.relative_to(root)
    config = _merged(path, root)
    name = config.get("task")
    if not isinstance(name, str):
        raise InvalidTask(f"{where}: task: the name of the task is missing")
    _refuse_remote(where, config)
    files = [*_sources(path, root)]
    for function in _functions(config):
        files.append(_module(function, path, root))
    data = _data_files(where, config, path, root)
    files += [Path(one) for paths in data.values() for one in paths]
    kind = str(config.get("output_type", "generate_until"))
    ordered = tuple(sorted(set(files)))
    return TaskFile(name, kind, path, root, ordered, data)


def _refuse_remote(where: Path, config: Mapping[str, Any]) -> None:
    """Refuse what would be fetched, or is not about text."""
    source = config.get("dataset_path")
    if "custom_dataset" not in config and source not in LOCAL_DATA:
        raise InvalidTask(
            f"{where}: dataset_path: {source!r} is not local: take one of "
            f"{', '.join(LOCAL_DATA)} and name the files in dataset_kwargs.data_files"
        )
    metrics = config.get("metric_list") or []
    if any(isinstance(one, dict) and one.get("hf_evaluate") for one in metrics):
        raise InvalidTask(f"{where}: metric_list: hf_evaluate fetches a metric: leave it out")
    for key in ("doc_to_image", "doc_to_audio"):
        if config.get(key):
            raise InvalidTask(f"{where}: {key}: models here read text only: leave it out")
    if config.get("unsafe_code"):
        raise InvalidTask(f"{where}: unsafe_code: code that a model writes is not run here")


def _data_files(
    where: Path, config: Mapping[str, Any], path: Path, root: Path
) -> dict[str, tuple[str, ...]]:
    """The data files by split, absolute; patterns are read from the folder of the task file."""
    given = (config.get("dataset_kwargs") or {}).get("data_files")
    if given is None and "custom_dataset" in config:
        return {}
    if isinstance(given, str | list):
        given = {"train": given}
    if not isinstance(given, dict) or not given:
        raise InvalidTask(f"{where}: dataset_kwargs.data_files: name the files of every split")
    found = {}
    for split, names in given.items():
        patterns = names if isinstance(names, list) else [names]
        paths = [one for pattern in patterns for one in _matching(str(pattern), path, root)]
        if not paths:
            raise InvalidTask(
                f"{where}: dataset_kwargs.data_files.{split}: {names} is no file in the folder "
                "of tasks: put it beside the task file"
            )
        found[str(split)] = tuple(str(one) for one in paths)
    return found


def _matching(pattern: str, path: Path, root: Path) -> list[Path]:
    """Files in ``root`` that a pattern beside ``path`` means; none if it leaves the folder."""
    if "://" in pattern or Path(pattern).is_absolute():
        return []
    try:
        candidates = (
            sorted(path.parent.glob(pattern)) if "*" in pattern else [path.parent / pattern]
        )
    except ValueError:
        return []
    found = [one.resolve() for one in candidates]
    return [one for one in found if one.is_file() and one.is_relative_to(root)]


def _module(function: Function, path: Path, root: Path) -> Path:
    """The file of a ``!function``'s module.

    Raises:
        InvalidTask: it is none of the folder, as an installed module would be.
    """
    module, _, name = function.rpartition(".")
    found = (path.parent / (module.replace(".", "/") + ".py")).resolve()
    if not module or not found.is_relative_to(root) or not found.is_file():
        raise InvalidTask(
            f"{path.relative_to(root)}: !function {function}: there is no {module or name}.py "
            "beside the task file: functions come from the folder of tasks alone"
        )
    return found


def _functions(value: Any) -> Iterator[Function]:
    if isinstance(value, Function):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _functions(one)
    elif isinstance(value, list):
        for one in value:
            yield from _functions(one)


def _sources(path: Path, root: Path) -> list[Path]:
    """A task file and those that it includes."""
    found = [path.resolve()]
    for one in _includes(_read(path), path, root):
        found += _sources(one, root)
    return found


def _merged(path: Path, root: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a task file over those of the files that it includes."""
    if path in above:
        raise InvalidTask(f"{path.relative_to(root)}: include: the files include one another")
    config = _read(path)
    merged: dict[str, Any] = {}
    for one in _includes(config, path, root):
        merged |= _merged(one, root, (*above, path))
    return merged | {key: value for key, value in config.items() if key != "include"}


def _includes(config: Mapping[str, Any], path: Path, root: Path) -> list[Path]:
    given = config.get("include") or []
    names: Sequence[Any] = given if isinstance(given, list) else [given]
    found = []
    for name in names:
        one = (path.parent / str(name)).resolve()
        if not one.is_relative_to(root) or not one.is_file():
            raise InvalidTask(
                f"{path.relative_to(root)}: include: {name} is no file in the folder of tasks"
            )
        found.append(one)
    return found


def _read(path: Path) -> dict[str, Any]:
    """The keys of one file, functions as their names.

    Raises:
        InvalidTask: it is not a mapping in YAML.
    """
    try:
        stat = path.stat()
        found = _parsed(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = str(error).splitlines()[0]
        raise InvalidTask(f"{path.name} cannot be read: {said}") from error
    if not isinstance(found, dict):
        raise InvalidTask(f"{path.name}: a task file holds keys and values")
    return found


class _Loader(yaml.SafeLoader):
    """YAML with ``!function`` as a name; any other tag is an error."""


def _function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Function:
    return Function(loader.construct_scalar(node))


_Loader.add_constructor("!function", _function)


@lru_cache(maxsize=_READ_TOGETHER)
def _parsed(path: Path, changed_ns: int, size: int) -> Any:
    loader = _Loader(path.read_text(encoding="utf-8"))
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
