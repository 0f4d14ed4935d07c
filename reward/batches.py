"""Sequences of all callers that wait for one engine, sent together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from reward.errors import Invalid

T = TypeVar("T")
Ids = Sequence[int]
#: batches inside the engine at a time, sequences and tokens in each
AT_ONCE, SEQUENCES, TOKENS = 4, 16, 16_384


class Batches(Generic[T]):
    """Belongs to one event loop. An idle engine is asked at once: nobody waits for a batch to fill up."""

    def __init__(self, send: Callable[[list[Ids]], Awaitable[list[T]]]) -> None:
        self._send = send
        self._waiting: deque[tuple[Ids, asyncio.Future[T]]] = deque()
        self._flying: set[asyncio.Task[None]] = set()
        self._called = False

    async def ask(self, ids: Ids) -> T:
        """The engine's answer for one sequence; raises what sending it alone would raise."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._waiting.append((ids, answer))
        if not self._called:  # after this turn of the loop: what others ask in it comes along
            self._called = True
            loop.call_soon(self._launch)
        return await answer

    def _launch(self) -> None:
        self._called = False
        while self._waiting and len(self._flying) < AT_ONCE:
            task = asyncio.ensure_future(self._carry(self._taken()))
            self._flying.add(task)
            task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        self._launch()

    def _taken(self) -> list[tuple[Ids, asyncio.Future[T]]]:
        taken: list[tuple[Ids, asyncio.Future[T]]] = []
        tokens = 0
        while self._waiting and len(taken) < SEQUENCES:
            ids, answer = self._waiting[0]
            if taken and tokens + len(ids) > TOKENS:
                break
            self._waiting.popleft()
            if not answer.done():  # its caller may have gone
                taken.append((ids, answer))
                tokens += len(ids)
        return taken

    async def _carry(self, batch: list[tuple[Ids, asyncio.Future[T]]]) -> None:
        if not batch:
            return
        try:
            found = await self._send([ids for ids, _ in batch])
        except Exception as error:
            if isinstance(error, Invalid) and len(batch) > 1:  # one of them is wrong; the others are not to blame
                for single in batch:
                    await self._carry([single])
                return
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), value in zip(batch, found, strict=True):
            if not answer.done():
                answer.set_result(value)
