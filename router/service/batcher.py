"""What becomes due in the same turn of the event loop is decided together, which takes half the time of one by one."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# The first of a batch waits for the last: more of them gain little and take longer.
MAX_BATCH = 8


class Batcher(Generic[Item, Result]):
    """Gathers items while the loop is busy, and decides a few at a time, in order of their coming.

    Between two batches the loop goes round once: the first one's answers are written, and new requests are read, before
    the second is begun.
    """

    def __init__(self, decide: Callable[[list[Item]], Sequence[Result]], worked: Callable[[], object]) -> None:
        """decide: returns one result per item, in order; what it raises is raised to all of the batch.

        worked: called after each batch, which kept the loop from everything else.
        """
        self.decide = decide
        self._worked = worked
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._deciding: list[asyncio.Future[Result]] = []
        self._runner: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    async def submit(self, item: Item) -> Result:
        """Return the result of one item."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if self._runner is None:
            self._start()
        return await future

    def _start(self) -> None:
        self._runner = asyncio.get_running_loop().create_task(self._run())
        self._runner.add_done_callback(self._ended)

    async def _run(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            wanted = [(item, future) for item, future in batch if not future.done()]  # those who left want nothing
            self._deciding = [future for _, future in wanted]
            results = self.decide([item for item, _ in wanted])
            for future, result in zip(self._deciding, results, strict=True):
                future.set_result(result)
            self._worked()
            await asyncio.sleep(0)

    def _ended(self, runner: "asyncio.Task[None]") -> None:
        """Raise what ended the runner to those it was deciding for, and go on with the others."""
        self._runner = None
        error = None if runner.cancelled() else runner.exception()
        for future in self._deciding:
            if error is not None and not future.done():
                future.set_exception(error)
        if self._waiting:
            self._start()
