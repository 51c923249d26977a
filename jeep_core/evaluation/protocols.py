"""How figures of evaluations came about: a protocol for every metric.  No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from jeep_core.evaluation.asking import Ask
from jeep_core.evaluation.matching import HOW
from jeep_core.suites import Style

ALL, PROMPTS = "all texts", "prompts"
"""Kinds under which a drift has its own figures: those of all texts, and those after prompts."""


@dataclass(frozen=True)
class Protocol:
    """The meaning of a figure: what was asked and how, how it was judged, what it can be compared
    with.
    """

    asked: str
    how: str
    judged: str
    comparable: str


@dataclass(frozen=True)
class Setting:
    """The parts of an evaluation that its protocols name.

    ``free_tokens``: the limit of free answers.  ``judge``: the name of the judge model.
    ``held_out``: the text for perplexity and how much of it is read, in words.
    """

    suite: str
    style: Style
    ask: Ask = "plain"
    free_tokens: int = 0
    judge: str | None = None
    held_out: str = "the held-out text"


_KINDS = {
    "": "edit prompts",
    "_generalization": "rephrasings of the edit prompts",
    "_locality": "prompts about neighbors",
    "_portability": "questions about what follows from the edit",
}
_FORCED = "figures of other programs only where they score shown answers by the same rule"
_SAME = "the same suite, draw and way of asking"


def protocols(metrics: Iterable[str], setting: Setting) -> dict[str, Protocol]:
    """The protocols of metrics of an evaluation, by name."""
    return {name: _protocol(name, setting) for name in metrics}


def _protocol(name: str, setting: Setting) -> Protocol:
    metric, _, group = name.partition("/")
    if group:
        found = _protocol(metric, setting)
        return replace(found, asked=f"{found.asked}, those in {group} of the data set")
    if name.startswith(("free_", "judge")):
        return _free(name, setting)
    how = _how(setting)
    if name == "score":
        judged = "harmonic mean of efficacy, generalization and locality, in per cent"
        return Protocol("all prompts of a case", how, judged, _comparable(setting))
    if name == "fluency":
        asked = "generation prompts, else edit prompts"
        written = f"{how}; texts of up to 100 tokens, sampled among the five most probable ones"
        judged = "entropy of their bigrams and trigrams in bits; literature prints it times 100"
        return Protocol(asked, written, judged, "the same prompts and seed")
    if name == "perplexity":
        judged = "e to the mean negative log-likelihood of a token"
        comparable = "the same text, tokenizer and length"
        return Protocol("nothing", f"read: {setting.held_out}", judged, comparable)
    if name.startswith("greedy"):
        judged = (
            "the right answer is shown: every token of it is the most probable one, and no longer "
            "word follows, so that greedy decoding begins with it; in per cent"
        )
        return Protocol(_kind(name), how, judged, _comparable(setting))
    return Protocol(_kind(name), how, _shown(name, setting), _comparable(setting))


def _free(name: str, setting: Setting) -> Protocol:
    kind = "_locality" if name == "free_kept" else _ending(name)
    how = (
        f"{_how(setting)}; answers written greedily until the end of the text, the end of the "
        f"first sentence or {setting.free_tokens} tokens; normalised: {HOW}"
    )
    rule = name.removesuffix(kind)
    judged = {
        "free_exact": "the whole sentence is a right answer; in per cent",
        "free_f1": "F1 of the words of the sentence and the right answer; in per cent",
        "free_contains": "the right answer's words stand in the sentence; in per cent",
        "free_kept": "the sentence is the one that the base model writes; in per cent",
        "judge": f"{setting.judge} was shown question, right answers and sentence: share of yes "
        "in per cent, answers that are neither yes nor no left out",
    }[rule]
    comparable = {
        "judge": f"the same judge model; {_SAME}",
        "free_kept": f"the same base model; {_SAME}",
    }.get(rule, f"figures by free generation with the same rules; {_SAME}")
    return Protocol(_KINDS[kind], how, judged, comparable)


def _how(setting: Setting) -> str:
    form = "each as the user's message of a chat" if setting.ask == "chat" else "as plain text"
    return f"prompts of {setting.suite}, {form}"


def _comparable(setting: Setting) -> str:
    judged = "contrast" if setting.style is Style.CONTRAST else "accuracy"
    return f"figures in {judged} style: {_SAME}; {_FORCED}; not figures by free generation"


def _shown(name: str, setting: Setting) -> str:
    """The rule of a metric whose answers are shown to the model."""
    if name.startswith("margin"):
        return (
            "the answers are shown: difference of their probabilities per token, the one that an "
            "edit shall bring about or leave as it is minus the other"
        )
    if setting.style is Style.CONTRAST and name != "portability":
        right = "the right answer" if name == "locality" else "the new answer"
        other = "the new one" if name == "locality" else "the true one"
        return (
            f"both answers are shown: {right} is more probable per token than {other}; in per cent"
        )
    return (
        "the right answer is shown: share of its tokens that are the most probable ones; "
        "in per cent"
    )


def _ending(name: str) -> str:
    return next((end for end in _KINDS if end and name.endswith(end)), "")


def _kind(name: str) -> str:
    """The prompts of a metric that is named by its kind, or that ends with it."""
    return _KINDS[_ending("_" + name)]
