"""Access control: who may send requests, from which page, and how much. It guards every route, files included."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE, SECRET_HEADER = "purecc_token", "x-purecc-secret"
SECRET_FILE = ".secret"
SAFE_METHODS = frozenset({"GET", "HEAD"})
LARGEST_FORM = 2_000_000
"""Most bytes in a request without files."""
LARGEST_UPLOADS = {"/pictures": 101_000_000, "/audits": 2_001_000_000}
"""Most bytes sent to addresses with these endings: a picture, a LoRA."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; frame-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a page may load: only files from this server."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
ASK = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>PureCC</title>
<h1>Token</h1><p>The terminal in which the window was started shows it.</p>
<form method="get" action="/"><label>Token <input name="token" type="password" autocomplete="off" autofocus></label>
<button>Open</button></form>"""


@dataclass(frozen=True)
class Access:
    """What access depends on.

    Args:
        secret: which our pages send with every change.
        token: which lets a browser in; None: any program on this computer may come in.
        names: host names that it answers to, besides IP addresses.
    """

    secret: str
    token: str | None = None
    names: frozenset[str] = field(default_factory=lambda: frozenset({"localhost"}))

    def may_be_called(self, host: str) -> bool:
        """Whether a Host header names this computer. A stranger can make their own host name point here."""
        with suppress(ValueError):
            name = urlsplit(f"//{host}").hostname or ""
            if name in self.names:
                return True
            address = ipaddress.ip_address(name)
            return address.is_loopback or self.token is not None
        return False

    def knows(self, token: str | None) -> bool:
        """Whether this is the token."""
        return self.token is None or (token is not None and _same(token, self.token))


def access_of(root: Path, listen: bool) -> Access:
    """The keys, which survive a restart, so open pages keep working.

    Args:
        root: folder of the projects, where the keys are kept.
        listen: other computers may connect.
    """
    file = root / SECRET_FILE
    root.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        file.touch(mode=0o600, exist_ok=False)
    key = file.read_bytes()
    if len(key) < 32:
        key = secrets.token_bytes(32)
        file.write_bytes(key)
    made = {what: hmac.new(key, what.encode(), "sha256").hexdigest()[:32] for what in ("secret", "token")}
    own = socket.gethostname().lower()
    names = frozenset({"localhost", *((own, f"{own}.local") if listen else ())})
    return Access(made["secret"], made["token"] if listen else None, names)


def _same(one: str, two: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), two.encode())


class Guard:
    """ASGI middleware that lets through what `Access` allows, and puts `HEADERS` on every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        ending = "/" + scope["path"].rpartition("/")[2]
        limit = LARGEST_UPLOADS.get(ending, LARGEST_FORM)
        refusal = self._refusal(scope, headers, limit)
        sender = _with_headers(send)
        if refusal is not None:
            await refusal(scope, receive, sender)
            return
        await self.app(scope, _limited(receive, limit), sender)

    def _refusal(self, scope: Scope, headers: Headers, limit: int) -> Response | None:
        host = headers.get("host", "")
        if not self.access.may_be_called(host):
            return PlainTextResponse("This address does not belong to this computer.", 421)
        if not self.access.knows(_cookie(headers.get("cookie", ""))):
            return self._unlock(scope)
        if scope["method"] in SAFE_METHODS:
            return None
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return PlainTextResponse("This request does not come from the window.", 403)
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return PlainTextResponse("This request does not come from the window.", 403)
        if not _same(headers.get(SECRET_HEADER, ""), self.access.secret):
            return PlainTextResponse("This page is out of date. Reload it.", 403)
        if _length(headers.get("content-length")) > limit:
            return PlainTextResponse(f"That is larger than {limit // 1_000_000} MB.", 413)
        return None

    def _unlock(self, scope: Scope) -> Response:
        """Moves the token from the address into a cookie; asks for the token if there is none."""
        given = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
        token = next((value for name, value in given if name == "token"), None)
        if scope["method"] != "GET" or token is None or not self.access.knows(token.strip()):
            return HTMLResponse(ASK, 401)
        rest = urlencode([(name, value) for name, value in given if name != "token"])
        path = "/" + scope["path"].lstrip("/")  # "//elsewhere" would lead to another site
        answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
        answer.set_cookie(COOKIE, token.strip(), max_age=30 * 24 * 3600, httponly=True, samesite="strict", path="/")
        return answer


def _cookie(header: str) -> str | None:
    with suppress(CookieError):
        found = SimpleCookie(header).get(COOKIE)
        return None if found is None else found.value
    return None


def _length(given: str | None) -> int:
    return int(given) if given and given.isdecimal() else 0


def _limited(receive: Receive, limit: int) -> Receive:
    """The body. The connection ends if it is longer than allowed, whatever its header says."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        return {"type": "http.disconnect"} if size > limit else message

    return counted


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sender


def addresses(port: int, listen: bool, token: str | None) -> Iterable[str]:
    """Addresses at which the window opens."""
    with_token = f"?token={token}" if token else ""
    yield f"http://127.0.0.1:{port}/{with_token}"
    if listen:
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks for the route
            yield f"http://{probe.getsockname()[0]}:{port}/{with_token}"
