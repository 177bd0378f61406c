"""Requests of browsers: read, checked, answered; no sockets in here."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Refused", "Request", "check_request", "parse_request_head", "response"]

#: Longest head of a request (bytes).
MAX_HEAD_BYTES = 8192

_REASONS = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    413: "Content Too Large", 426: "Upgrade Required", 431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}  # fmt: skip

#: Nothing but our own files may be loaded or connected to, and no other site may embed or read the page.
_SAFETY = (
    ("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
     "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)  # fmt: skip


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """A request that is answered with an error."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


@dataclass(frozen=True, kw_only=True)
class Request:
    """Method, path and headers (lower-case names) of a request."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def is_websocket(self) -> bool:
        return self.headers.get("upgrade", "").lower() == "websocket"


def parse_request_head(head: bytes) -> Request:
    """Read the head of a request; raises Refused."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        raise Refused(400, "expected an HTTP/1.1 request")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        if not line:
            continue
        name, colon, value = line.partition(":")
        key = name.lower()
        if not colon or not name or name != name.strip() or (key in headers and key in ("host", "origin")):
            raise Refused(400, "malformed or repeated header")
        headers[key] = value.strip()
    return Request(method=words[0], path=words[1].partition("?")[0], headers=headers)


def check_request(request: Request, host: str) -> None:
    """Refuse what a page of ours would never ask for; ``host`` is where the server listens.

    A web site that a browser has open may send requests to this machine. Those have another ``Origin``. A site
    whose name was made to point here (DNS rebinding) has its own name in ``Host``, never a number.

    Raises
    ------
    Refused
    """
    headers = request.headers
    if request.method not in ("GET", "HEAD"):
        raise Refused(405, "only GET is answered")
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise Refused(413, "requests have no body here")
    asked = headers.get("host", "")
    if not _is_ours(asked, host):
        raise Refused(403, "this host name is not served here: open the address that was printed")
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{asked}":
        raise Refused(403, "requests of other sites are refused")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        navigates = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if not navigates or request.is_websocket:  # following a link to the page is fine
            raise Refused(403, "requests of other sites are refused")
    if request.is_websocket:
        if origin is None:
            raise Refused(403, "a page tells its origin")
        if headers.get("sec-websocket-version") != "13" or not headers.get("sec-websocket-key"):
            raise Refused(426, "expected WebSocket version 13")


def _is_ours(asked: str, host: str) -> bool:
    try:
        name = (urlsplit(f"//{asked}").hostname or "").lower()
    except ValueError:
        return False
    if is_loopback(host):
        return is_loopback(name)
    if name in (host.lower(), "localhost", socket.gethostname().lower(), socket.getfqdn().lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def response(status: int, body: bytes, content_type: str = "text/plain; charset=utf-8", *, head: bool = False) -> bytes:
    """Make a whole answer, after which the connection closes."""
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in _SAFETY),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if head else body)
