"""The server: the report's pages, texts as they grow, and completions in OpenAI's form with a `steering` field."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from saesteer.core.errors import SaesteerError
from saesteer.serve.guard import Guard
from saesteer.serve.model import Model
from saesteer.serve.requests import ChatRequest, CompletionRequest, NextRequest, OpenAiRequest, SteerRequest
from saesteer.serve.scheduler import Busy, Progress, Scheduler, Text

Params = TypeVar("Params", bound=BaseModel)
Choice = Callable[[str], dict[str, Any]]
"""A text in the form of an answer's choice."""


def application(model: Model, scheduler: Scheduler, report: Path, hosts: Sequence[str], token: str | None) -> Starlette:
    """The ASGI application; `report` is the folder of the report's pages."""
    endpoints = Endpoints(model, scheduler)
    page = served_page((report / "index.html").read_text(encoding="utf-8"))

    async def index(request: Request) -> Response:
        return HTMLResponse(page)

    routes = [
        Route("/", index),
        Route("/api/steer", endpoints.steer, methods=["POST"]),
        Route("/api/next", endpoints.next_token, methods=["POST"]),
        Route("/v1/completions", endpoints.completions, methods=["POST"]),
        Route("/v1/chat/completions", endpoints.chat, methods=["POST"]),
        Route("/v1/models", endpoints.models),
        Mount("/", StaticFiles(directory=report, html=True)),
    ]
    faults: dict[Any, Any] = {ValidationError: _invalid, SaesteerError: _invalid, ValueError: _invalid, Busy: _busy}
    return Starlette(routes=routes, middleware=[Middleware(Guard, hosts=hosts, token=token)], exception_handlers=faults)


def served_page(page: str) -> str:
    """The report's page, allowed to ask this server and told that there is one."""
    return page.replace("default-src 'none';", "default-src 'none'; connect-src 'self';").replace("<html", '<html data-served="true"', 1)


@dataclass(frozen=True)
class Endpoints:
    """What each address answers."""

    model: Model
    scheduler: Scheduler

    async def models(self, request: Request) -> Response:
        listed = {"id": self.model.name, "object": "model", "owned_by": "saesteer", "created": 0}
        return JSONResponse({"object": "list", "data": [listed]})

    async def steer(self, request: Request) -> Response:
        """A prompt continued unsteered and steered: an event for each text and token, with all that there is of the text."""
        params = await _params(request, SteerRequest)
        sampling = self.model.sampling(params.max_tokens)
        settings = [self.model.setting(params.steering, is_unsteered) for is_unsteered in (True, False)]
        texts = [text for one in settings for text in self.model.texts(params.prompt, one, sampling, params.samples, params.seed)]

        async def events() -> AsyncIterator[dict[str, str]]:
            async for number, progress in self._written(texts):
                place = {"steered": number >= params.samples, "sample": number % params.samples}
                yield {"data": json.dumps(place | {"text": progress.text, "finish": progress.finish})}

        return self._stream(texts, events())

    async def next_token(self, request: Request) -> Response:
        """Log-probabilities of a feature's top logit-lens tokens as the next token, unsteered and steered."""
        params = await _params(request, NextRequest)
        return JSONResponse(await asyncio.to_thread(self.scheduler.run, lambda: self.model.next_log_probs(params)))

    async def completions(self, request: Request) -> Response:
        params = await _params(request, CompletionRequest)
        texts = [text for prompt in params.prompts for text in self._texts(prompt, params)]
        return await self._completed(params, texts, ("text_completion", "text_completion"), _of_text, _of_text)

    async def chat(self, request: Request) -> Response:
        params = await _params(request, ChatRequest)
        texts = self._texts(params.messages, params)
        return await self._completed(params, texts, ("chat.completion", "chat.completion.chunk"), _message, _delta)

    def _texts(self, prompt: Any, params: OpenAiRequest) -> list[Text]:
        sampling = params.sampling(self.model.sampling(None).max_new_tokens)
        return self.model.texts(prompt, self.model.setting(params.steering), sampling, params.n, params.seed)

    async def _completed(self, params: OpenAiRequest, texts: list[Text], kinds: tuple[str, str], whole: Choice, part: Choice) -> Response:
        """An answer in OpenAI's form: whole, or as a stream of parts; `kinds` are the names of both."""
        answer = {"id": f"saesteer-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.model.name}
        if params.stream:
            return self._stream(texts, self._chunks(texts, answer | {"object": kinds[1]}, part))
        last = [Progress("")] * len(texts)
        async for number, progress in self._written(texts):
            last[number] = progress
        if failed := [progress.text for progress in last if progress.finish == "error"]:
            return _refused(500, failed[0], "server_error")
        choices = [whole(of.text) | {"index": index, "finish_reason": of.finish} for index, of in enumerate(last)]
        n_prompt, n_new = sum(len(text.prompt) for text in texts), sum(of.n_tokens for of in last)
        usage = {"prompt_tokens": n_prompt, "completion_tokens": n_new, "total_tokens": n_prompt + n_new}
        return JSONResponse(answer | {"object": kinds[0], "choices": choices, "usage": usage})

    async def _chunks(self, texts: Sequence[Text], answer: dict[str, Any], part: Choice) -> AsyncIterator[dict[str, str]]:
        """What each text has more than before. The bytes of a character that is not whole yet wait for the rest."""
        sent = [""] * len(texts)
        async for number, progress in self._written(texts):
            text = progress.text if progress.finish else progress.text.rstrip("\N{REPLACEMENT CHARACTER}")
            more, sent[number] = text[len(sent[number]) :], text
            yield {"data": json.dumps(answer | {"choices": [part(more) | {"index": number, "finish_reason": progress.finish}]})}
        yield {"data": "[DONE]"}

    def _stream(self, texts: Sequence[Text], events: AsyncIterator[dict[str, str]]) -> Response:
        """An event stream. Where too many texts wait it is refused here, for once it has begun no status can be sent."""
        self.scheduler.check_room(len(texts))
        return EventSourceResponse(events, headers={"Cache-Control": "no-store"})

    async def _written(self, texts: Sequence[Text]) -> AsyncIterator[tuple[int, Progress]]:
        """What there is of each text (by number) after each of its tokens, until all have ended. A client that goes away ends its texts."""
        loop, progressed = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Progress]]()

        def write(number: int, progress: Progress) -> None:
            loop.call_soon_threadsafe(progressed.put_nowait, (number, progress))

        job, going_on = self.scheduler.submit(texts, write), len(texts)
        try:
            while going_on:
                number, progress = await progressed.get()
                going_on -= progress.finish is not None
                yield number, progress
        finally:
            job.cancel()


async def _params(request: Request, form: type[Params]) -> Params:
    return form.model_validate_json(await request.body())


def _of_text(text: str) -> dict[str, Any]:
    return {"text": text}


def _message(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


def _delta(text: str) -> dict[str, Any]:
    return {"delta": {"role": "assistant", "content": text}}


def _invalid(request: Request, fault: Exception) -> Response:
    if not isinstance(fault, ValidationError):
        return _refused(400, str(fault))
    first = fault.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")  # of a check of ours
    return _refused(400, ": ".join(filter(None, [".".join(map(str, first["loc"])), message])))


def _busy(request: Request, fault: Exception) -> Response:
    answer = _refused(503, str(fault), "server_busy")
    answer.headers["Retry-After"] = "2"
    return answer


def _refused(status: int, message: str, kind: str = "invalid_request_error") -> Response:
    return JSONResponse({"error": {"message": message, "type": kind}}, status)
