"""How long recordings are and how many pages documents have, and that no file takes long to be looked at."""

from __future__ import annotations

import io
import wave
import zlib
from pathlib import Path

import pytest

import app.sandbox
from app.adapters.recordings import recording_seconds
from app.domain.extent import MAX_UNPACKED_BYTES, adts_seconds, is_large_picture, ogg_seconds, pdf_pages

FILES = Path(app.sandbox.__file__).parent / "files"
MP3_FRAME = b"\xff\xfb\x90\x00" + bytes(413)
"""128 kbit/s at 44.1 kHz: 1,152 samples."""


def adts(length: int) -> bytes:
    """A frame of 1,024 samples at 44.1 kHz, with `length` bytes."""
    sizes = [0x80 | length >> 11 & 3, length >> 3 & 255, (length & 7) << 5 | 0x1F]
    return bytes([0xFF, 0xF1, 0x50, *sizes, 0xFC]) + bytes(length - 7)


def box(name: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + name + content


def mp4(brand: bytes, seconds: int) -> bytes:
    header = bytes(12) + (1000).to_bytes(4, "big") + (1000 * seconds).to_bytes(4, "big") + bytes(80)
    return box(b"ftyp", brand + b"\0\0\2\0isom") + box(b"mdat", bytes(1000)) + box(b"moov", box(b"mvhd", header))


def wav(seconds: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes(bytes(16_000 * seconds))
    return file.getvalue()


def test_the_length_of_a_voice_note_is_read_from_its_last_page() -> None:
    seconds = ogg_seconds((FILES / "vegan.ogg").read_bytes())
    assert seconds is not None
    assert 1 < seconds < 4
    assert ogg_seconds(b"") is None
    assert ogg_seconds(b"OggS") is None
    assert ogg_seconds(b"OggS\0\0" + (-1).to_bytes(8, "little", signed=True)) is None


@pytest.mark.parametrize(
    ("mime", "content", "seconds"),
    [
        ("audio/mpeg", MP3_FRAME * 1000, 1152 * 1000 / 44_100),
        ("audio/aac", adts(200) * 1000, 1024 * 1000 / 44_100),
        ("audio/wav", wav(3), 3),
        ("video/mp4", mp4(b"isom", 42), 42),
        ("video/3gpp", mp4(b"3gp4", 7), 7),
        ("audio/mp4", mp4(b"M4A ", 9), 9),
        ("audio/amr", b"#!AMR\n" + bytes(100), None),
        ("audio/mpeg", b"", None),
        ("audio/aac", b"no frame", None),
        ("video/mp4", mp4(b"isom", 42)[:40], None),
    ],
    ids=["mp3", "aac", "wav", "mp4", "3gp", "m4a", "amr", "empty", "no aac", "cut off"],
)
def test_a_recording_tells_how_long_it_is(mime: str, content: bytes, seconds: float | None) -> None:
    found = recording_seconds(content, mime, most=600)
    assert found == (pytest.approx(seconds, abs=0.05) if seconds is not None else None)


def test_aac_is_counted_no_further_than_is_asked_for() -> None:
    found = adts_seconds(adts(7) * 10_000, most=60)
    assert found is not None
    assert 60 < found < 61
    assert adts_seconds(adts(200) + b"not a frame" * 5, most=60) == pytest.approx(1024 / 44_100)


@pytest.mark.timeout(30)  # each is read for ever, or for minutes, by what looks at every byte
@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfb" * 6_000_000,
        MP3_FRAME + b"\xff" * 12_000_000,
        box(b"ftyp", b"isom\0\0\2\0isom") + box(b"free", b"") * 1_400_000,
        b"fLaC" + b"\1\0\0\0" * 3_000_000,
    ],
    ids=["no frames", "one frame", "empty boxes", "empty blocks"],
)
def test_a_file_that_is_made_to_be_searched_for_long_tells_nothing(content: bytes) -> None:
    assert recording_seconds(content, "audio/mpeg", most=600) is None


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big")


def jpeg(width: int, height: int, *, before: int = 0) -> bytes:
    preview = b"\xff\xe1" + (before + 2).to_bytes(2, "big") + bytes(before)
    return b"\xff\xd8" + preview + b"\xff\xc2\0\x11\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\3"


def webp(chunk: bytes, content: bytes) -> bytes:
    return b"RIFF\0\0\0\0WEBP" + chunk + bytes(4) + content


@pytest.mark.parametrize(
    ("head", "is_large"),
    [
        ((FILES / "strawberry-cake.jpg").read_bytes(), False),
        (png(4000, 3000), False), (png(30_000, 30_000), True),
        (jpeg(8000, 6000), False), (jpeg(30_000, 30_000), True), (jpeg(4000, 3000, before=65_000), False),
        (webp(b"VP8X", bytes(4) + (511).to_bytes(3, "little") * 2), False),
        (webp(b"VP8X", bytes(4) + (16_000).to_bytes(3, "little") * 2), True),
        (webp(b"VP8L", b"\x2f" + (511 | 511 << 14).to_bytes(4, "little") + bytes(9)), False),
        (webp(b"VP8 ", bytes(6) + (512).to_bytes(2, "little") * 2 + bytes(4)), False),
        (webp(b"????", bytes(20)), True), (b"\xff\xd8\xff\xe1\xff\xff", True), (b"no picture", True), (b"", True),
    ],
    ids=["a photo", "png", "huge png", "jpeg", "huge jpeg", "jpeg behind a preview", "webp", "huge webp",
         "webp without loss", "webp with loss", "unknown webp", "jpeg without a size", "none", "empty"],
)  # fmt: skip
def test_a_picture_tells_whether_a_browser_can_bear_it(head: bytes, is_large: bool) -> None:
    assert is_large_picture(head) is is_large


def object_stream(content: bytes) -> bytes:
    return b"7 0 obj<</Type/ObjStm/N 9/Filter/FlateDecode>>stream\r\n" + zlib.compress(content, 9) + b"\nendstream\n"


def test_pages_are_counted_also_where_they_are_packed() -> None:
    page, others = b"<</Type /Page/Parent 1 0 R>>", b"<</Type/Pages/Count 99>><</Type/PageLabel>>"
    assert pdf_pages((FILES / "order.pdf").read_bytes(), most=10) == 1
    assert pdf_pages(b"%PDF-1.4" + page * 3 + others, most=10) == 3
    assert pdf_pages(b"%PDF-1.5" + page + object_stream(page * 5 + others) + object_stream(page), most=10) == 7
    assert pdf_pages(b"%PDF-1.4" + page * 500, most=10) == 11, "no more than is asked for"
    assert pdf_pages(b"%PDF-1.7 encrypted", most=10) is None
    assert pdf_pages(b"%PDF-1.5<</Type/ObjStm>>stream\nnot packed", most=10) is None


@pytest.mark.timeout(30)
def test_a_pdf_that_unpacks_to_gigabytes_is_unpacked_no_further_than_its_share() -> None:
    bomb = b"%PDF-1.5" + object_stream(bytes(30_000_000)) * 100
    assert len(bomb) < 12_000_000
    assert pdf_pages(bomb, most=10) is None
    assert MAX_UNPACKED_BYTES < 30_000_000
