"""router/service/batcher.py: what is decided together, in which order, and who hears of an error."""

import asyncio

import pytest

from router.service.batcher import MAX_BATCH, Batcher


def doubled(batches: list[list[int]]) -> Batcher[int, int]:
    def decide(items: list[int]) -> list[int]:
        batches.append(items)
        if 13 in items:
            raise RuntimeError("unlucky")
        return [2 * one for one in items]

    return Batcher(decide, lambda: None)


def test_what_is_ready_together_is_decided_together_and_in_order() -> None:
    batches: list[list[int]] = []

    async def ask() -> list[int]:
        batcher = doubled(batches)
        return await asyncio.gather(*(batcher.submit(one) for one in items))

    items = list(range(100, 100 + 2 * MAX_BATCH + 1))
    assert asyncio.run(ask()) == [2 * one for one in items]
    assert [len(one) for one in batches] == [MAX_BATCH, MAX_BATCH, 1]
    assert [one for batch in batches for one in batch] == items


def test_between_two_batches_the_first_ones_go_on() -> None:
    log: list[str] = []

    async def ask() -> None:
        def decide(items: list[int]) -> list[int]:
            log.append("decide")
            return items

        batcher = Batcher(decide, lambda: log.append("worked"))

        async def one(item: int) -> None:
            await batcher.submit(item)
            log.append("answer")

        await asyncio.gather(*(one(item) for item in range(MAX_BATCH + 1)))

    asyncio.run(ask())
    assert log == ["decide", "worked", *["answer"] * MAX_BATCH, "decide", "worked", "answer"]


def test_one_after_the_other_each_is_alone() -> None:
    batches: list[list[int]] = []

    async def ask() -> None:
        batcher = doubled(batches)
        for one in range(3):
            assert await batcher.submit(one) == 2 * one
            assert len(batcher) == 0

    asyncio.run(ask())
    assert batches == [[0], [1], [2]]


def test_an_error_is_that_of_its_batch_alone() -> None:
    async def ask() -> list[int | BaseException]:
        batcher = doubled([])
        asked = [batcher.submit(one) for one in range(MAX_BATCH + 13)]
        return await asyncio.gather(*asked, return_exceptions=True)

    outcomes = asyncio.run(ask())
    unlucky = [place for place, one in enumerate(outcomes) if isinstance(one, RuntimeError)]
    assert unlucky == list(range(MAX_BATCH, 2 * MAX_BATCH))
    assert all(outcomes[place] == 2 * place for place in range(len(outcomes)) if place not in unlucky)


def test_who_left_is_not_decided_for_and_takes_nobody_along() -> None:
    batches: list[list[int]] = []

    async def ask() -> None:
        batcher = doubled(batches)
        tasks = [asyncio.create_task(batcher.submit(one)) for one in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        assert await tasks[0] == 0 and await tasks[2] == 4
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]

    asyncio.run(ask())
    assert batches in ([[0, 2]], [[0, 1, 2]])
