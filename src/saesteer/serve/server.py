"""The server: the report's pages, texts as they grow, and completions in OpenAI's form with a `steering` field.

The pages' data go out as JSON for `fetch`: a page of another site could run them as scripts.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import secrets
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from pydantic import BaseModel, ValidationError
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from saesteer.core.errors import SaesteerError, SettingsError
from saesteer.core.files import confined
from saesteer.run import Run
from saesteer.serve.guard import LOOPBACK, error_of, guarded, refused
from saesteer.serve.model import Model
from saesteer.serve.requests import ChatRequest, CompletionRequest, FeatureRequest, OpenAiRequest, SteerRequest
from saesteer.serve.scheduler import Busy, ClientTexts, Scheduler, TextProgress, TextRequest
from saesteer.site.folder import ASSETS, write_report
from saesteer.site.pieces import read_piece

SECONDS_TO_END = 3
"""How long requests may go on once the server is told to end."""
_EVERY_ADDRESS = ("", "0.0.0.0", "::")

Params = TypeVar("Params", bound=BaseModel)
Written = AsyncIterator[tuple[int, TextProgress]]
"""What there is of each text (by number) after each of its tokens, until all have ended."""
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def serve(run: Run, host: str, port: int, say: Callable[[str], object]) -> None:
    """Serve until interrupted. Another host than this machine's wants a token, which is part of the address that is printed."""
    if not run.experiment.layers:
        raise SettingsError(f"{run.name} has no layers")
    with _listening(host, port) as listener:
        page = write_report(run, run.figures / "report")
        model = Model(run, run.model(), {layer: run.sae(layer) for layer in run.layers})
        token = None if host in LOOPBACK else secrets.token_urlsafe(24)
        scheduler = Scheduler(model.lm, model.saes.__getitem__)
        address = address_of(host, listener.getsockname()[1])
        try:
            server = server_of(application(model, scheduler, page.parent, token))
            say(f"steering {model.name}: {address}{f'?token={token}' if token else ''}#/steer (Ctrl-C ends it)")
            with contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[listener])
        finally:
            scheduler.close()


def server_of(app: ASGIApp) -> uvicorn.Server:
    """A server that ends soon after it is told to, whatever its clients do."""
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SECONDS_TO_END))


def address_of(host: str, port: int) -> str:
    """What a browser opens. A server that listens on every address is named as this machine is."""
    name = socket.gethostname() if host in _EVERY_ADDRESS else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"


def _listening(host: str, port: int) -> socket.socket:
    """Bound before anything is loaded."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as fault:
        raise SettingsError(
            f"cannot listen on {host}, port {port}: {str(fault.strerror).partition(' (')[0]}; name another with --host or --port"
        ) from fault


def application(model: Model, scheduler: Scheduler, report: Path, token: str | None) -> ASGIApp:
    """The ASGI application; `report` is the folder of the report's pages."""
    endpoints = Endpoints(model, scheduler)
    computing: dict[str, Handler] = {
        "/api/steer": endpoints.steer,
        "/api/next": endpoints.next_token,
        "/api/activations": endpoints.activations,
        "/v1/completions": endpoints.completions,
        "/v1/chat/completions": endpoints.chat,
    }
    routes = [Route(path, _while_connected(endpoint), methods=["POST"]) for path, endpoint in computing.items()]
    routes += [Route("/v1/models", endpoints.models), *page_routes(report, model.as_begun(), model.run)]
    faults: dict[Any, Any] = {
        ValidationError: _invalid,
        SaesteerError: _invalid,
        ValueError: _invalid,
        Busy: _busy,
        ClientDisconnect: _left,
    }
    return guarded(Starlette(routes=routes, exception_handlers=faults), token)


def _while_connected(endpoint: Handler) -> Handler:
    """The endpoint, which is cancelled when its client goes away before there is an answer."""

    async def answer(request: Request) -> Response:
        await request.body()  # after which nothing comes but the client's leaving
        work, leaving = asyncio.ensure_future(endpoint(request)), asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else _left(request, None)
        finally:
            work.cancel()
            leaving.cancel()

    return answer


