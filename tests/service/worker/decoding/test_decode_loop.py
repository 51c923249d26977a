"""The decoding thread: who is decoded with whom, what is sent, and in which order."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from support.service.answers import Answers

from jeep_core.decoding.batch import Batch
from jeep_core.decoding.generation import Sampling, generate, score
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from service.contracts.jobs import new_id
from service.contracts.schemas import GenerateRequest, WorkerReply, WorkerRequest
from service.worker.decoding import decode_loop
from service.worker.decoding.generating import Generating

PROMPT = "The city of Lyon lies in"
HOT: dict[str, Any] = {"temperature": 5.0, "seed": 7}  # no end of text for a while


def pending(*views: ModelView, **body: Any) -> Generating:
    """A prepared request, answered by ``views`` under the names v0, v1, …"""
    names = [f"v{i}" for i in range(len(views))]
    request = WorkerRequest(
        id=new_id("ask"), kind="generate", deadline=time.time() + 60, versions=names
    )
    prompt = {} if "prompts" in body else {"prompt": PROMPT}
    made = Generating(request, GenerateRequest.model_validate({**prompt, **body}))
    made.prepare(views)
    return made


def alone(one: Generating) -> list[dict[str, Any]]:
    answers = Answers(one)
    answers.run(one)
    return answers.result(one)


def test_a_request_joins_while_another_is_decoded_and_may_end_first(view: ModelView) -> None:
    long = pending(view, max_new_tokens=20, stream=True, **HOT)
    short = pending(view, max_new_tokens=4, **HOT)
    answers = Answers(long, short)

    def join(request_id: str, reply: WorkerReply, count: int) -> None:
        if request_id == long.request.id and count == 3:
            answers.loop.put(short)

    answers.when = join
    answers.run(long)
    order = [request_id for request_id, reply in answers.sent]
    assert order.index(short.request.id) == 7, "three tokens before it came, four while it ran"
    events = [reply.event for reply in answers.of(long.request.id)]
    assert events == ["token"] * 20 + ["result"]
    for one in (long, short):
        same = pending(view, **one.body.model_dump(exclude={"prompts", "version"}))
        ids = [[t["id"] for t in r["tokens"]] for r in (answers.result(one)[0], alone(same)[0])]
        assert ids[0] == ids[1]


def test_the_deltas_of_a_stream_are_the_text(view: ModelView) -> None:
    one = pending(view, max_new_tokens=24, stream=True, stop=["zzzz"], **HOT)
    answers = Answers(one)
    answers.run(one)
    tokens = [reply.data for reply in answers.of(one.request.id) if reply.event == "token"]
    [result] = answers.result(one)
    assert "".join(token["delta"] for token in tokens) == result["text"] != ""
    assert tokens == result["tokens"]


def test_the_replies_of_a_step_are_sent_together(view: ModelView) -> None:
    streams = [pending(view, max_new_tokens=5, stream=True, **HOT) for _ in range(3)]
    answers = Answers(*streams)
    answers.run(*streams)
    assert answers.batches == [3, 3, 3, 3, 6]


def test_without_a_stream_only_the_result_is_sent(view: ModelView) -> None:
    one = pending(view, max_new_tokens=5, **HOT)
    answers = Answers(one)
    answers.run(one)
    assert answers.batches == [1]


def test_a_client_that_goes_away_is_not_decoded_any_longer(view: ModelView) -> None:
    leaver = pending(view, max_new_tokens=200, stream=True, **HOT)
    other = pending(view, max_new_tokens=30, **HOT)
    answers = Answers(other)

    def go(request_id: str, reply: WorkerReply, count: int) -> None:
        leaver.gone = leaver.gone or count == 5

    answers.when = go
    answers.run(leaver, other)
    assert [reply.event for reply in answers.of(leaver.request.id)] == ["token"] * 5
    assert len(answers.result(other)[0]["tokens"]) == 30


def test_versions_answer_side_by_side(view: ModelView, other_view: ModelView) -> None:
    prompts = [PROMPT, "Osaka is a city in the country of"]
    one = pending(view, other_view, prompts=prompts, max_new_tokens=6)
    answers = Answers(one)
    answers.run(one)
    results = answers.result(one)
    asked = [(r["prompt"], r["version"]) for r in results]
    assert asked == [(p, v) for p in prompts for v in ("v0", "v1")]
    for result in results:
        source = view if result["version"] == "v0" else other_view
        [expected] = generate(source, [result["prompt"]], Sampling(6))
        assert result["text"] == expected.text
    assert results[0]["text"] != results[1]["text"]


def test_a_deterministic_request_is_decoded_alone(
    view: ModelView, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[set[int]] = []
    step = Batch.step

    def spy(self: Batch) -> Any:
        sizes.append({id(row) for row in (*self._waiting, *self._running)})
        return step(self)

    one = pending(view, max_new_tokens=8, deterministic=True, top_probabilities=3)
    others = [pending(view, max_new_tokens=12, **HOT) for _ in range(3)]
    again = pending(view, max_new_tokens=8, deterministic=True, top_probabilities=3)
    quiet = alone(again)
    answers = Answers(one, *others)
    monkeypatch.setattr(Batch, "step", spy)
    answers.run(others[0], one, *others[1:])
    mine = {id(slot.row) for slot in one.slots}
    assert any(together == mine for together in sizes)
    assert all(together == mine or not together & mine for together in sizes)
    assert answers.result(one) == quiet, "the same bits, whoever else is decoded"


def test_candidates_are_scored_for_all_rows(view: ModelView) -> None:
    names = [f"country {i}" for i in range(35)]
    prompts = [PROMPT, "Osaka is a city in the country of", "Oslo lies in"]
    one = pending(view, prompts=prompts, candidates=names, max_new_tokens=0)
    answers = Answers(one)
    answers.run(one)
    results = answers.result(one)
    expected = iter(score(view, [(prompt, name) for prompt in prompts for name in names]))
    for result in results:
        assert [c["text"] for c in result["candidates"]] == names
        assert (result["text"], result["finish_reason"]) == ("", "length")
        for candidate in result["candidates"]:
            assert candidate["log_probability"] == pytest.approx(
                next(expected).log_probability, rel=1e-4
            )


def test_a_long_prompt_is_not_read_once_for_each_of_its_candidates(view: ModelView) -> None:
    """Others wait for one reading of it, whatever the number of its candidates."""
    long, names = " ".join([PROMPT] * 12), [f"country {i}" for i in range(64)]
    one = pending(view, prompt=long, candidates=names, max_new_tokens=0)
    group, read = decode_loop.Group(view), list[int]()
    group.add(one.slots[0])
    hook = view.base.family.backbone_of(view.model).register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    with ExitStack() as after:
        after.callback(hook.remove)
        group.step()
    assert one.slots[0].complete
    assert sum(read) < len(one.slots[0].row.ids) + 64 * 8


def test_a_request_that_fails_fails_once_and_the_others_go_on(
    view: ModelView, other_view: ModelView
) -> None:
    broken = pending(view, other_view, max_new_tokens=12, **HOT)
    broken.slots[0].row.ids = [10**6]  # no such token
    broken.slots[1].row.ids = [10**6]
    fine = pending(other_view, max_new_tokens=12, **HOT)
    fine.slots[0].version = "v1"
    answers = Answers(broken, fine)
    answers.run(broken, fine)
    assert [reply.event for reply in answers.of(broken.request.id)] == ["error"]
    assert answers.of(broken.request.id)[0].data["code"] == "internal_error"
    assert len(answers.result(fine)[0]["tokens"]) == 12


def test_a_prompt_that_fails_fails_alone_in_its_request(view: ModelView) -> None:
    prompts = [PROMPT, "Lyon belongs to", PROMPT]
    one = pending(view, prompts=prompts, max_new_tokens=6, candidates=["France"])
    one.slots[1].row.ids = [10**6]  # no such token
    answers = Answers(one)
    answers.run(one)
    first, broken, last = answers.result(one)
    assert broken["finish_reason"] == "error"
    assert broken["error"]["code"] == "internal_error"
    assert (broken["prompt"], broken["tokens"]) == ("Lyon belongs to", [])
    for answer in (first, last):
        assert answer["error"] is None
        assert [t["id"] for t in answer["tokens"]] == [
            t.id for t in generate(view, [PROMPT], Sampling(6))[0].tokens
        ]
        assert len(answer["candidates"]) == 1


def test_prompts_that_do_not_fit_the_worker_s_model_are_not_run(view: ModelView) -> None:
    """The api checks first, but perhaps for the model of the previous worker."""
    long = "Lyon " * view.base.max_positions
    mixed = pending(view, prompts=[long, PROMPT, ""], max_new_tokens=2)
    all_bad = pending(view, prompts=[long, ""], max_new_tokens=2)
    answers = Answers(mixed, all_bad)
    answers.run(mixed, all_bad)
    codes = [one["error"] and one["error"]["code"] for one in answers.result(mixed)]
    assert codes == ["too_long", None, "empty"]
    assert len(answers.result(mixed)[1]["tokens"]) == 2
    [refusal] = answers.of(all_bad.request.id)
    assert (refusal.event, refusal.data["code"]) == ("error", "too_long")


def test_a_candidate_with_a_blank_of_its_own_is_another_one(view: ModelView) -> None:
    """Chinese writes none, so that only the second of the two has one."""
    names = ["京", " 京", "France", " France"]
    one = pending(view, candidates=names, max_new_tokens=0)
    bare = pending(view, candidates=names, max_new_tokens=0, join="none")
    answers = Answers(one, bare)
    answers.run(one, bare)
    found, unspaced = (answers.result(some)[0]["candidates"] for some in (one, bare))
    assert [c["join"] for c in found] == ["none", "none", "space", "none"]
    p = [c["log_probability"] for c in found]
    assert abs(p[0] - p[1]) > 0.1
    assert p[2] == pytest.approx(p[3], abs=1e-4)
    assert [c["join"] for c in unspaced] == ["none"] * 4
    assert abs(unspaced[2]["log_probability"] - p[2]) > 0.1


def test_the_gate_is_open_as_soon_as_nothing_is_left(
    view: ModelView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only after the thread has waited for more without result."""
    monkeypatch.setattr(decode_loop, "WAIT_S", 60.0)
    one, last = pending(view, max_new_tokens=3), pending(view, max_new_tokens=1)
    answers = Answers(one, last)
    thread = threading.Thread(target=answers.loop.run)
    answers.loop.put(one)
    thread.start()
    assert answers.gate._idle.wait(30)
    assert answers.result(one)
    answers.loop.put(last)
    thread.join(30)
    assert answers.result(last)


