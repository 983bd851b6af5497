"""Calls of an OpenAI-compatible endpoint: who may call, what is tried again and when, and what no message may hold.

The key comes from the environment and goes into one header. It is cut out of everything that the endpoint sends before anything else
sees it, so neither an error's text nor an answer can carry it on.
"""

import asyncio
import email.utils
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

from saesteer.judge.answers import JudgeError
from saesteer.settings import EndpointJudge

LONGEST_RETRY_AFTER = 600.0
"""Seconds that a Retry-After is followed for, at most."""

SECRET_FROM = 8
"""Keys shorter than this ("none", "EMPTY": servers that need none) are no secrets, and cutting them out would maim answers."""

_AGAIN = (408, 409, 425, 429)
_GATEWAY = (502, 504)  # what stands behind the gateway may have answered, and charged
_Read = TypeVar("_Read")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How often a call is tried, and how long the waits between are (seconds): they double from the first to the longest."""

    tries: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0


class NotThere(JudgeError):
    """The endpoint knows no such address (404, 405, 501)."""


class _Fault(Exception):
    """A call that may succeed when it is tried again."""

    def __init__(self, what: str, retry_after: float | None = None, maybe_charged: bool = False) -> None:
        super().__init__(what)
        self.retry_after = retry_after
        self.maybe_charged = maybe_charged


@dataclass(frozen=True)
class _Request:
    """One call, ready to be sent once more."""

    client: httpx.AsyncClient
    method: str
    path: str
    content: Mapping[str, Any]
    seconds: float

    async def send(self) -> httpx.Response:
        """The response; TimeoutError after `seconds` in all, also when bytes keep dripping in."""
        async with asyncio.timeout(self.seconds):
            return await self.client.request(self.method, self.path, timeout=self.seconds, **self.content)


@dataclass(frozen=True)
class Endpoint:
    """Where the judge is and how it is called."""

    settings: EndpointJudge
    key: str | None = field(repr=False)
    patience: Patience = Patience()

    def client(self) -> httpx.AsyncClient:
        """A client for one event loop. Redirects are not followed: the key goes nowhere else."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.AsyncClient(base_url=self.settings.base_url, headers=headers)

    async def call(
        self,
        client: httpx.AsyncClient,
        method: str,
        path: str,
        read: Callable[[str], _Read],
        on_lost: Callable[[], None] = lambda: None,
        seconds: float | None = None,
        **content: Any,
    ) -> _Read:
        """What `read` makes of the response's text. Tried again on 429, 5xx, time-outs, cut connections and text that `read` refuses.

        `on_lost` is called for every try that may have been charged though it brought nothing; it may raise to stop. `seconds` is the
        longest wait where it is not the configuration's.
        """
        tries = AsyncRetrying(
            stop=stop_after_attempt(self.patience.tries),
            wait=self._wait,
            retry=retry_if_exception_type(_Fault),
            before_sleep=_log_fault,
            reraise=True,
        )
        try:
            async for attempt in tries:
                with attempt:
                    return await self._once(
                        _Request(client, method, path, content, seconds or self.settings.timeout_seconds), read, on_lost
                    )
        except _Fault as fault:
            raise JudgeError(
                f"{self.settings.base_url}: {fault}, also after {self.patience.tries} tries; all answers so far are kept: run again later"
            ) from None
        raise AssertionError("unreachable: the last try returns or raises")

    async def _once(self, request: "_Request", read: Callable[[str], _Read], on_lost: Callable[[], None]) -> _Read:
        try:
            return await self._answered(request, read)
        except _Fault as fault:
            if fault.maybe_charged:
                on_lost()
            raise

    async def _answered(self, request: "_Request", read: Callable[[str], _Read]) -> _Read:
        try:
            response = await request.send()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            raise _Fault(f"no connection ({type(error).__name__}: {self._clean(str(error))})") from None
        except (TimeoutError, httpx.TimeoutException):
            raise _Fault(f"no answer within {request.seconds:g} s", maybe_charged=True) from None
        except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.DecodingError) as error:
            raise _Fault(f"the connection broke off ({type(error).__name__})", maybe_charged=True) from None
        text = self._clean(response.text)
        self._refuse(response, text)
        try:
            return read(text)
        except (ValueError, KeyError, TypeError, IndexError):
            raise _Fault(f"an answer that is no chat completion's JSON: {_excerpt(text)}", maybe_charged=True) from None

    def _refuse(self, response: httpx.Response, text: str) -> None:
        """Raise what fits an unsuccessful status."""
        status, where = response.status_code, f"{self.settings.base_url}: status {response.status_code}"
        if status in (401, 403):
            raise JudgeError(f"{where}: {self._key_advice()}")  # never the text: some endpoints quote the key in it
        if status in _AGAIN or (status >= 500 and status != 501):
            told = _retry_after(response.headers.get("Retry-After"))
            raise _Fault(f"status {status}: {_excerpt(text)}", told, maybe_charged=status in _GATEWAY)
        if status in (404, 405, 501):
            raise NotThere(f"{where}: {_excerpt(text)}; check judge.base_url (the address up to /v1) and judge.model")
        if not response.is_success:
            raise JudgeError(f"{where}: {_excerpt(text)}; the endpoint does not take such requests, check the judge's settings")

    def _key_advice(self) -> str:
        name = self.settings.key_variable
        if name is None:
            return "the endpoint wants a key: name the environment variable that holds it in judge.key_variable"
        return f"the endpoint does not accept the key in the environment variable {name}, or the key may not use {self.settings.model}"

    def _clean(self, text: str) -> str:
        """What the endpoint sent, without the key."""
        if not self.key or len(self.key) < SECRET_FROM:
            return text
        return text.replace(self.key, "[key]").replace(self.key.replace("/", "\\/"), "[key]")  # JSON may escape the slash

    def _wait(self, state: RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome else None
        first, longest = self.patience.first_wait, self.patience.longest_wait
        backoff = (wait_exponential(multiplier=first, max=longest) + wait_random(0, first))(state)
        told = fault.retry_after if isinstance(fault, _Fault) else None
        return backoff if told is None else min(max(told, 0.0), LONGEST_RETRY_AFTER)


def check_key(settings: EndpointJudge, environ: Mapping[str, str]) -> str | None:
    """The key, or the one error to show before anything starts: it is missing or cannot be a key. Never shows its value."""
    parts = urlsplit(settings.base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise JudgeError("judge.base_url is no address: write it up to /v1, e.g. http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise JudgeError("judge.base_url holds a name, a password or a query: take them out, keys come from the environment only")
    if settings.key_variable is None:
        return None
    key = environ.get(settings.key_variable, "").strip()
    if not key:
        raise JudgeError(
            f"the judge {settings.model} needs a key: set the environment variable {settings.key_variable}, or name another in"
            " judge.key_variable (null: the endpoint needs none)"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise JudgeError(f"the environment variable {settings.key_variable} holds what cannot be a key: spaces or special characters")
    return key


def read_json(text: str) -> dict[str, Any]:
    """A JSON object, or ValueError."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    return values


def _retry_after(told: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None when there is none that can be understood."""
    if told is None:
        return None
    try:
        return float(told)
    except ValueError:
        pass
    try:
        return email.utils.parsedate_to_datetime(told).timestamp() - time.time()
    except ValueError:
        return None


def _log_fault(state: RetryCallState) -> None:
    fault = state.outcome.exception() if state.outcome else None
    log.info("judge: %s; try %d, waiting %.1f s", fault, state.attempt_number, state.upcoming_sleep)


def _excerpt(text: str) -> str:
    return repr(text[:200]) if text.strip() else "no text"
