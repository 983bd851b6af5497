"""A server of `saesteer serve` on a free port of the loopback interface, for a context's duration."""

import contextlib
import copy
import functools
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from engine_models import shipped_model

from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae
from saesteer.run import Run
from saesteer.serve.model import Model
from saesteer.serve.scheduler import Scheduler, TextProgress, TextRequest
from saesteer.serve.server import application, server_of

get, post = (functools.partial(send, timeout=60) for send in (httpx.get, httpx.post))
"""Requests that also a busy machine answers in time."""


@dataclass(frozen=True)
class Served:
    address: str
    model: Model
    scheduler: Scheduler

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        headers = {"Content-Type": "application/json", **headers}
        return post(f"{self.address}{path}", content=json.dumps(body), headers=headers)

    def raw(self, data: bytes) -> socket.socket:
        """A connection on which these bytes have been sent."""
        connection = socket.create_connection(("127.0.0.1", int(self.address.rpartition(":")[2])), 60)
        connection.sendall(data)
        return connection

    def ended(self, texts: Sequence[TextRequest]) -> list[TextProgress]:
        """The texts, by the scheduler alone, once all have ended."""
        last, ends = [TextProgress("")] * len(texts), threading.Semaphore(0)

        def write(number: int, progress: TextProgress) -> None:
            last[number] = progress
            if progress.finish:
                ends.release()

        self.scheduler.submit(texts, write)
        for _ in texts:
            assert ends.acquire(timeout=30)
        return last


@contextlib.contextmanager
def serving(run: Run, report: Path, saes: Mapping[int, Sae], token: str | None = None, lm: LanguageModel | None = None) -> Iterator[Served]:
    """Serve a copy of a model (none: the shipped one) with SAEs by layer, and the pages of a report's folder. A scheduler edits its model
    while it writes, also for a client that has just left; a test and other servers use theirs at the same time."""
    model = Model(run, copy.deepcopy(lm or shipped_model()), saes)
    scheduler = Scheduler(model.lm, model.saes.__getitem__)
    server = server_of(application(model, scheduler, report, token))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", model, scheduler)
        finally:
            server.should_exit = True
            thread.join(timeout=20)
            scheduler.close()
            assert not thread.is_alive(), "the server does not end"
