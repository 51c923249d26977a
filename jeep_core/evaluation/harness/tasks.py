"""Running tasks: lm-eval makes the requests and judges the answers, document by document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from random import Random
from typing import Any

from jeep_core.errors import JeepError, NumericalError, is_passing, reason_of
from jeep_core.evaluation.harness.answers import Answers
from jeep_core.evaluation.harness.catalogue import InvalidTask, TaskFile
from jeep_core.evaluation.harness.installed import NoHarness, installed_version

FEWSHOT_SEED = 1234
"""lm-eval's own default, so that its command draws the same examples."""

Aggregate = Callable[[list[Any]], float]


@dataclass(frozen=True)
class Metric:
    """A metric over the documents of a task: ``items`` has one value for each, None without one.

    An item is a number, or a pair such as log-likelihood and words, of which ``aggregate`` makes
    the ``value``.
    """

    name: str
    value: float
    items: tuple[Any, ...]
    aggregate: Aggregate
    higher_is_better: bool


@dataclass(frozen=True)
class Outcome:
    """One task answered by one version.

    ``documents`` are lm-eval's records: ``doc``, ``target``, ``arguments``, ``filtered_resps``.
    """

    task: str
    metrics: tuple[Metric, ...]
    documents: tuple[Mapping[str, Any], ...]
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Tasks:
    """Tasks that lm-eval has loaded; ``chosen`` documents by task, all where it names none."""

    found: Mapping[str, Any]
    chosen: Mapping[str, list[int]] = field(default_factory=dict)

    @property
    def shots(self) -> dict[str, int]:
        """Examples before each document, by task."""
        return {name: int(task.config.num_fewshot or 0) for name, task in self.found.items()}

    @property
    def documents(self) -> dict[str, int]:
        """How many documents are asked, by task."""
        return {
            name: len(self.chosen.get(name) or task.eval_docs) for name, task in self.found.items()
        }


def load_tasks(
    files: Sequence[TaskFile], cache: Path, limit: int | None = None, seed: int = 0
) -> Tasks:
    """Load tasks with their data; at most ``limit`` documents of each, drawn by ``seed``.

    ``cache`` is a folder for the tables that lm-eval makes of the data.

    Raises:
        NoHarness: lm-eval is not installed.
        InvalidTask: it cannot load a task.
    """
    if installed_version() is None:
        raise NoHarness
    from lm_eval.tasks import TaskManager

    found: dict[str, Any] = {}
    managers: dict[Path, Any] = {}
    for file in files:
        try:
            if file.root not in managers:
                managers[file.root] = TaskManager(
                    include_path=str(file.root), include_defaults=False
                )
            task = _loaded(managers[file.root], file, cache)
        except JeepError:
            raise
        except Exception as error:  # whatever a task file and lm-eval's own checks make of it
            if is_passing(error):
                raise
            message = f"{file.file}: lm-eval {metadata.version('lm-eval')} cannot load it"
            raise InvalidTask(f"{message}: {reason_of(error)}") from error
        found[file.name] = task
    chosen = {
        name: sorted(Random(seed).sample(range(len(task.eval_docs)), limit))
        for name, task in found.items()
        if limit is not None and limit < len(task.eval_docs)
    }
    return Tasks(found, chosen)


def _loaded(manager: Any, file: TaskFile, cache: Path) -> Any:
    """The task of a file, its data read from where they are and nowhere else."""
    changes: dict[str, Any] = {"task": file.name}
    if file.data_files:
        data = {split: list(paths) for split, paths in file.data_files.items()}
        changes["dataset_kwargs"] = {"data_files": data, "cache_dir": str(cache)}
    # a group of one task takes changes to what its file says
    loaded = manager.load([{"group": "asked", "task": [changes]}])
    [task] = loaded["tasks"].values()
    if task.get_config("num_fewshot") is None:
        task.set_config("num_fewshot", 0)
    return task


def ask(tasks: Tasks, answers: Answers, chat: bool = False) -> list[Outcome]:
    """Have a version answer all tasks.

    With ``chat``, prompts and examples are messages of a chat in the model's own format.

    Raises:
        InvalidTask: an answer has no tokens, or an option of a task is unknown.
        NumericalError: a figure is not finite.
        Whatever the monitor of ``answers`` raises.
    """
    from lm_eval.evaluator import evaluate

    for task in tasks.found.values():
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    try:
        result = evaluate(
            lm=answers,
            task_dict={"tasks": dict(tasks.found), "groups": {}},
            samples=dict(tasks.chosen) or None,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    except OverflowError as error:
        raise NumericalError(f"a metric of lm-eval is too large to be a number: {error}") from None
    return [_outcome(name, task, result, tasks) for name, task in tasks.found.items()]


def _outcome(name: str, task: Any, result: Mapping[str, Any], tasks: Tasks) -> Outcome:
    """Values of every metric by document; lm-eval lists a document once for each filter."""
    samples = result["samples"][name]
    values: dict[tuple[str, str], dict[int, Any]] = {}
    documents: dict[int, Mapping[str, Any]] = {}
    for sample in samples:
        documents.setdefault(sample["doc_id"], sample)
        for metric in sample["metrics"]:
            by_document = values.setdefault((metric, sample["filter"]), {})
            by_document[sample["doc_id"]] = sample[metric]
    ids = sorted(documents)
    metrics = tuple(
        Metric(
            name=metric if chosen == "none" else f"{metric},{chosen}",
            value=float(result["results"][name][f"{metric},{chosen}"]),
            items=tuple(found.get(i) for i in ids),
            aggregate=task.aggregation().get(metric, _mean),
            higher_is_better=bool(task.higher_is_better().get(metric, True)),
        )
        for (metric, chosen), found in values.items()
        if metric != "bypass"
    )
    return Outcome(name, metrics, tuple(documents[i] for i in ids), tuple(ids))


def _mean(items: list[Any]) -> float:
    return float(sum(items) / len(items))
