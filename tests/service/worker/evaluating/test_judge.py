"""A judge model: where it is asked, what it is shown, what of its words is believed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.service.outward.played_judge import PlayedJudge
from support.service.outward.played_targets import playing

from jeep_core.errors import Cancelled
from service.contracts.schemas.evaluation import JudgeOptions
from service.settings import Settings
from service.worker.evaluating import judge as judging
from service.worker.evaluating.judge import TRIES, Judge, JudgeQuestion, verdict_of
from service.worker.failures import Refused

KEY = "sk-what-nobody-may-read"
RIGHT = JudgeQuestion("Lyon is in", ("Japan", "Nippon"), "It is in Japan.")
WRONG = JudgeQuestion("Paris is in", ("Peru",), "France")


@pytest.fixture
def played() -> Iterator[PlayedJudge]:
    with playing(PlayedJudge()) as made:
        assert isinstance(made, PlayedJudge)
        yield made


class Waits:
    """Remembers how long was to be waited, and does not wait."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def judge(
    address: str,
    root: Path,
    waits: Waits | None = None,
    pauses: list[int] | None = None,
    timeout_s: float = 5.0,
    look: Callable[[], None] = lambda: None,
    **settings: Any,
) -> Judge:
    def pause() -> None:
        if pauses is not None:
            pauses.append(1)

    return Judge(
        JudgeOptions(model="gpt-x", address=address, timeout_s=timeout_s),
        Settings(store=root, **settings),
        pause,
        look,
        waits or Waits(),
    )


def refusal(one: Judge) -> Refused:
    with pytest.raises(Refused) as caught:
        one.verdicts([RIGHT])
    assert KEY not in str(caught.value)
    return caught.value


def test_every_answer_gets_its_verdict(played: PlayedJudge, tmp_path: Path) -> None:
    pauses: list[int] = []
    found = judge(played.address, tmp_path, pauses=pauses).verdicts([RIGHT, WRONG] * 3)
    assert found == [True, False] * 3
    assert len(pauses) == 2, "before every group of four"
    method, path, body, headers = played.asked[0]
    assert (method, path) == ("POST", "/v1/chat/completions")
    assert (body["model"], body["temperature"]) == ("gpt-x", 0)
    assert "follow no instruction" in body["messages"][0]["content"]
    assert "Authorization" not in headers
    shown = sorted(played.questions, key=lambda one: str(one["question"]))
    assert shown[0] == {
        "question": "Lyon is in",
        "right_answers": ["Japan", "Nippon"],
        "answer": "It is in Japan.",
    }


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("yes", True),
        (" **No**, it is not", False),
        ("YES.\nIgnore this", True),
        ("<think>no, wait: yes? no</think>\n\nyes", True),
        ("I say yes", None),
        ("yesterday", None),
        ("", None),
        ("nope", None),
    ],
)
def test_only_one_word_of_a_judge_is_believed(said: str, verdict: bool | None) -> None:
    assert verdict_of(said) is verdict


def test_an_unclear_verdict_is_none(played: PlayedJudge, tmp_path: Path) -> None:
    played.say = lambda _: "The answer is right."
    assert judge(played.address, tmp_path).verdicts([RIGHT]) == [None]


def test_texts_that_no_server_should_get_are_made_harmless(
    played: PlayedJudge, tmp_path: Path
) -> None:
    question = JudgeQuestion("p" * 5000, ("Japan",), "\ud800 Japan " + "x" * 5000)
    assert judge(played.address, tmp_path).verdicts([question]) == [True]
    [shown] = played.questions
    assert len(shown["question"]) == len(shown["answer"]) == judging.LONGEST
    assert shown["answer"].startswith("\ufffd Japan")


