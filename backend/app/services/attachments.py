"""The files of a run of messages: fetched from WhatsApp once, kept, and shown to the model.

    1. the rows of the run's files are made, or found: a worker that repeats this after a crash finds what was done
    2. one that is not kept yet streams from WhatsApp into the `MediaStore`, its bytes counted on the way
    3. bytes that are not the announced ones are forged; what WhatsApp does not have, or hold out, is told by the state
    4. what the model can take is read, made base64 once, and held while the model is asked

A host of files that hangs costs other conversations nothing: at most `places` runs of a process wait for it, and those
that find no place, or the circuit open, go back into their mailboxes before anything is asked of the database. After
`WAIT_SECONDS` a run is answered without its file.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from prometheus_client import Counter

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Expected
from app.core.failure_words import in_words
from app.domain.errors import AccountRejected, MediaTooLarge, NotFound, SendError, Unavailable
from app.domain.extent import OGG_TAIL_BYTES, UNKNOWN_BYTES_PER_SECOND, ogg_seconds, pdf_pages
from app.domain.media import (
    KEPT_BYTES,
    MAX_FILES,
    Announced,
    Media,
    MediaState,
    announced,
    model_mime,
    quoted_id,
)
from app.domain.models import Account, Attachment, BotProfile, InboundMessage
from app.domain.ports import MediaSource, MediaStore, Offered, RecordingLength, Store
from app.services.delivery import Postponed

logger = logging.getLogger(__name__)

WAIT_SECONDS = 60.0
"""A customer's message waits so long for its file to be fetched."""
RETRY_SECONDS = 5.0
SPACING_SECONDS = 0.05
"""Between the returns of runs that found no place."""
MAX_PUT_OFF_SECONDS = 15.0
IN_FLIGHT_BYTES = 24_000_000
"""Of files that the model is being shown, in a process; each is there a second time in base64."""

FILES = Counter("chorus_media_total", "Customers' files, by what became of their fetch", ["state"])


class Forged(Expected):
    """The bytes are not those that were announced."""


@dataclass(frozen=True, slots=True)
class Collected:
    """The files of a run by the ids of their messages, and the words of the messages that it quotes."""

    files: Mapping[str, Media] = field(default_factory=dict)
    quoted: Mapping[str, str] = field(default_factory=dict)