class Refuses:
    """The backbone of a view, which fails on one token."""

    def __init__(self, view: ModelView, token: int) -> None:
        self._module, self._token = view.base.family.backbone_of(view.model), token

    def __enter__(self) -> None:
        def look(module: object, args: object, kwargs: dict[str, Any]) -> None:
            if bool((kwargs["input_ids"] == self._token).any()):
                raise torch.OutOfMemoryError

        self._hook = self._module.register_forward_pre_hook(look, with_kwargs=True)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def test_only_the_request_that_cannot_be_decoded_is_refused(view: ModelView) -> None:
    """The others continue after the tokens they have, streams without a gap."""
    stream = pending(view, max_new_tokens=12, stream=True, **HOT)
    plain = pending(view, max_new_tokens=12, candidates=["France", "Peru"], **HOT)
    guilty = pending(view, max_new_tokens=12, **HOT)
    [wanted] = generate(view, [PROMPT], Sampling(12, **HOT))
    token = 5999  # in no answer
    assert token not in [one.id for one in wanted.tokens]
    guilty.slots[0].row.ids.append(token)
    answers = Answers(stream, plain, guilty)

    def late(request_id: str, reply: WorkerReply, count: int) -> None:
        if request_id == stream.request.id and count == 3:
            answers.loop.put(guilty)

    answers.when = late
    with Refuses(view, token):
        answers.run(stream, plain)
    assert answers.of(guilty.request.id)[-1].data["code"] == "out_of_memory"
    ids = [one.id for one in wanted.tokens]
    for one in (stream, plain):
        assert [t["id"] for t in answers.result(one)[0]["tokens"]] == ids
    events = [r.data["id"] for r in answers.of(stream.request.id) if r.event == "token"]
    assert events == ids
    assert len(answers.result(plain)[0]["candidates"]) == 2