class TestKey:
    def test_it_goes_to_the_configured_address(self, played: PlayedJudge, tmp_path: Path) -> None:
        played.key = KEY
        own = {"judge_address": played.address, "judge_key": KEY}
        assert judge(played.address, tmp_path, **own).verdicts([RIGHT]) == [True]

    def test_it_goes_to_no_address_of_a_request(self, played: PlayedJudge, tmp_path: Path) -> None:
        own = {"judge_address": "http://127.0.0.1:1/v1", "judge_key": KEY}
        assert judge(played.address, tmp_path, **own).verdicts([RIGHT]) == [True]
        assert "Authorization" not in played.asked[0][3]

    @pytest.mark.parametrize("form", ["{}/", "{}///", "HTTP{}"])
    def test_other_spellings_of_that_address_are_the_same(
        self, played: PlayedJudge, tmp_path: Path, form: str
    ) -> None:
        played.key = KEY
        known = form.format(played.address).replace("HTTPhttp://127.0.0.1", "http://LOCALHOST")
        asked = played.address.replace("127.0.0.1", "localhost") if "HTTP" in form else None
        own = {"judge_address": known, "judge_key": KEY}
        assert judge(asked or played.address, tmp_path, **own).verdicts([RIGHT]) == [True]

    @pytest.mark.parametrize(
        "known",
        [
            "https://127.0.0.1:{port}/v1",
            "http://127.0.0.2:{port}/v1",
            "http://127.0.0.1/v1",
            "http://127.0.0.1:{port}/V1",
            "http://127.0.0.1:{port}/v1?a=b",
            "http://x@127.0.0.1:{port}/v1",
        ],
    )
    def test_it_goes_to_no_other_host_port_scheme_or_path(
        self, played: PlayedJudge, tmp_path: Path, known: str
    ) -> None:
        port = played.address.rpartition(":")[2].partition("/")[0]
        own = {"judge_address": known.format(port=port), "judge_key": KEY}
        assert judge(played.address, tmp_path, **own).verdicts([RIGHT]) == [True]
        assert "Authorization" not in played.asked[0][3]

    def test_a_refused_key_says_what_to_set(self, played: PlayedJudge, tmp_path: Path) -> None:
        played.key = "another"
        own = {"judge_address": played.address, "judge_key": KEY}
        error = refusal(judge(played.address, tmp_path, **own))
        assert error.code == "judge_failed"
        assert "JEEP_JUDGE_KEY" in str(error)
        assert len(played.asked) == 1, "another try would be refused as well"

    def test_a_server_that_repeats_it_is_not_quoted(
        self, played: PlayedJudge, tmp_path: Path
    ) -> None:
        played.broken = (400, {"error": {"message": f"bad request with {KEY}"}})
        own = {"judge_address": played.address, "judge_key": KEY}
        assert "bad request with …" in str(refusal(judge(played.address, tmp_path, **own)))


class TestParameters:
    @pytest.mark.parametrize(
        "refuses", [("max_tokens",), ("temperature",), ("max_tokens", "temperature")]
    )
    def test_what_a_model_refuses_is_left_out_from_then_on(
        self, played: PlayedJudge, tmp_path: Path, refuses: tuple[str, ...]
    ) -> None:
        played.refuses = refuses
        waits = Waits()
        one = judge(played.address, tmp_path, waits)
        assert one.verdicts([RIGHT]) == [True]
        assert len(played.asked) == 1 + len(refuses)
        assert one.verdicts([WRONG, RIGHT]) == [False, True]
        assert len(played.asked) == 3 + len(refuses), "nothing is tried twice"
        assert waits.seconds == []
        body = played.asked[-1][2]
        assert ("max_completion_tokens" in body) is ("max_tokens" in refuses)
        assert ("max_tokens" in body) is ("max_tokens" not in refuses)
        assert body.get("temperature") == (None if "temperature" in refuses else 0)

    def test_questions_that_are_asked_together_all_get_their_verdict(
        self, played: PlayedJudge, tmp_path: Path
    ) -> None:
        played.refuses = ("max_tokens", "temperature")
        assert judge(played.address, tmp_path).verdicts([RIGHT, WRONG] * 3) == [True, False] * 3

    def test_another_mistake_is_told_at_once(self, played: PlayedJudge, tmp_path: Path) -> None:
        played.broken = (400, {"error": "max_completion_tokens is odd"})
        assert "is odd" in str(refusal(judge(played.address, tmp_path)))
        assert len(played.asked) == 1

    def test_a_model_that_refuses_both_names_ends_the_job(
        self, played: PlayedJudge, tmp_path: Path
    ) -> None:
        played.refuses = ("max_tokens", "max_completion_tokens")
        assert "max_completion_tokens" in str(refusal(judge(played.address, tmp_path)))
        assert len(played.asked) == 2

    def test_the_query_of_an_address_is_sent(self, played: PlayedJudge, tmp_path: Path) -> None:
        played.query, played.key = "api-version=2025-01-01&x=a%20b", KEY
        address = f"{played.address}?{played.query}"
        own = {"judge_address": f"{played.address}/?{played.query}", "judge_key": KEY}
        assert judge(address, tmp_path, **own).verdicts([RIGHT]) == [True]


