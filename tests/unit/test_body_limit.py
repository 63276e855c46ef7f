"""Which body gives way when all together are too large."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from starlette.types import Message

from app.api.body_limit import SMALL_BYTES, UNCOUNTED_BYTES, BodiesTooLarge, Body, BodyBudget, BodyTooLarge

SMALL, LARGE = 50_000, 200_000
BUDGET = 800_000
"""A share of 200,000 for small bodies (5 of 50,000), and of 600,000 for large ones (3 of 200,000)."""


class Upload:
    """A request whose pieces come when the test says so."""

    def __init__(self, budget: BodyBudget) -> None:
        self._pieces: asyncio.Queue[Message] = asyncio.Queue()
        self.body = Body(self._pieces.get, max_bytes=1_000_000, budget=budget)
        self.reading = asyncio.create_task(self.body.read())

    def piece(self, size: int, *, more: bool = True) -> None:
        self._pieces.put_nowait({"type": "http.request", "body": b"x" * size, "more_body": more})

    def leaves(self) -> None:
        self._pieces.put_nowait({"type": "http.disconnect"})

    async def sends(self, size: int) -> None:
        """A piece, which has been read and counted when this returns, or was refused."""
        self.piece(size)
        for _ in range(3):
            await asyncio.sleep(0)
        assert self._pieces.empty()

    async def ends(self) -> int | None:
        """Its size once it is complete."""
        self.piece(1000, more=False)
        content = await self.outcome()
        return None if content is None else len(content)

    async def outcome(self) -> bytes | None:
        async with asyncio.timeout(5):
            return await self.reading

    async def gave_way(self) -> bool:
        if self.reading.done():
            with pytest.raises(BodiesTooLarge):
                await self.reading
        return self.reading.done()


@pytest.fixture
async def upload() -> AsyncIterator[Callable[[], Upload]]:
    budget, uploads = BodyBudget(BUDGET), list[Upload]()

    def begin() -> Upload:
        uploads.append(Upload(budget))
        return uploads[-1]

    yield begin
    for each in uploads:
        each.reading.cancel()
        each.body.close()
    await asyncio.gather(*(each.reading for each in uploads), return_exceptions=True)


@pytest.mark.parametrize(("size", "fit"), [(SMALL, 5), (LARGE, 3)])
async def test_the_oldest_gives_way_to_the_newest_and_is_told_at_once(
    upload: Callable[[], Upload], size: int, fit: int
) -> None:
    held = [upload() for _ in range(fit)]
    for each in held:
        await each.sends(size)
    assert not any([await each.gave_way() for each in held])
    for n in range(fit):
        newest = upload()
        await newest.sends(size)
        assert [await each.gave_way() for each in held] == [True] * (n + 1) + [False] * (fit - n - 1)
    assert await newest.ends() == size + 1000


async def test_large_bodies_push_out_no_small_one_and_small_ones_no_large_one(upload: Callable[[], Upload]) -> None:
    small, large = upload(), upload()
    await small.sends(SMALL)
    await large.sends(LARGE)
    for _ in range(2):
        await upload().sends(LARGE)
    for _ in range(4):
        await upload().sends(SMALL)
    assert await small.ends() == SMALL + 1000
    assert await large.ends() == LARGE + 1000


async def test_a_body_that_grows_leaves_its_place_among_the_small_ones(upload: Callable[[], Upload]) -> None:
    small = [upload() for _ in range(5)]
    for each in small:
        await each.sends(SMALL)
    grows = small[-1]
    await grows.sends(SMALL_BYTES)
    await upload().sends(SMALL)
    assert not any([await each.gave_way() for each in small])
    assert await grows.ends() == SMALL + SMALL_BYTES + 1000


async def test_a_complete_body_gives_way_to_no_other_until_it_is_closed(upload: Callable[[], Upload]) -> None:
    complete = [upload() for _ in range(3)]
    for each in complete:
        await each.sends(LARGE)
        assert await each.ends() == LARGE + 1000
    refused = upload()
    await refused.sends(LARGE)
    assert await refused.gave_way()
    assert [len(await each.outcome() or b"") for each in complete] == [LARGE + 1000] * 3
    complete[0].body.close()
    taken = upload()
    await taken.sends(LARGE)
    assert await taken.ends() == LARGE + 1000


async def test_the_oldest_that_wants_more_is_the_one_that_gives_way(upload: Callable[[], Upload]) -> None:
    oldest, *others = [upload() for _ in range(3)]
    for each in (oldest, *others):
        await each.sends(LARGE)
    await oldest.sends(LARGE)
    assert await oldest.gave_way()
    assert [await each.ends() for each in others] == [LARGE + 1000] * 2


async def test_a_piece_that_comes_while_the_body_gives_way_does_not_bring_it_back(
    upload: Callable[[], Upload],
) -> None:
    oldest, *others = [upload() for _ in range(3)]
    for each in (oldest, *others):
        await each.sends(LARGE)
    newest = upload()
    newest.piece(LARGE)
    oldest.piece(1000, more=False)  # both are read in the same turn of the event loop, the newest first
    await asyncio.wait([oldest.reading], timeout=5)
    assert await oldest.gave_way()
    assert await newest.ends() == LARGE + 1000


@pytest.mark.parametrize("end", ["left", "too large", "cancelled"])
async def test_a_body_that_has_ended_badly_gives_way_also_before_it_is_closed(
    upload: Callable[[], Upload], end: str
) -> None:
    bad = upload()
    await bad.sends(LARGE)
    if end == "left":
        bad.leaves()
        assert await bad.outcome() is None
    elif end == "too large":
        bad.piece(1_000_000)
        with pytest.raises(BodyTooLarge):
            await bad.outcome()
    else:
        bad.reading.cancel()
        await asyncio.wait([bad.reading])
    others = [upload() for _ in range(3)]
    for each in others:
        await each.sends(LARGE)
    bad.body.close()
    await upload().sends(LARGE)
    assert await others[0].gave_way(), "what the bad one took was given back once"
    assert [await each.ends() for each in others[1:]] == [LARGE + 1000] * 2


async def test_the_start_of_every_body_is_free(upload: Callable[[], Upload]) -> None:
    starts = [upload() for _ in range(100)]
    for each in starts:
        await each.sends(UNCOUNTED_BYTES)
    assert {await each.ends() for each in starts} == {UNCOUNTED_BYTES + 1000}
