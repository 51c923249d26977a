"""How figures of evaluations and edits came about: a protocol for every one.  No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from jeep_core.evaluation.asking import Ask
from jeep_core.evaluation.matching import HOW
from jeep_core.spec.hparams import Contexts
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
    asked = _KINDS[kind]
    if kind and name in ("free_f1_locality", "judge_locality"):
        asked += " that have a right answer"
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
    return Protocol(asked, how, judged, comparable)


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


@dataclass(frozen=True)
class EditSetting:
    """The parts of an edit that the protocols of its figures name.

    ``contexts``: how its facts were asked.  ``answer_tokens``, ``neighbor_tokens``: limits of
    greedy answers.  ``checked``: earlier facts that were asked, in words.  ``read``: the text that
    guards read, and how much of it, in words; ``known``: where the facts for ``min_ability`` are
    from.
    """

    contexts: Contexts
    answer_tokens: int
    neighbor_tokens: int
    checked: str = "live facts of earlier batches"
    read: str = "the held-out text"
    known: str = "general knowledge"


_ASKED = {
    "plain": "as plain text",
    "chat": "each as the user's message of a chat",
    "both": "as plain text and as the user's message of a chat",
}
_BEFORE_AND_AFTER = "the version before and the new one"
_GREEDY = (
    "the new answer is shown: every token of it is the most probable one, and no longer word "
    "follows, so that greedy decoding begins with it"
)
_SHARE = "share of the facts, from 0 to 1"


def edit_protocols(figures: Iterable[str], setting: EditSetting) -> dict[str, Protocol]:
    """The protocols of an edit's figures, by name; those of guards begin with ``guards.``."""
    return {name: _of_edit(name, setting) for name in figures}


def _of_edit(name: str, setting: EditSetting) -> Protocol:
    if name in ("guards.efficacy", "guards.success"):
        whole = "efficacy" if name == "guards.efficacy" else "greedy_success"
        asked = "edit prompts of the facts that were sent, without earlier ones edited again"
        return replace(_of_edit(whole, setting), asked=asked)
    if name.startswith("guards."):
        return _of_guard(name.removeprefix("guards."), setting)
    if name == "earlier":
        how = f"their prompts, {_ASKED['both']} where they were edited for it; "
        how += "the new version, and of those that it does not say the one before"
        judged = f"{_GREEDY}; counted by version, lost ones are those that the one before says"
        same = "checks of the same facts; a sample says of the others what it can"
        return Protocol(f"edit prompts of {setting.checked}", how, judged, same)
    if name == "target_probability":
        how = (
            "prompts of the batch after every prefix, in the version before, with the vector put in"
        )
        judged = "the new answer is shown: its probability per token, mean over the prompts"
        comparable = "where the optimisation of values stops; not p_new, which the matrices give"
        return Protocol(_KINDS[""], how, judged, comparable)
    contexts = setting.contexts
    if name == "chat_efficacy":
        contexts = "chat"
    elif name == "efficacy" and contexts == "both":
        contexts = "plain"
    how = f"{_ways(contexts)}; {_BEFORE_AND_AFTER}"
    judged, comparable = {
        "probability": (
            "the answers are shown: geometric mean of the probabilities of their tokens",
            "the same facts, model and way of asking; not figures by free generation",
        ),
        "efficacy": (
            "both answers are shown: the new answer is more probable per token than the true one; "
            f"of a fact without a true one: {_GREEDY}; {_SHARE}",
            "efficacy in contrast style, where all facts have a true answer: the same facts and "
            "way of asking; not figures in accuracy style or by free generation",
        ),
        "greedy_success": (
            f"{_GREEDY}, in every way that the fact is asked; `text` shows {setting.answer_tokens} "
            f"tokens of it, or one more than the new answer has; {_SHARE}",
            "greedy figures of evaluations on edit prompts: the same facts and way of asking",
        ),
    }["efficacy" if name == "chat_efficacy" else name]
    return Protocol(_KINDS[""], how, judged, comparable)


def _of_guard(name: str, setting: EditSetting) -> Protocol:
    """The figure that a guard compares, where that is not one of the batch's own facts."""
    if name == "locality":
        judged = (
            "both answers are shown: the true answer is more probable per token than the new one; "
            f"of a fact without a true one: the greedy answer of {setting.neighbor_tokens} tokens "
            "is that of the version before; mean of the facts' shares, from 0 to 1"
        )
        comparable = (
            "locality in contrast style, where all facts have a true answer: the same prompts"
        )
        how = f"{_ways('plain')}; {_BEFORE_AND_AFTER}"
        return Protocol(_KINDS["_locality"], how, judged, comparable)
    if name == "ability":
        asked = f"prompts that name no subject of the batch ({setting.known})"
        judged = f"{_GREEDY.replace('new', 'true')}; of those that the version before writes so, "
        judged += "the share that the new one does, too"
        how = f"as plain text; {_BEFORE_AND_AFTER}"
        return Protocol(asked, how, judged, "the same base model and facts")
    judged = {
        "perplexity": "e to the mean negative log-likelihood of a token; the ratio is that of the "
        "new version divided by that of the version before",
        "drift": "mean KL(version before ‖ new version) of the next token, in nats per token",
    }[name]
    how = f"read: {setting.read}; {_BEFORE_AND_AFTER}"
    return Protocol("nothing", how, judged, "the same text, tokenizer and length")


def _ways(contexts: Contexts) -> str:
    return f"prompts of the batch, {_ASKED[contexts]}"
