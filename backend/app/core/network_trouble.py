"""Why a connection did not come about, in words for the operator. Pure: reads exceptions, connects nothing."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MAX_CAUSES = 50


_THROUGH = "through the proxy of "


class Cause(NamedTuple):
    """What happened, and what to do about it. `setting`: the one to look at, if it is another than the dependency's."""

    said: str
    mend: str
    setting: str = ""

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


def went_through_proxy(exc: BaseException, setting: str) -> None:
    """Note on an error of an exchange that the proxy named by `setting` was in between."""
    exc.add_note(_THROUGH + setting)


def network_cause(exc: BaseException) -> Cause | None:
    """What the operating system, TLS or HTTP says; `None` if none says anything. TLS comes first, silence last.

    Where a proxy is in between, what fails without TLS is told of the proxy: it is the proxy that we connect to.
    """
    found = list(causes(exc))
    for each in found:
        if isinstance(each, ssl.SSLCertVerificationError):
            return _certificate(each)
        if isinstance(each, ssl.SSLError):
            return _tls(each)
    cause = _without_tls(found)
    notes = (note for each in found for note in getattr(each, "__notes__", ()))
    setting = next((note.removeprefix(_THROUGH) for note in notes if note.startswith(_THROUGH)), "")
    if cause is None or not setting:
        return cause
    return Cause(f"through the proxy: {cause.said}", cause.mend, setting)


def _without_tls(found: Sequence[BaseException]) -> Cause | None:
    """By the names of httpx's errors: only the HTTP modules know their types."""
    for each in found:
        if type(each).__name__ == "ProxyError":
            return proxy_refusal(str(each)[:3])
    for each in found:
        if cause := _of_the_system(each):
            return cause
    if any(type(each).__name__ == "RemoteProtocolError" for each in found):
        return Cause("what answers there speaks no HTTP, or closes at once", "correct host and port; is it https://?")
    if any(isinstance(each, TimeoutError) for each in found):
        return Cause("no answer in time", "is it overloaded or frozen, or does a firewall drop what we send?")
    return None


def proxy_refusal(status: str) -> Cause:
    """`status`: of its answer, three digits."""
    if status == "407":
        return Cause("it wants a user and a password, or others", "write http://user:password@host:port")
    return Cause(f"it refuses the way there (HTTP {status})", "allow it there, or name the host in NO_PROXY")


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
