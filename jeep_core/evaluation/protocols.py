"""How figures of evaluations came about: a protocol for every metric.  No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jeep_core.evaluation.asking import Ask
from jeep_core.evaluation.matching import HOW
from jeep_core.suites import Style


@dataclass(frozen=True)
class Protocol:
    """The meaning of a figure: what was asked, how it was judged, what it can be compared with."""

    asked: str
    judged: str
    comparable: str


@dataclass(frozen=True)
class Setting:
    """The parts of an evaluation that its protocols name.

    ``free_tokens``: the limit of free answers.  ``judge``: the name of the judge model.
    """

    suite: str
    style: Style
    ask: Ask = "plain"
    free_tokens: int = 0
    judge: str | None = None


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
    if name.startswith(("free_", "judge")):
        return _free(name, setting)
    if name == "score":
        judged = "harmonic mean of efficacy, generalization and locality, in per cent"
        return Protocol(_asked("all prompts of a case", setting), judged, _comparable(setting))
    if name == "fluency":
        asked = "texts of up to 100 tokens, sampled among the five most probable tokens"
        judged = "entropy of their bigrams and trigrams in bits; literature prints it times 100"
        return Protocol(asked, judged, "the same prompts and seed")
    if name == "perplexity":
        judged = "e to the mean negative log-likelihood of a token of the held-out text"
        return Protocol("nothing: a text is read", judged, "the same text, tokenizer and length")
    if name.startswith("greedy"):
        judged = (
            "the right answer is shown: every token of it is the most probable one, and no longer "
            "word follows, so that greedy decoding begins with it; in per cent"
        )
        comparable = f"{_SAME}; `free_contains` also counts answers with words before them"
        return Protocol(_asked(_kind(name), setting), judged, comparable)
    return Protocol(_asked(_kind(name), setting), _shown(name, setting), _comparable(setting))


def _free(name: str, setting: Setting) -> Protocol:
    kind = "_locality" if name == "free_kept" else _ending(name)
    asked = (
        f"{_asked(_KINDS[kind], setting)}; the answer is written greedily until the end of the "
        f"text, the end of its first sentence or {setting.free_tokens} tokens"
    )
    rule = {
        "free_exact": f"the whole sentence is the right answer ({HOW}); in per cent",
        "free_f1": f"F1 of the sentence's words and the right answer's ({HOW}); in per cent",
        "free_contains": f"the right answer's words stand in the sentence ({HOW}); in per cent",
        "free_kept": "the sentence is the one that the base model writes, normalised; in per cent",
        "judge": f"{setting.judge} said yes or no to question, right answers and sentence; "
        "share of yes in per cent, answers that are neither left out",
    }[name.removesuffix(kind) if kind != "_locality" else name]
    comparable = {
        "judge": f"the same judge model and suite only; {_SAME}",
        "free_kept": f"{_SAME}, and the same base model",
    }.get(name.removesuffix(kind), f"figures by free generation with the same rule; {_SAME}")
    return Protocol(asked, rule, comparable)


def _asked(what: str, setting: Setting) -> str:
    how = "each as the user's message of a chat" if setting.ask == "chat" else "as plain text"
    return f"{what} of {setting.suite}, {how}"


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
