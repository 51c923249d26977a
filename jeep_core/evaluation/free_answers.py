"""Cases judged by what a version writes freely, where the other metrics show it the answer.

Every prompt is continued greedily until the end of the text, the end of the first sentence or a
limit of tokens.  The first sentence is compared with the right answers (`matching`); on neighbors
with the first sentence that the base model writes there, as an edit shall leave it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal, TypeVar

from jeep_core.decoding.generation import decoded
from jeep_core.decoding.rows import Row
from jeep_core.decoding.sampling import Sampling
from jeep_core.evaluation.matching import match, same
from jeep_core.evaluation.metrics import Kind, by_group
from jeep_core.executors.here import HERE
from jeep_core.executors.work import Bench, Executor, Work, keep_nothing
from jeep_core.models.views import ModelView
from jeep_core.monitor import NOTHING, Monitor
from jeep_core.spec.facts import Fact
from jeep_core.suites import Case
from jeep_core.text.sentences import first_sentence

TASK = "jeep_core.evaluation.free_answers:write_unit"
TOKENS = 32
"""Of an answer, at most, unless something else is asked for."""
CASES_TOGETHER = 64
"""Cases of a unit, the last one excepted, cut from the first case on."""
C = TypeVar("C", bound=Fact)
Judged = tuple[str, tuple[str, ...], str]
"""A prompt, its right answers and the text that a judge was shown: what a verdict is about."""
Ended = Literal["end of text", "sentence", "limit"]
SUFFIX: Mapping[Kind, str] = {
    "edit": "",
    "paraphrase": "_generalization",
    "portability": "_portability",
}
"""How the metrics of a kind of prompt end; of neighbors see `free_scores`."""

RULES = {"exact": "free_exact", "f1": "free_f1", "contains": "free_contains", "judge": "judge"}
"""Metrics by the field of a judgement that they are means of."""


@dataclass(frozen=True)
class FreeText:
    """The first sentence that a version writes after a prompt, and how the writing ended."""

    text: str
    ended: Ended


@dataclass(frozen=True)
class FreePrompt:
    """A prompt of a case with its right answers; none for neighbors without a known answer.

    ``group``: of a portability question, as its data set has it.
    """

    kind: Kind
    prompt: str
    right: tuple[str, ...]
    group: str = ""


@dataclass(frozen=True)
class FreeJudgement:
    """A free answer as it was judged.

    ``exact``, ``f1`` (in [0, 1]) and ``contains`` compare with the right answers, of neighbors
    ``f1`` alone, where they have some; ``kept``, of neighbors, with the text of the base model.
    ``judge``: the verdict of a judge model, None where none was asked or its answer was neither yes
    nor no.
    """

    kind: Kind
    prompt: str
    text: str
    ended: Ended
    exact: bool | None = None
    f1: float | None = None
    contains: bool | None = None
    kept: bool | None = None
    base_text: str | None = None
    judge: bool | None = None
    group: str = ""


def free_prompts(case: Fact) -> list[FreePrompt]:
    """All prompts of a case that are answered freely, the edit prompt first."""
    known = case if isinstance(case, Case) else Case(**vars(case))
    new = (known.target_new, *known.target_aliases)
    true = () if known.target_true is None else (known.target_true, *known.true_aliases)
    found = [FreePrompt("edit", known.text, new)]
    found += [FreePrompt("paraphrase", text, new) for text in known.paraphrase_prompts]
    found += [FreePrompt("neighbor", text, true) for text in known.neighborhood_prompts]
    found += [FreePrompt("neighbor", one.prompt, one.answers) for one in known.unrelated]
    implied = known.portability
    found += [FreePrompt("portability", one.prompt, one.answers, one.group) for one in implied]
    return found


def write_freely(
    view: ModelView, prompts: Sequence[str], tokens: int = TOKENS, monitor: Monitor = NOTHING
) -> dict[str, FreeText]:
    """The free answer of a version to every prompt; one that occurs twice is asked once.

    Args:
        view: a version of a model.
        prompts: as the model is asked them.
        tokens: of an answer, at most; fewer where the model's positions end before.
        monitor: told how many answers are whole (phase "write").

    Raises:
        NumericalError: the logits of a prompt are not finite.
        Whatever ``monitor.check`` raises; it is called after every token.
    """
    base, once = view.base, list(dict.fromkeys(prompts))
    rows = []
    for prompt in once:
        row = Row(base, prompt, Sampling(tokens, sentence=True))
        room = base.max_positions - len(row.ids)
        if room < tokens:
            row = Row(base, prompt, Sampling(max(0, room), sentence=True))
        rows.append(row)
    decoded(view, rows, monitor)
    return {prompt: _free_text(row) for prompt, row in zip(once, rows, strict=True)}


def write_apart(
    view: ModelView,
    units: Sequence[tuple[Sequence[str], int]],
    tokens: int = TOKENS,
    *,
    executor: Executor = HERE,
    monitor: Monitor = NOTHING,
    keep: Callable[[int, dict[str, FreeText]], None] = keep_nothing,
) -> list[dict[str, FreeText]]:
    """The free answers of a version to the prompts of every unit, by units that ``executor`` does.

    Args:
        view: a version of a model.
        units: prompts that are written together, and what they count in the progress ("write").
        tokens: of an answer, at most.
        executor: writes.
        monitor: told the sum of what has been done counts.
        keep: given each unit's number and answers, in the order of the units.

    Raises:
        NumericalError: the logits of a prompt are not finite.
        WorkersLost, NoCluster: the executor's workers are gone.
        Whatever ``monitor.check`` raises.
    """
    work = Work(TASK, "write", tokens, units, [size for _, size in units])
    return executor.run(work, Bench(view, monitor), keep)


def write_unit(bench: Bench, tokens: int, unit: tuple[Sequence[str], int]) -> dict[str, FreeText]:
    """The free answers to a unit's prompts; what they count is reported, not answers."""
    prompts, size = unit
    report = bench.monitor.report

    def counted(phase: str, done: int, answers: int) -> None:
        report(phase, done * size // answers, size)

    return write_freely(bench.view, prompts, tokens, bench.monitor.reporting(counted))


def cases_apart(cases: Sequence[C]) -> list[Sequence[C]]:
    """Cases as they are cut into units."""
    return [cases[i : i + CASES_TOGETHER] for i in range(0, len(cases), CASES_TOGETHER)]


def judged_freely(
    case: Fact,
    texts: Mapping[str, FreeText],
    base_texts: Mapping[str, FreeText],
    verdicts: Mapping[Judged, bool | None] | None = None,
) -> list[FreeJudgement]:
    """The judgement of every prompt of a case.

    ``texts`` are by prompt, ``base_texts`` those of the base model, of neighbors at least;
    ``verdicts`` those of a judge model by prompt, right answers and text.
    """
    found = []
    for one in free_prompts(case):
        said = texts[one.prompt]
        judged: dict[str, Any] = {"group": one.group}
        if one.right:
            judged |= asdict(match(said.text, one.right))
            judged["judge"] = (verdicts or {}).get((one.prompt, one.right, said.text))
        if one.kind == "neighbor":
            before = base_texts[one.prompt].text
            judged |= {"exact": None, "contains": None}
            judged |= {"kept": same(said.text, before), "base_text": before}
        found.append(FreeJudgement(one.kind, one.prompt, said.text, said.ended, **judged))
    return found


def free_scores(found: Sequence[FreeJudgement]) -> dict[str, float | None]:
    """Metrics of one case by name, in [0, 1]; None where it has no such prompt.

    ``free_exact``, ``free_f1``, ``free_contains`` and ``judge`` of edit prompts, with an ending
    those of other kinds (`SUFFIX`); ``free_kept``: the share of neighbors whose answer stayed;
    ``free_f1_locality`` and ``judge_locality`` of neighbors whose right answers are known.
    Groups of portability questions have all four as ``free_exact_portability/GROUP`` and so on.
    """
    scores: dict[str, float | None] = {}
    for kind, suffix in SUFFIX.items():
        some = [one for one in found if one.kind == kind]
        for rule, metric in RULES.items():
            scores[f"{metric}{suffix}"] = _mean([getattr(one, rule) for one in some])
    neighbors = [one for one in found if one.kind == "neighbor"]
    scores["free_kept"] = _mean([one.kept for one in neighbors])
    scores["free_f1_locality"] = _mean([one.f1 for one in neighbors])
    scores["judge_locality"] = _mean([one.judge for one in neighbors])
    for rule, metric in RULES.items():
        values = [(one.group, getattr(one, rule)) for one in found]
        known = [(group, float(value)) for group, value in values if value is not None]
        scores |= by_group(f"{metric}_portability", known)
    return scores


def measure_freely(
    view: ModelView,
    cases: Sequence[Fact],
    base_texts: Mapping[str, FreeText] | None = None,
    tokens: int = TOKENS,
    monitor: Monitor = NOTHING,
    executor: Executor = HERE,
) -> list[list[FreeJudgement]]:
    """The judgements of every case, without a judge model.

    ``base_texts``: the base model's answers to neighbors by prompt; default: written now.
    ``executor`` writes, 64 cases at a time.

    Raises:
        NumericalError: the logits of a prompt are not finite.
        WorkersLost, NoCluster: the executor's workers are gone.
        Whatever ``monitor.check`` raises.
    """
    cut = cases_apart(cases)
    if base_texts is None:
        asked = new_prompts([neighbors_of(some) for some in cut])
        units = [(prompts, len(prompts)) for prompts in asked if prompts]
        base = ModelView(view.base)
        found = write_apart(base, units, tokens, executor=executor, monitor=monitor)
        base_texts = {prompt: text for some in found for prompt, text in some.items()}
    units = [(prompts_of(some), len(some)) for some in cut]
    texts = write_apart(view, units, tokens, executor=executor, monitor=monitor)
    return [
        judged_freely(case, said, base_texts)
        for some, said in zip(cut, texts, strict=True)
        for case in some
    ]


def new_prompts(asked: Sequence[Sequence[str]], known: Collection[str] = ()) -> list[list[str]]:
    """Of every group of prompts those that are in no group before it, and not ``known``."""
    seen, found = set(known), []
    for prompts in asked:
        found.append([prompt for prompt in dict.fromkeys(prompts) if prompt not in seen])
        seen.update(prompts)
    return found


def prompts_of(cases: Sequence[Fact]) -> list[str]:
    """All prompts of cases that are answered freely."""
    return [one.prompt for case in cases for one in free_prompts(case)]


def neighbors_of(cases: Sequence[Fact]) -> list[str]:
    """The prompts of cases whose answers an edit shall leave alone."""
    return [one.prompt for case in cases for one in free_prompts(case) if one.kind == "neighbor"]


def _free_text(row: Row) -> FreeText:
    result = row.result
    text = first_sentence(result.text)
    if result.end is not None:
        return FreeText(text, "end of text")
    return FreeText(text, "sentence" if result.finish_reason == "stop" else "limit")


def _mean(values: Sequence[float | bool | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None