class _Stream(EventSourceResponse):
    """An event stream of a job's texts, which end with it, however it ends."""

    def __init__(self, job: ClientTexts, events: AsyncIterator[dict[str, str]]) -> None:
        super().__init__(events)
        self.job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.job.cancel()


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
        sampling, steered = self.model.sampling(params.max_tokens, params.temperature), self.model.setting(params.steering)
        settings = [self.model.unsteered(steered), steered]
        texts = [text for one in settings for text in self.model.texts(params.prompt, one, sampling, params.samples, params.seed)]
        job, written = self._begun(texts)

        async def events() -> AsyncIterator[dict[str, str]]:
            async for number, progress in written:
                place = {"steered": number >= params.samples, "sample": number % params.samples}
                yield {"data": json.dumps(place | {"text": progress.text, "finish": progress.finish})}

        return _Stream(job, events())

    async def next_token(self, request: Request) -> Response:
        """Log-probabilities of a feature's top logit-lens tokens as the next token, unsteered and steered."""
        params = await _params(request, FeatureRequest)
        return JSONResponse(await asyncio.wrap_future(self.scheduler.run(lambda: self.model.next_log_probs(params))))

    async def activations(self, request: Request) -> Response:
        """A feature's activations at the tokens of a text."""
        params = await _params(request, FeatureRequest)
        return JSONResponse(await asyncio.wrap_future(self.scheduler.run(lambda: self.model.activations(params))))

    async def completions(self, request: Request) -> Response:
        params = await _params(request, CompletionRequest)
        texts = [text for prompt in params.prompt for text in self._texts(prompt, params)]
        return await self._completed(params, texts, "text_completion", "text_completion")

    async def chat(self, request: Request) -> Response:
        params = await _params(request, ChatRequest)
        return await self._completed(params, self._texts(params.messages, params), "chat.completion", "chat.completion.chunk")

    def _texts(self, prompt: Any, params: OpenAiRequest) -> list[TextRequest]:
        sampling = replace(self.model.sampling(params.max_tokens, params.temperature), top_k=0, stop="", top_p=params.top_p)
        texts = self.model.texts(prompt, self.model.setting(params.steering), sampling, params.n, params.seed)
        return [replace(text, stops=tuple(params.stop)) for text in texts]

    async def _completed(self, params: OpenAiRequest, texts: list[TextRequest], whole: str, part: str) -> Response:
        """An answer in OpenAI's form: whole, or as a stream of parts, by their kinds."""
        answer = {"id": f"saesteer-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.model.name}
        job, written = self._begun(texts)
        if params.stream:
            return _Stream(job, _chunks(len(texts), written, answer | {"object": part}, params.stop))
        last = [TextProgress("")] * len(texts)
        try:
            async for number, progress in written:
                last[number] = progress
        finally:
            job.cancel()
        if failed := [progress.text for progress in last if progress.finish == "error"]:
            return refused(500, failed[0], "server_error")
        choices = [_choice(whole, index, of.text, of.finish) for index, of in enumerate(last)]
        n_prompt, n_new = sum(len(text.prompt) for text in texts[:: params.n]), sum(of.n_tokens for of in last)
        usage = {"prompt_tokens": n_prompt, "completion_tokens": n_new, "total_tokens": n_prompt + n_new}
        return JSONResponse(answer | {"object": whole, "choices": choices, "usage": usage})

    def _begun(self, texts: Sequence[TextRequest]) -> tuple[ClientTexts, Written]:
        """Texts that begin to be written; Busy where there are too many."""
        loop, progressed = asyncio.get_running_loop(), asyncio.Queue[tuple[int, TextProgress]]()

        def write(number: int, progress: TextProgress) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed where the server has ended amid a text
                loop.call_soon_threadsafe(progressed.put_nowait, (number, progress))

        async def written() -> Written:
            going_on = len(texts)
            while going_on:
                number, progress = await progressed.get()
                going_on -= progress.finish is not None
                yield number, progress

        return self.scheduler.submit(texts, write), written()


async def _chunks(n: int, written: Written, answer: dict[str, Any], stops: Sequence[str]) -> AsyncIterator[dict[str, str]]:
    """What each of n texts has more than before. What may begin a stop text, or is part of a character, waits for the rest."""
    sent, begins = [""] * n, [stop[:end] for stop in stops for end in range(1, len(stop))]
    async for number, progress in written:
        if progress.finish == "error":
            yield {"data": json.dumps(error_of(progress.text, "server_error"))}
            continue
        text = progress.text if progress.finish else progress.text.rstrip("\N{REPLACEMENT CHARACTER}")
        if not progress.finish:
            text = text[: len(text) - max((len(begin) for begin in begins if text.endswith(begin)), default=0)]
        if not text.startswith(sent[number]):  # some tokenizers decode a run of bytes as a whole: a character's part undoes those before it
            text = sent[number]
        more, sent[number] = text[len(sent[number]) :], text
        yield {"data": json.dumps(answer | {"choices": [_choice(answer["object"], number, more, progress.finish)]})}
    yield {"data": "[DONE]"}


async def _params(request: Request, form: type[Params]) -> Params:
    return form.model_validate_json(await request.body())


def _choice(kind: str, index: int, text: str, finish: str | None) -> dict[str, Any]:
    """A text in the form that a kind of answer has for it."""
    message: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
    forms = {"text_completion": {"text": text}, "chat.completion": message, "chat.completion.chunk": {"delta": {"content": text}}}
    return forms[kind] | {"index": index, "finish_reason": finish}


def _invalid(request: Request, fault: Exception) -> Response:
    if not isinstance(fault, ValidationError):
        return refused(400, str(fault))
    first = fault.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")  # of a check of ours
    return refused(400, ": ".join(filter(None, [".".join(map(str, first["loc"])), message])))


def _left(request: Request, fault: ClientDisconnect | None) -> Response:
    return Response(status_code=499)  # nobody reads it


def _busy(request: Request, fault: Exception) -> Response:
    answer = refused(503, str(fault), "server_busy")
    answer.headers["Retry-After"] = "2"
    return answer


def page_routes(report: Path, as_begun: dict[str, Any], run: Run) -> list[Route]:
    """The routes of a report's folder: its data, the files that it was made from, and the page with its assets and figures."""
    page = _served_page((report / "index.html").read_text(encoding="utf-8"), as_begun)

    def data(request: Request) -> Response:
        text = read_piece(report, request.path_params["name"])
        return _absent() if text is None else Response(text, media_type="application/json")

    def file(request: Request) -> Response:
        index = read_piece(report, "index")
        tables = [] if index is None else json.loads(index)["files"]
        name = request.path_params["name"]
        is_listed = name in {listed for table in tables for listed, *_ in table["files"]}
        return _sent(confined(run.data, name.removeprefix(f"{run.name}/")) if is_listed else None, is_download=True)

    def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name in ("", "index.html"):
            return HTMLResponse(page)
        return _sent(confined(report, name) if name in ASSETS or name.startswith("figures/") else None)

    return [Route("/data/{name:path}.json", data), Route("/files/{name:path}", file), Route("/{name:path}", asset)]


def _served_page(page: str, as_begun: dict[str, Any]) -> str:
    """The report's page, allowed to ask this server and told what steering begins with."""
    served = f'<html data-served="{html.escape(json.dumps(as_begun))}"'
    return page.replace("default-src 'none';", "default-src 'none'; connect-src 'self';").replace("<html", served, 1)


def _sent(path: Path | None, is_download: bool = False) -> Response:
    if path is None or not path.is_file():
        return _absent()
    return FileResponse(path, filename=path.name if is_download else None)


def _absent() -> Response:
    return refused(404, "there is no such page or file")
