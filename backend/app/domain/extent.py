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

MAX_SHOWN_PIXELS = 50_000_000
"""Of a picture in a page: a browser takes 4 bytes for each. Phones' cameras have up to 50 million, most pictures in
WhatsApp 2 million."""
HEAD_BYTES = 262_144
"""The size of a picture stands within these, also behind a large preview."""

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


def is_large_picture(head: bytes) -> bool:
    """Would a browser take hundreds of megabytes to show this picture? `head`: its first `HEAD_BYTES`. True for what
    does not tell its size: a few kilobytes may become gigabytes."""
    size = _picture_size(head)
    return size is None or size[0] * size[1] > MAX_SHOWN_PIXELS


def _picture_size(head: bytes) -> tuple[int, int] | None:
    """Width and height as a PNG (W3C, IHDR), a JPEG (ITU T.81, B.2.2) or a WebP (RFC 9649) says them."""
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) >= 24:
        return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP" and len(head) >= 30:
        return _webp_size(head)
    return _jpeg_size(head) if head.startswith(b"\xff\xd8") else None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    match head[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        case b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            sides = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
            return sides[0] & 0x3FFF, sides[1] & 0x3FFF
    return None


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xFF:  # fill bytes
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(head[at + 7 : at + 9], "big"), int.from_bytes(head[at + 5 : at + 7], "big")
        else:
            at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None