def test_too_little_memory_is_reported(view: ModelView, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Batch) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Batch, "step", fail)
    one = pending(view)
    answers = Answers(one)
    answers.run(one)
    assert answers.of(one.request.id)[0].data["code"] == "out_of_memory"


def test_requests_left_at_the_end_are_refused(view: ModelView) -> None:
    running = pending(view, max_new_tokens=200, stream=True, **HOT)
    late = pending(view, max_new_tokens=3)
    answers = Answers(running, late)

    def stop(request_id: str, reply: WorkerReply, count: int) -> None:
        if count == 3 and not answers.loop.stop.is_set():
            answers.loop.put(late)
            answers.loop.stop.set()

    answers.when = stop
    answers.run(running)
    for one in (running, late):
        last = answers.of(one.request.id)[-1]
        assert (last.event, last.data["code"]) == ("error", "stopping")


class TestWhatIsNoNumber:
    """A token of one prompt is broken: only requests with that prompt fail."""

    BROKEN = "The city of Osaka lies in"

    @pytest.fixture
    def broken(self, base: LoadedModel) -> ModelView:
        encode = base.tokenizer.encode
        [token, *_] = sorted(set(encode(self.BROKEN).ids) - set(encode(PROMPT).ids))
        words = base.model.get_parameter("transformer.wte.weight").clone()
        words[token] = torch.nan
        return ModelView(base, {"transformer.wte.weight": words})

    def refused(self, answers: Answers, one: Generating) -> list[WorkerReply]:
        *before, last = answers.of(one.request.id)
        assert last.event == "error"
        assert last.data["code"] == "numerical_error"
        assert last.data["message"].startswith("v0: the lo")
        assert "not finite" in last.data["message"]
        return before

    def test_other_requests_of_the_batch_go_on(self, broken: ModelView, view: ModelView) -> None:
        wrong = pending(broken, prompt=self.BROKEN, max_new_tokens=8)
        many = pending(broken, prompts=[PROMPT, self.BROKEN], max_new_tokens=8)
        right = [pending(broken, max_new_tokens=8, seed=i, temperature=2.0) for i in range(3)]
        answers = Answers(wrong, many, *right)
        answers.run(*right, many, wrong)
        assert self.refused(answers, wrong) == []
        [whole, lost] = answers.result(many)
        assert (whole["error"], lost["error"]["code"]) == (None, "numerical_error")
        assert (lost["text"], lost["finish_reason"]) == ("", "error")
        for i, one in enumerate(right):
            [result] = answers.result(one)
            [expected] = alone(pending(view, max_new_tokens=8, seed=i, temperature=2.0))
            assert [t["id"] for t in result["tokens"]] == [t["id"] for t in expected["tokens"]]

    def test_a_stream_that_is_not_finite_ends_with_the_error(self, base: LoadedModel) -> None:
        """From the place on where it writes a token that is broken."""
        first = generate(ModelView(base), [PROMPT], Sampling(max_new_tokens=3))[0].tokens
        ids = [token.id for token in first]
        own = base.tokenizer.encode(PROMPT).ids
        at = next(i for i, token in enumerate(ids) if token not in own and token not in ids[:i])
        words = base.model.get_parameter("transformer.wte.weight").clone()
        words[ids[at]] = torch.nan
        broken = ModelView(base, {"transformer.wte.weight": words})
        one = pending(broken, max_new_tokens=8, stream=True)
        answers = Answers(one)
        answers.run(one)
        sent = self.refused(answers, one)
        assert [reply.data["id"] for reply in sent] == ids[: at + 1]

    def test_candidates_that_are_not_finite_are_an_error(self, broken: ModelView) -> None:
        """The prompt is whole, one of its continuations is not: its last token is not read."""
        wrong = pending(broken, max_new_tokens=0, candidates=["Japan", "Osaka lies in Japan"])
        right = pending(broken, max_new_tokens=0, candidates=["Japan", "France"])
        answers = Answers(wrong, right)
        answers.run(wrong, right)
        self.refused(answers, wrong)
        [result] = answers.result(right)
        expected = score(broken, [(PROMPT, "Japan"), (PROMPT, "France")])
        found = [one["log_probability"] for one in result["candidates"]]
        assert found == pytest.approx([one.log_probability for one in expected], rel=1e-4)

    def test_a_version_that_is_not_finite_fails_alone_beside_another(
        self, broken: ModelView, view: ModelView
    ) -> None:
        sure = pending(broken, prompt=self.BROKEN, max_new_tokens=4, deterministic=True)
        both = pending(broken, view, prompt=self.BROKEN, max_new_tokens=4)
        later = pending(broken, max_new_tokens=12)
        answers = Answers(sure, both, later)
        answers.run(sure, both, later)
        self.refused(answers, sure)
        [lost, whole] = answers.result(both)
        assert (lost["error"]["code"], whole["error"]) == ("numerical_error", None)
        assert lost["error"]["message"].startswith("v0: the logits")
        assert len(whole["tokens"]) > 0
        assert len(answers.result(later)[0]["tokens"]) > 0
