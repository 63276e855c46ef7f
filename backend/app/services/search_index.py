"""What is written becomes findable a moment later: one replica writes the words of new messages down, a page at a time.
On a database from before the search this takes in what is there, the newest conversations first."""

from __future__ import annotations

from app.domain.ports import ConversationStore

ROWS = 200
MESSAGES = 2000
"""On a page: some tenths of a second of the database's time."""


class SearchIndex:
    """On one replica at a time, though two do no harm."""

    def __init__(self, store: ConversationStore) -> None:
        self._store = store

    async def update(self) -> bool:
        """One page. Returns whether there may be more. Raises `Unavailable`."""
        return await self._store.index_search(rows=ROWS, messages=MESSAGES) > 0
