"""Answers to requests as lm-eval makes them, against whole forward passes of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from support.library import tiny

from jeep_core.errors import Cancelled, JeepError
from jeep_core.evaluation.harness import answers as module
from jeep_core.evaluation.harness.answers import Answers
from jeep_core.evaluation.harness.catalogue import InvalidTask
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.monitor import Monitor
from jeep_core.text.encoding import encode


@dataclass(frozen=True)
class Asked:
    """A request as lm-eval makes it."""

    args: tuple[Any, ...]


@dataclass
class Drawer:
    """Keeps records in memory."""

    rows: list[Mapping[str, Any]] = field(default_factory=list)

    def read(self) -> Iterable[Mapping[str, Any]]:
        return list(self.rows)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.rows += rows


def asked(*args: tuple[Any, ...]) -> list[Asked]:
    return [Asked(one) for one in args]


def log_p(view: ModelView, ids: list[int], start: int) -> tuple[float, bool]:
    """The sum for ``ids[start:]`` by one plain forward pass; whether all are the arg-max."""
    with torch.no_grad():
        # (n, V)
        logits = view.model(torch.tensor([ids[:-1]])).logits[0].double()
    own = logits.log_softmax(dim=-1)
    places = range(start, len(ids))
    value = sum(float(own[p - 1, ids[p]]) for p in places)
    return value, all(int(logits[p - 1].argmax()) == ids[p] for p in places)


def tokens(base: LoadedModel, text: str) -> list[int]:
    return list(encode(base.tokenizer, text).ids)


class TestLogLikelihoods:
    def test_a_continuation_is_scored_after_its_context(
        self, base: LoadedModel, view: ModelView
    ) -> None:
        pairs = [("Paris is a city in", " France"), ("Paris is a city in", " the north"),
                 ("The river", " flows")]  # fmt: skip
        found = Answers(view).loglikelihood(asked(*pairs))
        for (context, continuation), (value, greedy) in zip(pairs, found, strict=True):
            before, whole = tokens(base, context), tokens(base, context + continuation)
            expected = log_p(view, before + whole[len(before) :], len(before))
            assert (value, greedy) == (pytest.approx(expected[0], abs=1e-4), expected[1])

    def test_what_greedy_decoding_writes_is_greedy(
        self, base: LoadedModel, view: ModelView
    ) -> None:
        answers = Answers(view)
        contexts = [" ".join(text.split()[:4]) for text in tiny.TEXTS[:12]]
        one = {"max_gen_toks": 1}
        texts = answers.generate_until(asked(*[(context, one) for context in contexts]))
        written = [
            (context, text)
            for context, text in zip(contexts, texts, strict=True)
            # a token of a random model seldom has a text of which it is made again
            if len(tokens(base, context + text)) == len(tokens(base, context)) + 1
            and log_p(view, tokens(base, context + text), len(tokens(base, context)))[1]
        ]
        assert written
        assert all(greedy for _, greedy in answers.loglikelihood(asked(*written)))

    def test_white_space_at_the_end_of_a_context_belongs_to_what_follows(
        self, view: ModelView
    ) -> None:
        answers = Answers(view)
        [apart, together] = answers.loglikelihood(
            asked(("Paris is in ", "France"), ("Paris is in", " France"))
        )
        assert apart == together

    def test_a_continuation_without_a_context_follows_the_first_token_of_all_texts(
        self, base: LoadedModel, view: ModelView
    ) -> None:
        answers = Answers(view)
        [(value, _)] = answers.loglikelihood(asked(("", "France")))
        ids = base.tokenizer.encode("France", add_special_tokens=False).ids
        assert value == pytest.approx(log_p(view, [answers.prefix, *ids], 1)[0], abs=1e-4)
        assert answers.prefix_text == ("<s>" if base.family.name == "LLaMA" else "<|endoftext|>")

    def test_a_context_that_is_too_long_is_cut_on_its_left(
        self, base: LoadedModel, view: ModelView
    ) -> None:
        context, continuation = " city" * 90, " France"
        [(value, _)] = Answers(view).loglikelihood(asked((context, continuation)))
        before, whole = tokens(base, context), tokens(base, context + continuation)
        answer = whole[len(before) :]
        ids = (before + answer)[-(tiny.POSITIONS + 1) :]
        # the last token is only predicted, so the model reads as many as it has room for
        expected, _ = log_p(view, ids, len(ids) - len(answer))
        assert value == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize("continuation", ["", " France" * 80])
    def test_an_answer_that_cannot_be_scored_is_named(
        self, continuation: str, view: ModelView
    ) -> None:
        with pytest.raises(InvalidTask, match="tokens after its prompt"):
            Answers(view).loglikelihood(asked(("Paris is in", continuation)))


class TestRolling:
    def test_a_text_is_scored_from_its_first_token(
        self, base: LoadedModel, view: ModelView
    ) -> None:
        answers, text = Answers(view), "Paris is a city in France."
        [value] = answers.loglikelihood_rolling(asked((text,)))
        expected, _ = log_p(view, [answers.prefix, *tokens(base, text)], 1)
        assert value == pytest.approx(expected, abs=1e-4)

    def test_a_long_text_is_read_in_windows_that_predict_each_token_once(
        self, base: LoadedModel, view: ModelView
    ) -> None:
        answers = Answers(view)
        answers.max_length = room = 8
        text = "Paris is a city in France. Osaka is a city in Japan. Lima is a city in Peru."
        [value] = answers.loglikelihood_rolling(asked((text,)))
        ids = tokens(base, text)
        assert len(ids) > 2 * room
        expected, _ = log_p(view, [answers.prefix, *ids[:room]], 1)
        for done in range(room, len(ids), room):
            end = min(done + room, len(ids))
            window = ids[end - room - 1 : end]
            expected += log_p(view, window, len(window) - (end - done))[0]
        assert value == pytest.approx(expected, abs=1e-3)

    def test_a_text_without_tokens_says_nothing(self, gpt2: LoadedModel) -> None:
        assert Answers(ModelView(gpt2)).loglikelihood_rolling(asked(("",))) == [0.0]


class TestWriting:
    def test_a_text_ends_before_the_first_stop_string(self, view: ModelView) -> None:
        answers, context = Answers(view), "Paris is a city in"
        [whole] = answers.generate_until(asked((context, {"max_gen_toks": 12})))
        stop = whole[3:5]
        options = {"max_gen_toks": 12, "until": [stop, "\n\n\n"]}
        [cut] = answers.generate_until(asked((context, options)))
        assert cut == whole.split(stop)[0]
        [same] = answers.generate_until(asked((context, {"max_new_tokens": 12, "until": stop})))
        assert same == cut

    def test_greedy_texts_are_those_of_plain_decoding(
        self, base: LoadedModel, view: ModelView
    ) -> None:
        ids, written = tokens(base, "The river"), []
        for _ in range(6):
            with torch.no_grad():
                best = int(view.model(torch.tensor([ids + written])).logits[0, -1].argmax())
            if best in base.eos_token_ids:
                break
            written.append(best)
        options = {"max_gen_toks": 6, "do_sample": False, "temperature": 0.7}
        [text] = Answers(view).generate_until(asked(("The river", options)))
        assert text == base.tokenizer.decode(written)

    def test_samples_are_the_same_for_a_seed_and_differ_between_repeats(
        self, gptj: LoadedModel
    ) -> None:
        hot = ("The river", {"max_gen_toks": 8, "do_sample": True, "temperature": 1.5})
        view = ModelView(gptj)
        first = Answers(view, seed=1).generate_until(asked(hot, hot))
        assert first == Answers(view, seed=1).generate_until(asked(hot, hot))
        assert first[0] != first[1]
        assert first != Answers(view, seed=2).generate_until(asked(hot, hot))

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"num_beams": 4}, "num_beams is not known here"),
            ({"max_gen_toks": tiny.POSITIONS}, "leaves no room"),
        ],
    )
    def test_an_option_that_cannot_be_followed_is_named(
        self, options: dict[str, Any], said: str, gptj: LoadedModel
    ) -> None:
        with pytest.raises(InvalidTask, match=said):
            Answers(ModelView(gptj)).generate_until(asked(("The river", options)))


class TestJobs:
    def test_answers_that_were_kept_are_not_computed_again(
        self, gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "TOGETHER", 2)
        drawer, requests = Drawer(), asked(*[("Paris is", f" in {i}") for i in range(5)])
        checks = 0

        def ended_at_the_third() -> None:
            nonlocal checks
            checks += 1
            if checks > 4:
                raise Cancelled("cancelled on request")

        cut = Answers(ModelView(gptj), drawer, Monitor(check=ended_at_the_third))
        with pytest.raises(Cancelled):
            cut.loglikelihood(requests)
        done = len(drawer.rows)
        assert 0 < done < 5
        asked_again: list[int] = []
        score = module.read_tokens

        def counting(view: ModelView, rows: Any, monitor: Monitor) -> Any:
            asked_again.append(len(rows))
            return score(view, rows, monitor)

        monkeypatch.setattr(module, "read_tokens", counting)
        found = Answers(ModelView(gptj), drawer).loglikelihood(requests)
        assert sum(asked_again) == 5 - done
        expected = Answers(ModelView(gptj)).loglikelihood(requests)
        assert [a for a, _ in found] == pytest.approx([b for b, _ in expected], abs=1e-5)

    def test_requests_are_reported_as_they_are_answered(
        self, gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "TOGETHER", 2)
        told: list[tuple[str, int, int]] = []
        answers = Answers(ModelView(gptj), monitor=Monitor(report=lambda *one: told.append(one)))
        answers.loglikelihood(asked(*[("Paris is", f" in {i}") for i in range(5)]))
        assert {(phase, total) for phase, _, total in told} == {("score", 5)}
        counts = [done for _, done, _ in told]
        assert counts == sorted(counts)
        assert counts[-1] == 5

    def test_a_model_that_names_no_end_is_refused(
        self, gptj: LoadedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "special_tokens", lambda base: {})
        with pytest.raises(JeepError, match="neither bos_token_id nor eos_token_id"):
            Answers(ModelView(gptj))


class TestChats:
    HISTORY = ({"role": "user", "content": "Where is Lyon?"},)

    def test_messages_are_written_by_the_models_own_template(self) -> None:
        view = ModelView(tiny.chat_model())
        text = Answers(view).apply_chat_template(self.HISTORY)
        assert "Where is Lyon?" in text
        assert not text.endswith("Where is Lyon?")

    def test_a_begun_answer_is_left_open(self) -> None:
        begun = (*self.HISTORY, {"role": "assistant", "content": "Lyon is in"})
        text = Answers(ModelView(tiny.chat_model())).apply_chat_template(begun, False)
        assert text.endswith("Lyon is in")
