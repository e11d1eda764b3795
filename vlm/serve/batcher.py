"""Questions of many clients in one batch: what waits when the model is free goes together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from time import monotonic
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class FullError(Exception):
    """Too much is waiting; `seconds` is when to come again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"Too many questions are waiting; try again in {seconds} s.")
        self.seconds = seconds


class Batcher(Generic[Item, Result]):
    """Collect items while a function is busy in its own thread, then give it all of them at once.

    Nothing waits for a batch to fill: alone, an item is run at once; under load, batches grow by
    themselves. An item whose caller is cancelled, by a time limit or because the client went away,
    leaves the queue.

    Args:
        run: makes a result, or an exception, of each item.
        largest: items of a batch.
        waiting: items that may wait; one more is refused.
    """

    def __init__(
        self, run: Callable[[list[Item]], Sequence[Result | Exception]], largest: int, waiting: int
    ) -> None:
        self.run, self.largest, self.waiting = run, largest, waiting
        self._queue: dict[asyncio.Future[Result], Item] = {}
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._seconds = 0.0  # for an item, lately

    def __len__(self) -> int:
        return len(self._queue)

    def check(self, coming: int = 0) -> None:
        """Refuse an item that would have to wait outside.

        Args:
            coming: items that were accepted and are not in the queue yet.

        Raises:
            FullError: the queue is full.
        """
        if (waiting := len(self) + coming) >= self.waiting:
            raise FullError(max(1, math.ceil(self._seconds * waiting)))

    async def __call__(self, item: Item) -> Result:
        """The result of an item.

        Raises:
            FullError: the queue is full.
        """
        self.check()
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue[future] = item
        self._arrived.set()
        try:
            return await future
        finally:
            self._queue.pop(future, None)  # of a caller that was cancelled

    async def work(self) -> None:
        """Run what arrives, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            futures = list(islice(self._queue, self.largest))
            items = [self._queue.pop(future) for future in futures]
            if not items:
                self._arrived.clear()
                continue
            start = monotonic()
            try:
                results = await loop.run_in_executor(self._thread, self.run, items)
            except Exception as error:
                results = [error] * len(items)
            self._seconds = 0.8 * self._seconds + 0.2 * (monotonic() - start) / len(items)
            for future, result in zip(futures, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
