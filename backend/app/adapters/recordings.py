"""How long a recording or a video is, read from its bytes. Work for a thread: pure Python over up to 14 MB."""

from __future__ import annotations

import io

from tinytag import TinyTag, TinyTagException

from app.domain.extent import adts_seconds

MOST_READS = 20_000
"""An ordinary file takes a few hundred; one that is made to be searched byte by byte takes millions, and minutes."""


def recording_seconds(content: bytes, mime: str, *, most: float) -> float | None:
    """Of AAC, MP3, MP4 (M4A, 3GPP), WAV, FLAC and AIFF, by what they say of themselves; an MP3 without an index is
    estimated by its first frames. AAC is counted up to `most`. `None`: not one of these, or it cannot be read."""
    if mime == "audio/aac":
        return adts_seconds(content, most=most)
    try:
        found = TinyTag.get(file_obj=_Bounded(content), tags=False, duration=True).duration
    except (TinyTagException, OSError):
        return None
    return found if found is not None and found > 0 else None


class _Bounded(io.BytesIO):
    """A file that ends when it was read from too often."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > MOST_READS:
            raise OSError("too many reads")
        return super().read(size)
