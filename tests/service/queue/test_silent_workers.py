"""A worker that says nothing, and what its heart says meanwhile; workers are played by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from redis import Redis
from support.service.played_worker.by_hand import PROGRESS, Played, answer, asked_for, result

from service.queue import AsyncQueue, WorkerBeat
from service.queue.asking import Asking

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("played")]


async def test_a_silent_worker_is_given_up_and_a_slow_one_is_not(
    hasty: AsyncQueue, client: Redis
) -> None:
    one, two = Played(client, "one"), Played(client, "two", takes=False)
    asking = asyncio.ensure_future(answer(hasty, asked_for()))
    first = await one.takes()
    for _ in range(8):
        await asyncio.sleep(0.2)
        one.queue.reply(first.id, PROGRESS)
    assert two.queue.take(0, 8) == []
    second = await two.takes()
    two.queue.reply(second.id, result("right"))
    assert await asking == [result("right")]
    assert one.queue.gone([first.id]) == {first.id}


@pytest.mark.parametrize("still_s", [0.0, 0.9])
async def test_a_silent_worker_whose_heart_says_that_it_goes_on_is_waited_for(
    hasty: AsyncQueue, client: Redis, still_s: float
) -> None:
    one, two = Played(client, "one", still_s=still_s), Played(client, "two", takes=False)
    asking = asyncio.ensure_future(answer(hasty, asked_for()))
    await one.takes()
    await asyncio.sleep(1.5)
    assert two.queue.take(0, 8) == []
    one.says(still_s=1.1)
    second = await two.takes()
    two.queue.reply(second.id, result("right"))
    assert await asking == [result("right")]


async def test_generations_that_go_on_say_nothing_of_an_explanation(
    hasty: AsyncQueue, client: Redis
) -> None:
    one, two = Played(client, "one", still_s=0.0), Played(client, "two", takes=False)
    asking = asyncio.ensure_future(answer(hasty, asked_for("explain")))
    await one.takes()
    second = await two.takes()
    two.queue.reply(second.id, result("right"))
    assert await asking == [result("right")]


async def test_requests_that_wait_share_what_was_heard_of_a_worker(
    api: AsyncQueue, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking, heard = api._asking, 0

    async def counted() -> list[WorkerBeat]:
        nonlocal heard
        heard += 1
        return await Asking.workers(asking)

    monkeypatch.setattr(asking, "workers", counted)
    one = Played(client, "one")
    found = await asyncio.gather(*(asking._beat_of("one") for _ in range(8)))
    assert ([beat and beat.instance for beat in found], heard) == (["one"] * 8, 1)
    two = Played(client, "two")
    assert await asking._beat_of("two"), "it has come since"
    for each in (one, two):
        each.die()
    monkeypatch.setattr("service.queue.asking.FRESH_S", 0.0)
    assert await asking._beat_of("one") is None


async def test_none_of_them_waits_for_the_questions_of_all_to_a_server_that_hangs(
    api: AsyncQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking, asked = api._asking, 0

    async def hanging() -> list[WorkerBeat]:
        nonlocal asked
        asked += 1
        async with asyncio.timeout(0.1):
            await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(asking, "workers", hanging)
    monkeypatch.setattr("service.queue.asking.ANSWER_S", 0.1)
    found = await asyncio.gather(
        *(asking._beat_of("one") for _ in range(8)), return_exceptions=True
    )
    assert {type(one) for one in found} == {TimeoutError}
    assert asked < 3


async def test_an_api_ends_though_nobody_can_be_told_that_it_waits_no_longer(
    hasty: AsyncQueue, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking, one = hasty._asking, Played(client, "one")
    waiting = asyncio.ensure_future(answer(hasty, asked_for()))
    told, answers = asyncio.Event(), asyncio.Event()

    async def hanging(request_id: str) -> None:
        told.set()
        await answers.wait()

    monkeypatch.setattr(asking, "abandon", hanging)
    monkeypatch.setattr("service.queue.asking.FAREWELL_S", 0.05)
    await one.takes()
    waiting.cancel()
    await told.wait()
    try:
        async with asyncio.timeout(5):
            await asking.close()
    finally:
        answers.set()


async def test_workers_that_come_and_go_are_heard(api: AsyncQueue, client: Redis) -> None:
    def names(found: Sequence[WorkerBeat]) -> set[str]:
        return {one.instance for one in found}

    assert names(await api.workers()) == set()
    one = Played(client, "one")
    assert names(await api.workers()) == {"one"}
    assert names(await api.workers()) == {"one"}
    Played(client, "two")
    Played(client, "writer", role="writer")
    assert names(await api.workers()) == {"one", "two", "writer"}
    one.die()
    assert names(await api.workers()) == {"two", "writer"}


async def test_a_silent_worker_without_another_is_waited_for(
    hasty: AsyncQueue, client: Redis
) -> None:
    one = Played(client, "one")
    asking = asyncio.ensure_future(answer(hasty, asked_for()))
    first = await one.takes()
    await asyncio.sleep(1.5)
    one.queue.reply(first.id, result("late"))
    assert await asking == [result("late")]


async def test_the_second_worker_has_as_long_as_the_first_had(
    hasty: AsyncQueue, client: Redis
) -> None:
    one, two = Played(client, "one"), Played(client, "two", takes=False)
    request = asked_for()
    asking = asyncio.ensure_future(answer(hasty, request))
    await one.takes()
    second = await two.takes()
    assert second.deadline >= request.deadline + 0.9, "the first was silent for a second"
    two.queue.reply(second.id, result("right"))
    assert await asking == [result("right")]
