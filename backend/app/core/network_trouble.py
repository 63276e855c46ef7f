"""Why a connection did not come about, in words for the operator. Pure: reads exceptions, connects nothing."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

MAX_CAUSES = 50


class Cause(NamedTuple):
    """What happened, and what to do about it."""

    said: str
    mend: str

    def __str__(self) -> str:
        return f"{self.said}; {self.mend}"


def causes(exc: BaseException) -> Iterator[BaseException]:
    """`exc` and what led to it, each once, groups included, `MAX_CAUSES` at most."""
    waiting, seen = [exc], set[int]()
    while waiting and len(seen) < MAX_CAUSES:
        at = waiting.pop(0)
        if id(at) in seen:
            continue
        seen.add(id(at))
        yield at
        if isinstance(at, BaseExceptionGroup):
            waiting += at.exceptions
        waiting += [before for before in (at.__cause__, at.__context__) if before is not None]


def network_cause(exc: BaseException) -> Cause | None:
    """What the operating system or TLS says; `None` if neither says anything. TLS comes first, silence last."""
    found = list(causes(exc))
    for each in found:
        if isinstance(each, ssl.SSLCertVerificationError):
            return _certificate(each)
        if isinstance(each, ssl.SSLError):
            return _tls(each)
    for each in found:
        if cause := _of_the_system(each):
            return cause
    if any(isinstance(each, TimeoutError) for each in found):
        return Cause("no answer in time", "is it overloaded or frozen, or does a firewall drop what we send?")
    return None


def _certificate(exc: ssl.SSLCertVerificationError) -> Cause:
    why = exc.verify_message or str(exc)
    if "mismatch" in why or "not valid for" in why:
        return Cause(f"its certificate is for another name ({why})", "use the name that stands in the certificate")
    if "expired" in why or "not yet valid" in why:
        return Cause(f"its certificate does not count now ({why})", "renew it, and check the clocks")
    return Cause(f"its certificate is signed by an unknown CA ({why})", "name the CA's certificate")


def _tls(exc: ssl.SSLError) -> Cause:
    reason = exc.reason or str(exc)
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}:
        return Cause("the port does not speak TLS", "use the port for TLS, or the address without it")
    return Cause(f"TLS failed ({reason})", "compare versions and certificates on both sides")


def _of_the_system(exc: BaseException) -> Cause | None:
    match exc:
        case socket.gaierror():
            return Cause("the host name is unknown", "correct the name, or the name server of this machine")
        case ConnectionRefusedError():
            return Cause("connection refused", "nothing listens there: start it, or correct host and port")
        case ConnectionResetError() | BrokenPipeError():
            return Cause("it closed the connection", "is it the right port, and does it want TLS?")
        case FileNotFoundError():
            return Cause("a socket or a certificate file that is named does not exist", "correct the path")
        case PermissionError():
            return Cause("this user may not open the socket or file that is named", "correct its rights")
        case OSError(errno=int() as number) if number in {101, 113}:
            return Cause("the host cannot be reached", "network, route, firewall")
    return None
