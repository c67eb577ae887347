"""Whose turn it is among the trials of a sweep."""

import asyncio


class Slots:
    """Lets the first of those who ask go to work, as many as the cluster holds; the next has its process ready.

    An actor, whose process starts without torch: that takes seconds, in which workers of a trial would stand idle.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._asked: list[str] = []
        self._left = asyncio.Condition()

    async def take(self, run_id: str) -> None:
        """Wait until a run is among the first. One that asks again, since its process was lost, keeps its place."""
        if run_id not in self._asked:
            self._asked.append(run_id)
        async with self._left:
            await self._left.wait_for(lambda: run_id in self._asked[: self._number])

    async def leave(self, run_id: str) -> None:
        """Let the next one go to work."""
        if run_id in self._asked:
            self._asked.remove(run_id)
        async with self._left:
            self._left.notify_all()
