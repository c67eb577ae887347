"""Who of the trials of a sweep may go to work."""

import asyncio

from jobs._slots import Slots


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_first_go_to_work_and_the_next_when_one_leaves() -> None:
    async def play() -> None:
        slots = Slots(2)
        asked = {name: asyncio.create_task(slots.take(name)) for name in ("a", "b", "c", "d")}
        await settle()
        assert [name for name, one in asked.items() if one.done()] == ["a", "b"]
        await slots.leave("b")
        await settle()
        assert [name for name, one in asked.items() if one.done()] == ["a", "b", "c"]
        await slots.leave("a")
        await asyncio.wait_for(asked["d"], 10)

    asyncio.run(play())


def test_one_that_is_stopped_while_it_waits_takes_no_place() -> None:
    async def play() -> None:
        slots = Slots(1)
        await slots.take("a")
        waiting = [asyncio.create_task(slots.take(name)) for name in ("stopped", "next")]
        await settle()
        await slots.leave("stopped")
        await slots.leave("never asked")
        await settle()
        assert not waiting[1].done()
        await slots.leave("a")
        await asyncio.wait_for(waiting[1], 10)
        assert not waiting[0].done()
        waiting[0].cancel()

    asyncio.run(play())


def test_one_whose_process_was_lost_keeps_its_place() -> None:
    async def play() -> None:
        slots = Slots(1)
        await slots.take("a")
        waiting = asyncio.create_task(slots.take("b"))
        await asyncio.wait_for(slots.take("a"), 10)
        await slots.leave("a")
        await asyncio.wait_for(waiting, 10)

    asyncio.run(play())