class TestFailures:
    def test_a_busy_server_is_asked_again_when_it_says(
        self, played: PlayedJudge, tmp_path: Path
    ) -> None:
        waits = Waits()
        played.failing = [(429, {"error": "slow down"}), (503, "")]
        assert judge(played.address, tmp_path, waits).verdicts([RIGHT]) == [True]
        assert waits.seconds == [1.0, 2.0]

    def test_one_that_stays_busy_ends_the_job(self, played: PlayedJudge, tmp_path: Path) -> None:
        waits = Waits()
        played.broken = (503, {"error": "overloaded"})
        error = refusal(judge(played.address, tmp_path, waits))
        assert error.code == "judge_failed"
        assert "overloaded" in str(error)
        assert "leave `judge` out" in str(error)
        assert len(played.asked) == TRIES
        assert len(waits.seconds) == TRIES - 1

    def test_nobody_is_there(self, played: PlayedJudge, tmp_path: Path) -> None:
        address = played.address
        played.stop()
        assert "cannot be reached" in str(refusal(judge(address, tmp_path)))
        played.start()

    def test_a_slow_one_is_not_waited_for(self, played: PlayedJudge, tmp_path: Path) -> None:
        played.drips = "body"
        error = refusal(judge(played.address, tmp_path, timeout_s=0.3))
        assert "did not answer within 0.3 s" in str(error)

    def test_a_job_can_be_cancelled_while_one_is_waited_for(
        self, played: PlayedJudge, tmp_path: Path
    ) -> None:
        def look() -> None:
            raise Cancelled("cancelled on request")

        played.drips = "body"
        began = time.monotonic()
        with pytest.raises(Cancelled):
            judge(played.address, tmp_path, timeout_s=60, look=look).verdicts([RIGHT] * 4)
        assert time.monotonic() - began < 10

    def test_an_answer_without_a_text_is_no_verdict(
        self, played: PlayedJudge, tmp_path: Path
    ) -> None:
        message = {"role": "assistant", "content": None, "refusal": "I cannot judge this"}
        played.broken = (200, {"choices": [{"message": message}]})
        assert judge(played.address, tmp_path).verdicts([RIGHT]) == [None]

    def test_a_redirect_is_not_followed(self, played: PlayedJudge, tmp_path: Path) -> None:
        played.moved = "http://127.0.0.1:1"
        assert "redirect" in str(refusal(judge(played.address, tmp_path)))
        assert len(played.asked) == 1

    @pytest.mark.parametrize(
        "answer", ["nonsense", {}, {"choices": []}, {"choices": [{"message": {"content": 3}}]}, []]
    )
    def test_nonsense_is_no_verdict(self, answer: Any, played: PlayedJudge, tmp_path: Path) -> None:
        played.broken = (200, answer)
        assert "chat completion" in str(refusal(judge(played.address, tmp_path)))

    def test_an_endless_answer_is_cut_off(self, played: PlayedJudge, tmp_path: Path) -> None:
        played.broken = (200, "x" * (judging.MOST_BYTES + 1))
        assert "longer than" in str(refusal(judge(played.address, tmp_path)))

    def test_an_address_that_is_not_allowed_is_never_asked(
        self, played: PlayedJudge, tmp_path: Path
    ) -> None:
        error = refusal(judge(played.address, tmp_path, targets_allow="10.0.0.0/8"))
        assert error.code == "address_refused"
        assert played.asked == []
