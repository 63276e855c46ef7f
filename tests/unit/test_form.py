"""A form's headers are a stranger's words: read in time proportional to their length, and never a fault of ours."""

from __future__ import annotations

import time

import pytest

from app.api.form import Part, read_form
from app.domain.errors import InvalidInput
from tests.support.patience import Within

HEAD_BYTES = 32 * 1024
"""As long as a request's head may be."""


def test_parameters_of_every_writing() -> None:
    body = (
        b'--a\r\nContent-Disposition: form-data; name="file"; filename="the \\"best\\"; cake.jpg"\r\n\r\nbytes\r\n'
        b"--a\r\nX: y\r\ncontent-disposition:form-data ; NAME=text;name=other\r\n\r\nhello\r\n"
        b'--a\r\nContent-Disposition: form-data; name="third"; filename*=UTF-8\'\'%e2%82%ac; filename="a\\b.pdf"\r\n'
        b"\r\n\r\n--a--\r\n"
    )
    for content_type in ('multipart/form-data; charset=utf-8; boundary="a"', "multipart/form-data;boundary=a"):
        assert read_form(content_type, body) == {
            "file": Part("file", 'the "best"; cake.jpg', b"bytes"),
            "text": Part("text", None, b"hello"),
            "third": Part("third", r"a\b.pdf", b""),
        }


@pytest.mark.parametrize(
    "parameters",
    ["boundary*0=a;boundary*0*=b;boundary*=c", f"boundary*{'1' * 5000}=x", 'boundary="a', "boundary=\xff", "boundary"],
    ids=["numbered twice", "a long number", "open quote", "not ASCII", "no value"],
)
def test_headers_that_are_none_are_refused(parameters: str) -> None:
    with pytest.raises(InvalidInput):
        read_form(f"multipart/form-data; {parameters}", b"--a")
    part = b"--a\r\ncontent-disposition: form-data; " + parameters.encode()[:4000] + b"\r\n\r\nx\r\n--a--"
    with pytest.raises(InvalidInput):
        read_form("multipart/form-data; boundary=a", part)


@pytest.mark.parametrize("filling", [";", '\\"', "; a=", ' "', "a", " "])
@pytest.mark.parametrize("before", ['x="', "", "x=", 'x=""'])
def test_a_long_header_holds_nothing_up(before: str, filling: str, within: Within) -> None:
    content_type = f"multipart/form-data; {before}{filling * (HEAD_BYTES // len(filling))}"
    started = time.process_time()
    with pytest.raises(InvalidInput):
        read_form(content_type, b"--a")
    assert time.process_time() - started < within(0.1)
