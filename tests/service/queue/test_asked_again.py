"""Who gets a request, and who gets it next, with workers that are played by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest
from redis import Redis
from support.service.builders import KEYS
from support.service.played_worker.by_hand import (
    PROGRESS,
    TOKEN,
    Played,
    answer,
    asked_for,
    error_of,
    result,
)

from service.contracts.schemas import WorkerReply
from service.queue import AnswerBrokenOff, AsyncQueue, QueueError, RequestLost, WorkerGone
from service.queue.asking import ELSEWHERE, OVERFLOW

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("played")]


async def test_the_successor_of_a_dead_worker_answers_once(api: AsyncQueue, client: Redis) -> None:
    one, two = Played(client, "one"), Played(client, "two")
    asking = asyncio.ensure_future(answer(api, asked_for()))
    first = await one.takes()
    one.die()
    second = await two.takes()
    one.queue.reply(first.id, result("late"))
    two.queue.reply_all([(second.id, PROGRESS), (second.id, result("right"))])
    assert await asking == [result("right")]


async def test_after_a_token_the_answer_is_broken_off(api: AsyncQueue, client: Redis) -> None:
    one, two = Played(client, "one"), Played(client, "two")
    replies = api.ask(asked_for())
    begun = asyncio.ensure_future(anext(replies))
    first = await one.takes()
    one.queue.reply(first.id, TOKEN)
    assert await begun == TOKEN
    one.die()
    with pytest.raises(AnswerBrokenOff, match="after 1 tokens"):
        await anext(replies)
    assert two.queue.take(0, 8) == []


async def test_there_is_no_third_worker(api: AsyncQueue, client: Redis) -> None:
    workers = [Played(client, name) for name in ("one", "two", "three")]
    asking = asyncio.ensure_future(answer(api, asked_for()))
    for _ in range(2):
        taking = {asyncio.ensure_future(one.takes()): one for one in workers}
        done, others = await asyncio.wait(taking, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        for one in done:
            taking[one].die()
            workers.remove(taking[one])
    with pytest.raises(RequestLost):
        await asking
    assert workers[0].queue.take(0, 8) == []


async def test_what_two_workers_refuse_is_refused_for_their_reason(
    api: AsyncQueue, client: Redis
) -> None:
    refusal = WorkerReply(event="error", data={"code": "unknown_version", "message": "no v7"})
    asking = asyncio.ensure_future(answer(api, asked_for()))
    workers = [Played(client, name) for name in ("one", "two")]

    async def refuses(worker: Played) -> None:
        worker.queue.reply((await worker.takes()).id, refusal)

    refusing = [asyncio.ensure_future(refuses(worker)) for worker in workers]
    assert await asking == [refusal]
    assert all(task.done() for task in refusing)


async def test_what_was_sent_to_a_dying_worker_and_not_taken_is_no_try(
    api: AsyncQueue, client: Redis
) -> None:
    """It was read by a process that died before it could say so."""
    dying, *others = (Played(client, name) for name in ("dying", "one", "two"))
    asking = asyncio.ensure_future(answer(api, asked_for()))
    while not client.xlen(KEYS.asks):
        await asyncio.sleep(0.02)
    with suppress(Exception):
        client.xgroup_create(KEYS.asks, "worker", id="0")
    assert client.xreadgroup("worker", "dying", {KEYS.asks: ">"}, count=1)
    dying.die()
    taking = {asyncio.ensure_future(one.takes()): one for one in others}
    [first], _ = await asyncio.wait(taking, return_when=asyncio.FIRST_COMPLETED)
    taking[first].die()
    [second] = [task for task in taking if task is not first]
    taking[second].queue.reply((await second).id, result("right"))
    assert await asking == [result("right")]


@pytest.mark.parametrize("code", ELSEWHERE)
async def test_an_error_that_another_need_not_have_is_no_answer(
    api: AsyncQueue, client: Redis, code: str
) -> None:
    one, two = Played(client, "one"), Played(client, "two", takes=False)
    asking = asyncio.ensure_future(answer(api, asked_for()))
    first = await one.takes()
    two.says(takes=True)
    one.queue.reply(first.id, error_of(code))
    second = await two.takes()
    two.queue.reply(second.id, result("right"))
    assert await asking == [result("right")]


async def test_a_second_try_is_not_left_to_the_worker_that_has_failed(
    api: AsyncQueue, client: Redis
) -> None:
    """The writer leaves what all share to the follower, which would take it once more."""
    follower = Played(client, "follower")
    writer = Played(client, "writer", role="writer", takes=False)
    asking = asyncio.ensure_future(answer(api, asked_for()))
    await follower.fails()
    await asked_at(client, ["writer"], 1)
    assert follower.queue.take(0, 8) == []
    writer.queue.reply((await writer.takes()).id, result("right"))
    assert await asking == [result("right")]


@pytest.mark.parametrize(
    "described", [{"state": "draining"}, {"state": "stuck"}, {"head": None}, {"damaged": ["v0"]}]
)
async def test_an_error_is_the_answer_where_the_other_worker_cannot_answer(
    api: AsyncQueue, client: Redis, described: dict[str, object]
) -> None:
    one = Played(client, "one")
    other = Played(client, "two", takes=False, **described)
    asking = asyncio.ensure_future(answer(api, asked_for()))
    error = await one.fails()
    assert await asking == [error]
    assert other.queue.take(0, 8) == []


async def test_an_error_is_the_answer_if_the_second_worker_is_lost(
    api: AsyncQueue, client: Redis
) -> None:
    one, two = Played(client, "one"), Played(client, "two", takes=False)
    asking = asyncio.ensure_future(answer(api, asked_for()))
    error = await one.fails()
    await two.takes()
    two.die()
    assert await asking == [error]


async def test_a_second_try_goes_to_a_worker_that_can_answer(
    api: AsyncQueue, client: Redis
) -> None:
    one = Played(client, "one")
    damaged = Played(client, "damaged", damaged=["v0"])
    able = Played(client, "able", takes=False, load=3)
    asking = asyncio.ensure_future(answer(api, asked_for()))
    await one.fails()
    able.queue.reply((await able.takes()).id, result("right"))
    assert await asking == [result("right")]
    assert damaged.queue.take(0, 8) == []


async def test_after_a_token_an_error_of_the_worker_is_said_as_it_is(
    api: AsyncQueue, client: Redis
) -> None:
    one, _ = Played(client, "one"), Played(client, "two", takes=False)
    asking = asyncio.ensure_future(answer(api, asked_for()))
    error = await one.fails(after=[TOKEN])
    assert await asking == [TOKEN, error]


async def test_what_changes_the_store_is_the_writers_and_not_repeated(
    api: AsyncQueue, client: Redis
) -> None:
    follower = Played(client, "follower")
    with pytest.raises(WorkerGone):
        await answer(api, asked_for("rollback"))
    writer = Played(client, "writer", role="writer")
    asking = asyncio.ensure_future(answer(api, asked_for("rollback")))
    await writer.takes()
    assert follower.queue.take(0, 8) == []
    writer.die()
    successor = Played(client, "successor", role="writer")
    with pytest.raises(QueueError) as ended:
        await asking
    assert ended.value.code == "no_worker"
    assert successor.queue.take(0, 8) == []


async def test_a_named_version_goes_where_it_is_in_memory(api: AsyncQueue, client: Redis) -> None:
    for name in ("one", "two", "three"):
        Played(client, name, versions=["v0"])
    names = ["v7", "v8", "v9"]
    having = Played(client, "having", versions=["v0", *names])
    asking = [asyncio.ensure_future(answer(api, asked_for(pinned=name))) for name in names]
    while client.xlen(KEYS.mailbox("having")) < len(names):
        await asyncio.sleep(0.02)
    assert client.xlen(KEYS.asks) == 0
    for _ in names:
        having.queue.reply((await having.takes()).id, result("right"))
    assert await asyncio.gather(*asking) == [[result("right")]] * len(names)


async def asked_at(client: Redis, names: Sequence[str], asked: int) -> dict[str, int]:
    """How many requests were sent to each worker, once so many have been sent."""
    async with asyncio.timeout(10):
        while True:
            found = {name: client.xlen(KEYS.mailbox(name)) for name in names}
            if sum(found.values()) >= asked:
                return found
            await asyncio.sleep(0.02)


async def end(asking: Sequence[asyncio.Future[list[WorkerReply]]]) -> None:
    """End requests that nobody answers."""
    while left := [one for one in asking if not one.done()]:
        for one in left:  # before Python 3.12 one that is in `asyncio.wait_for` may miss it
            one.cancel()
        await asyncio.wait(left, timeout=0.1)


@pytest.mark.parametrize(("load", "goes_on"), [(OVERFLOW, True), (OVERFLOW + 1, False)])
async def test_a_named_version_goes_to_one_more_worker_if_those_that_have_it_are_loaded(
    api: AsyncQueue, client: Redis, load: int, goes_on: bool
) -> None:
    idle = ["one", "two", "three"]
    for name in idle:
        Played(client, name, versions=["v0"])
    Played(client, "having", versions=["v0", "v7"], load=load)
    asking = [asyncio.ensure_future(answer(api, asked_for(pinned="v7")))]
    found = await asked_at(client, [*idle, "having"], 1)
    assert found["having"] == goes_on
    [first] = [name for name, count in found.items() if count]
    if not goes_on:
        asking += [asyncio.ensure_future(answer(api, asked_for(pinned="v7"))) for _ in range(2)]
        found = await asked_at(client, idle, 3)
        assert found[first] == 3, "the others are not given it, too"
    await end(asking)


async def test_a_burst_for_a_version_that_nobody_has_is_not_one_workers(
    api: AsyncQueue, client: Redis
) -> None:
    names = ["one", "two", "three"]
    for name in names:
        Played(client, name, versions=["v0"])
    asking = []
    for sent in range(1, 2 * OVERFLOW + 1):
        asking.append(asyncio.ensure_future(answer(api, asked_for(pinned="v7"))))
        found = await asked_at(client, names, sent)
    assert max(found.values()) == OVERFLOW + 1
    await end(asking)


async def test_what_a_worker_has_taken_of_this_api_counts_once(
    api: AsyncQueue, client: Redis
) -> None:
    """Its beat says that it holds what this api has sent to it."""
    for name in ("one", "two"):
        Played(client, name, versions=["v0"])
    having = Played(client, "having", versions=["v0", "v7"])
    asking = []
    for sent in range(1, OVERFLOW + 2):
        asking.append(asyncio.ensure_future(answer(api, asked_for(pinned="v7"))))
        found = await asked_at(client, ["one", "two", "having"], sent)
        having.says(load=sent)
    assert found == {"one": 0, "two": 0, "having": OVERFLOW + 1}
    await end(asking)


async def test_a_version_that_nobody_has_goes_to_the_same_worker_each_time(
    api: AsyncQueue, client: Redis
) -> None:
    names = [f"f{number}" for number in range(4)]
    for name in names:
        Played(client, name, versions=["v0"])
    asking = [asyncio.ensure_future(answer(api, asked_for(pinned="v7"))) for _ in range(3)]
    found = await asked_at(client, names, 3)
    assert sorted(found.values()) == [0, 0, 0, 3]
    await end(asking)
