"""Who may ask: this machine's own pages and programs, or whoever has the token.

A page of another site can make a browser send requests here (CSRF), use what is answered as a script, an image or a frame, or give its own
name this machine's address (DNS rebinding). So requests have to come from a page of this server, from no page, or by a link that is
followed. Those that compute have to be JSON. Without a token the Host has to be this machine's own; a server that other machines reach
wants a token, which a page under another name does not have. Every answer says that no other origin may use or frame it, as browsers say
whose page asks (Sec-Fetch-Site) only where the connection is encrypted or stays on the machine.
"""

from __future__ import annotations

import hmac
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST_BODY = 256 * 1024
_TO_THE_PAGE = "<!doctype html><script>location.replace(location.pathname + location.hash)</script>"
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_OF_EVERY_ANSWER = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def refused(status: int, message: str, kind: str = "invalid_request_error") -> Response:
    """A refusal in OpenAI's form."""
    return JSONResponse(error_of(message, kind), status)


def error_of(message: str, kind: str) -> dict[str, dict[str, str]]:
    """What is wrong, in OpenAI's form."""
    return {"error": {"message": message, "type": kind}}


def guarded(app: ASGIApp, token: str | None) -> ASGIApp:
    """The application, asked only what is to be answered. Around everything, so that its headers are on failures too."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_OF_EVERY_ANSWER)
            await send(message)

        headers = Headers(scope=scope)
        refusal = _refusal(scope, headers, is_local=token is None)
        if refusal is None and token is not None and not _has_token(headers, token):
            refusal = _without_token(scope, token)
        return await (refusal or app)(scope, receive, send_guarded)

    return answer


def _refusal(scope: Scope, headers: Headers, is_local: bool) -> Response | None:
    host = headers.get("host", "")
    if is_local and re.sub(r":\d*$", "", host.lower()) not in _LOOPBACK_NAMES:
        return refused(421, f"this server is not {host!r}")
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return refused(403, "a page of another site asks: refused")
    is_get = scope["method"] in ("GET", "HEAD")
    is_link = is_get and (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_link:
        return refused(403, "a page of another site asks: refused")
    if is_get:
        return None
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return refused(415, "send application/json")
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or not length.isdecimal() or int(length) > LARGEST_BODY:  # chunks go before the length
        return refused(413, f"send at most {LARGEST_BODY} bytes, with their Content-Length")
    return None


def _without_token(scope: Scope, token: str) -> Response | None:
    """What answers a request without the token, or with it in its address, from where it goes to a cookie."""
    given = dict(pair.partition("=")[::2] for pair in scope["query_string"].decode("latin-1").split("&")).get("token", "")
    if not hmac.compare_digest(given.encode(), token.encode()):
        return refused(401, "this server wants its token: open the address that it printed, or send it as Authorization: Bearer")
    if scope["method"] != "GET":
        return None
    answer = HTMLResponse(_TO_THE_PAGE)
    answer.set_cookie(_cookie(Headers(scope=scope)), token, httponly=True, samesite="strict")
    return answer


def _cookie(headers: Headers) -> str:
    """Its name has the port: browsers send a cookie to every port of a host."""
    port = headers.get("host", "").rpartition(":")[2]
    return f"saesteer_token_{''.join(filter(str.isdecimal, port))}"


def _has_token(headers: Headers, token: str) -> bool:
    """Whether the token is in Authorization or in the cookie."""
    kind, _, bearer = headers.get("authorization", "").partition(" ")
    cookies = dict(pair.strip().partition("=")[::2] for pair in headers.get("cookie", "").split(";"))
    given = bearer if kind.lower() == "bearer" else cookies.get(_cookie(headers), "")
    return hmac.compare_digest(given.encode(), token.encode())