class Collecting:
    """The files of one run on their way. To be closed; it has one of the places from the start until they are there."""

    def __init__(self, attachments: Attachments, accepted_at: datetime, *, has_place: bool, may_fetch: bool) -> None:
        self._attachments = attachments
        self._accepted_at = accepted_at
        self._has_place = has_place
        self._may_fetch = may_fetch
        self._asked: set[str] = set()
        self._tasks: list[asyncio.Task[Collected]] = []

    def add(self, account: Account, messages: Sequence[InboundMessage]) -> None:
        """Stored messages; their files begin to be fetched. Those that were added before, and texts, cost nothing."""
        files = [found for message in messages if (found := announced(message))]
        told = [file for file in files if file.wa_message_id not in self._asked]
        if not told:
            return
        self._asked.update(one.wa_message_id for one in told)
        quotes = sorted({wamid for message in messages if (wamid := quoted_id(message.payload))})
        collect = self._attachments.collect(account, told, quotes, self._accepted_at, may_fetch=self._may_fetch)
        self._tasks.append(asyncio.create_task(collect, name="fetch files"))

    async def all(self) -> Collected:
        """Once each has been fetched, or will not be. Raises `Postponed`, `AccountRejected`, `Unavailable` of the
        database."""
        found = [await task for task in self._tasks]
        self._leave()
        if not found:
            return NOTHING
        return Collected(
            {wamid: media for one in found for wamid, media in one.files.items()},
            {wamid: text for one in found for wamid, text in one.quoted.items()},
        )

    async def close(self) -> None:
        """What is still on its way is given up; the next attempt finds how far it came."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._leave()

    def _leave(self) -> None:
        if self._has_place:
            self._has_place = False
            self._attachments.leave()


NOTHING = Collected()


class Attachments:
    def __init__(
        self,
        store: Store,
        files: MediaStore,
        source: MediaSource,
        length: RecordingLength,
        *,
        max_bytes: int,
        places: int,
        wait_seconds: float = WAIT_SECONDS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`max_bytes`: of the files of one run, to the model. `places`: runs whose files are fetched at once."""
        self._store = store
        self._files = files
        self._source = source
        self._length = length
        self._max_bytes = max_bytes
        self._places = places
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._busy = 0
        self._next_turn = 0.0
        self._budget = ByteBudget(max(IN_FLIGHT_BYTES, max_bytes))

    def enter(self, messages: Sequence[InboundMessage], accepted_at: datetime) -> Collecting:
        """Before anything is asked of the database. Raises `Postponed` if the files of these messages cannot be fetched
        now; one that has waited long enough goes on without them. No I/O."""
        if not any(announced(message) for message in messages):
            return Collecting(self, accepted_at, has_place=False, may_fetch=True)
        left = self._seconds_left(accepted_at)
        blocked = self._source.media_blocked_seconds()
        if not blocked and self._busy < self._places:
            self._busy += 1
            return Collecting(self, accepted_at, has_place=True, may_fetch=True)
        if left <= 0:
            return Collecting(self, accepted_at, has_place=False, may_fetch=False)
        raise Postponed(min(blocked or self._turn_seconds(), left), "media: cannot be fetched now")

    async def keep(self, account: Account, message: InboundMessage, accepted_at: datetime) -> None:
        """The file of a stored message that is no question, if it has one, for people. Raises `Postponed` if it cannot
        be fetched yet, `AccountRejected`, `Unavailable` of the database."""
        files = self.enter([message], accepted_at)
        try:
            files.add(account, [message])
            await files.all()
        finally:
            await files.close()

    def leave(self) -> None:
        """A place of `enter` is free again."""
        self._busy -= 1

    def _turn_seconds(self) -> float:
        """Those that find no place come back one after the other."""
        now = self._clock.monotonic()
        at = min(max(now + 1.0, self._next_turn), now + MAX_PUT_OFF_SECONDS)
        self._next_turn = at + SPACING_SECONDS
        return at - now

    async def collect(
        self,
        account: Account,
        told: Sequence[Announced],
        quoted: Sequence[str],
        accepted_at: datetime,
        *,
        may_fetch: bool,
    ) -> Collected:
        """Raises `Postponed` if a file cannot be fetched yet, `AccountRejected`, `Unavailable` of the database."""
        opened = await self._store.open_media(account.id, told, quoted=quoted)
        rows = {media.wa_message_id: media for media in opened.files}
        known = [(one, rows[one.wa_message_id]) for one in told if one.wa_message_id in rows]
        outcomes = await asyncio.gather(
            *(self._have(account, one, media, accepted_at, may_fetch=may_fetch) for one, media in known),
            return_exceptions=True,
        )
        failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failed:
            raise failed[0]
        kept = [outcome for outcome in outcomes if isinstance(outcome, Media)]
        return Collected({str(media.wa_message_id): media for media in kept}, opened.quoted)

    @asynccontextmanager
    async def shown(
        self, collected: Collected, wamids: Sequence[str], profile: BotProfile
    ) -> AsyncIterator[Mapping[str, Attachment]]:
        """Of the files of `wamids`, in order, those that the model can take and the profile lets it have, as it takes
        them, for the block."""
        chosen: list[tuple[str, Media, str]] = []
        most = min(self._max_bytes, profile.media_max_bytes or self._max_bytes)
        left = most
        for wamid in wamids:
            media = collected.files.get(wamid)
            mime = model_mime(media.mime) if media is not None and media.is_kept else None
            if media is None or mime is None or media.size is None or not 0 < media.size <= left:
                continue
            if media.kind not in profile.media_kinds or len(chosen) == MAX_FILES:
                continue
            if await self._is_within(media, mime, profile):
                chosen.append((wamid, media, mime))
                left -= media.size
        async with self._budget.hold(most - left):
            yield {wamid: attachment for wamid, media, mime in chosen if (attachment := await self._read(media, mime))}

    async def describe(self, told: Sequence[tuple[Media, str, str]]) -> None:
        """(file, what it says, what its message says with it) of each."""
        if told:
            await self._store.describe_media([(media.id, description, text) for media, description, text in told])

    async def _have(
        self, account: Account, told: Announced, media: Media, accepted_at: datetime, *, may_fetch: bool
    ) -> Media:
        if media.state != MediaState.PENDING:
            return media
        if media.opened > 1 and (found := await self._found(told, media)):
            return found
        if not may_fetch:
            return await self._settle(media, MediaState.FAILED)
        try:
            take = partial(self._keep, told, media)
            return await self._source.fetch_media(account, told.source_id, max_bytes=KEPT_BYTES, take=take)
        except MediaTooLarge:
            return await self._settle(media, MediaState.TOO_LARGE)
        except Forged:
            return await self._settle(media, MediaState.FORGED)
        except AccountRejected:
            if self._seconds_left(accepted_at) > 0:
                raise
            return await self._settle(media, MediaState.FAILED)
        except Unavailable as exc:
            if exc.dependency != "whatsapp_media":
                raise
            logger.warning("a file cannot be fetched", extra={"reason": in_words(exc)})
            left = self._seconds_left(accepted_at)
            if left > 0:
                raise Postponed(min(exc.retry_after or RETRY_SECONDS, left), f"media: {in_words(exc)}") from exc
            return await self._settle(media, MediaState.FAILED)
        except SendError as exc:
            logger.warning("a file is gone", extra={"reason": in_words(exc)})
            return await self._settle(media, MediaState.GONE)

    async def _keep(self, told: Announced, media: Media, offered: Offered) -> Media:
        """Raises `Forged`."""
        expected = {each for each in (told.sha256, offered.sha256) if each}
        counted = _Counted(offered.pieces, sha256=expected, size=offered.size)
        mime = offered.mime or media.mime
        await self._files.put(media.id, counted.pieces(), mime=mime)
        if not counted.is_whole:  # the store took nothing
            raise Unavailable("database", "another worker keeps this file")
        return await self._settle(media, MediaState.KEPT, sha256=counted.sha256, size=counted.size, mime=mime)

    async def _found(self, told: Announced, media: Media) -> Media | None:
        """A worker that crashed may have kept it and not have said so: it is not fetched twice."""
        if told.sha256 is None or await self._files.size(media.id) is None:
            return None
        counted = _Counted(self._files.read(media.id))
        try:
            async for _ in counted.pieces():
                pass
        except NotFound:
            return None
        if counted.sha256 != told.sha256:
            return None
        return await self._settle(media, MediaState.KEPT, sha256=counted.sha256, size=counted.size)

    async def _settle(
        self,
        media: Media,
        state: MediaState,
        *,
        sha256: str | None = None,
        size: int | None = None,
        mime: str | None = None,
    ) -> Media:
        is_there = await self._store.settle_media(media.id, state, sha256=sha256, size=size, mime=mime)
        if not is_there and state == MediaState.KEPT:  # erased, or given up, while it was on its way
            await self._files.delete([media.id])
            state = MediaState.DELETED
        FILES.labels(state).inc()
        return Media(
            media.id, media.account_id, media.kind, mime or media.mime, state, sha256 or media.sha256,
            media.size if size is None else size, media.name, media.description, media.opened, media.message_id,
            media.conversation_id, media.wa_message_id,
        )  # fmt: skip

    async def _is_within(self, media: Media, mime: str, profile: BotProfile) -> bool:
        """Neither longer nor with more pages than the profile allows. A recording that does not tell its length is
        judged by its bytes; a PDF that does not tell its pages passes."""
        size = media.size or 0
        try:
            if mime == "audio/ogg":
                tail = await self._bytes(media, start=max(0, size - OGG_TAIL_BYTES))
                seconds = ogg_seconds(tail)
            elif mime.startswith(("audio/", "video/")):
                most = float(profile.media_max_seconds)
                async with self._budget.hold(size):
                    content = await self._bytes(media)
                    seconds = await asyncio.to_thread(self._length, content, mime, most=most)
            elif mime == "application/pdf" and profile.media_max_pages is not None:
                async with self._budget.hold(size):
                    content = await self._bytes(media)
                    pages = await asyncio.to_thread(pdf_pages, content, most=profile.media_max_pages)
                return pages is None or pages <= profile.media_max_pages
            else:
                return True
        except NotFound:  # it went between two looks
            return False
        return (size / UNKNOWN_BYTES_PER_SECOND if seconds is None else seconds) <= profile.media_max_seconds

    async def _bytes(self, media: Media, *, start: int = 0) -> bytes:
        return b"".join([piece async for piece in self._files.read(media.id, start=start)])

    async def _read(self, media: Media, mime: str) -> Attachment | None:
        """`None`: it went between two looks."""
        try:
            # In pieces that are whole in base64: the file itself is never here as a whole.
            content = b"".join([b64encode(piece) async for piece in self._files.read(media.id)])
        except NotFound:
            return None
        return Attachment(mime, content, media.size or 0)

    def _seconds_left(self, accepted_at: datetime) -> float:
        return self._wait_seconds - (self._clock.now() - accepted_at).total_seconds()


class _Counted:
    """A file that passes by. `is_whole`: all of it has. `sha256` and `size`: what it must have."""

    def __init__(
        self, source: AsyncIterator[bytes], *, sha256: Set[str] = frozenset(), size: int | None = None
    ) -> None:
        self._source = source
        self._expected_sha256 = sha256
        self._expected_size = size
        self._digest = hashlib.sha256()
        self.size = 0
        self.is_whole = False

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises `Forged` instead of its end: a store never takes another file for the whole of this one."""
        async for piece in self._source:
            self._digest.update(piece)
            self.size += len(piece)
            yield piece
        if self._expected_sha256 - {self.sha256} or self._expected_size not in (None, self.size):
            raise Forged("media: not the announced bytes")
        self.is_whole = True


class ByteBudget:
    """Bytes that may be held at once. In order of arrival; what is larger than all of it is held alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        if not size:
            yield
            return
        async with self._turn:
            while self._held and self._held + size > self._limit:
                self._freed.clear()
                await self._freed.wait()
            self._held += size
        try:
            yield
        finally:
            self._held -= size
            self._freed.set()
