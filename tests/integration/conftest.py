"""Offices and outside worlds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.support.office import MakeOffice, Office, open_office
from tests.support.serving import OutsideWorld, outside_world


@pytest.fixture
async def make_office(valkey_url: str, store_url: str) -> AsyncIterator[MakeOffice]:
    """`await make_office(reply_deadline_seconds=…, …)`: a running worker; stopped and closed after the test."""
    async with AsyncExitStack() as stack:

        async def make(*, database_url: str | None = None, **options: Any) -> Office:
            return await open_office(stack, valkey_url, database_url or store_url, **options)

        yield make


@pytest.fixture
async def outside() -> AsyncIterator[OutsideWorld]:
    async with outside_world() as world:
        yield world
