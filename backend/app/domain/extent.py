"""How long a recording is and how many pages a document has, by their bytes: no decoder, bounded work. Pure."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

OGG_TAIL_BYTES = 65_536
"""An Ogg page is no longer; the last one tells how long the recording is."""
UNKNOWN_BYTES_PER_SECOND = 4_000
"""Of a recording that does not tell how long it is: 32 kbit/s, less than most have, so that it rather counts as too
long."""

_ADTS_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
_ADTS_SAMPLES = 1024
_ADTS_HEADER_BYTES = 7
_PAGE = re.compile(rb"/Type\s{0,8}/Page(?![A-Za-z])")
_OBJECT_STREAM = b"/ObjStm"
_BEGIN = re.compile(rb"stream\r?\n")
_DICTIONARY_BYTES = 1_000
MAX_OBJECT_STREAMS = 1_000
MAX_PACKED_BYTES = 1_000_000
"""Of one object stream."""
MAX_UNPACKED_BYTES = 20_000_000
"""Of all object streams of a document: more are not looked into. A small file may hold gigabytes of zeros."""


def ogg_seconds(tail: bytes) -> float | None:
    """How long an Ogg/Opus recording is, by the last page in its last bytes; `None` where that cannot be read. The
    position counts samples of 48 kHz (RFC 7845, section 4)."""
    at = tail.rfind(b"OggS")
    if at < 0 or len(tail) < at + 14:
        return None
    samples = int.from_bytes(tail[at + 6 : at + 14], "little", signed=True)
    return samples / 48_000 if samples >= 0 else None


def adts_seconds(content: bytes, *, most: float) -> float | None:
    """How long an AAC recording in ADTS frames is (ISO/IEC 14496-3, 1.A.3.2), counted up to `most`; `None` if it does
    not begin with a frame. It ends with the last whole frame."""
    at, seconds = 0, 0.0
    while at + _ADTS_HEADER_BYTES <= len(content) and seconds <= most:
        if content[at] != 0xFF or content[at + 1] & 0xF6 != 0xF0:
            break
        rate = (content[at + 2] >> 2) & 15
        length = (content[at + 3] & 3) << 11 | content[at + 4] << 3 | content[at + 5] >> 5
        if rate >= len(_ADTS_RATES) or length < _ADTS_HEADER_BYTES:
            break
        seconds += _ADTS_SAMPLES * ((content[at + 6] & 3) + 1) / _ADTS_RATES[rate]
        at += length
    return seconds if at else None


def pdf_pages(content: bytes, *, most: int) -> int | None:
    """The page objects of a PDF, also those packed into object streams (ISO 32000-1, 7.5.7), counted up to `most` + 1.
    `None` if there is none to be seen, as in an encrypted file. Pages of earlier versions that the file still holds
    count too."""
    pages = 0
    for part in _parts(content):
        for _ in _PAGE.finditer(part):
            pages += 1
            if pages > most:
                return pages
    return pages or None


def _parts(content: bytes) -> Iterator[bytes]:
    yield content
    left, at = MAX_UNPACKED_BYTES, 0
    view = memoryview(content)
    for _ in range(MAX_OBJECT_STREAMS):
        at = content.find(_OBJECT_STREAM, at) + len(_OBJECT_STREAM)
        if at < len(_OBJECT_STREAM) or left <= 0:
            return
        begin = _BEGIN.search(content, at, at + _DICTIONARY_BYTES)
        if begin is None:
            continue
        try:
            unpacked = zlib.decompressobj().decompress(view[begin.end() : begin.end() + MAX_PACKED_BYTES], left)
        except zlib.error:  # not packed, or in another way
            continue
        left -= len(unpacked)
        yield unpacked
