"""Who may ask: this machine's own pages and programs, or whoever has the token.

A page of another site can make a browser send requests here (CSRF), or give its own name this machine's address (DNS rebinding). So the
Host has to be one that the server was started for, requests that compute have to be JSON from a page of this server or from no page, and a
server that other machines reach wants a token.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST_BODY = 256 * 1024
COOKIE = "saesteer_token"


class Guard:
    """ASGI middleware that refuses what is not to be answered."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str], token: str | None) -> None:
        self.app, self.hosts, self.token = app, {*hosts}, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None and self.token and not self._has_token(headers):
            given = dict(pair.partition("=")[::2] for pair in scope["query_string"].decode("latin-1").split("&")).get("token", "")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                refusal = 401, "this server wants its token: open the address that it printed, or send it as Authorization: Bearer"
            elif scope["method"] == "GET":
                answer = RedirectResponse(scope["path"])
                answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
                return await answer(scope, receive, send)
        if refusal is not None:
            status, message = refusal
            return await JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status)(scope, receive, send)
        await self.app(scope, receive, send)
        return None

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if host not in self.hosts:
            return 421, f"this server is not {host!r}"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return 403, "a page of another site asks: refused"
        if scope["method"] in ("GET", "HEAD"):
            return None
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "send application/json"
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers or not length.isdecimal() or int(length) > LARGEST_BODY:  # chunks go before the length
            return 413, f"send at most {LARGEST_BODY} bytes, with their Content-Length"
        return None

    def _has_token(self, headers: Headers) -> bool:
        """Whether the token is in Authorization or in the cookie."""
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        cookies = dict(pair.strip().partition("=")[::2] for pair in headers.get("cookie", "").split(";"))
        given = bearer if kind.lower() == "bearer" else cookies.get(COOKIE, "")
        return hmac.compare_digest(given.encode(), str(self.token).encode())
