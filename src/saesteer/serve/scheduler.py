"""Texts for many clients at once.

One thread owns the model. Waiting texts that can share a forward (one layer, kind of steering, length of prompt and sampling) are continued
as a batch. Batches take turns, one token each, so a new text's first token does not wait for the last token of another. A text's tokens
come from its own stream of random numbers and do not depend on the company (engine.generate).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import polars as pl

from saesteer.core.errors import SaesteerError
from saesteer.engine.continuation import Sampling
from saesteer.engine.finite import fault
from saesteer.engine.generate import Growing, steered_texts_by_token
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae
from saesteer.engine.steering import Intervention

MOST_ROWS = 64
"""Texts of a batch."""
MOST_TEXTS = 512
"""Texts that wait or are being written, with the other calls that wait: a new text's first token comes after one of each at most."""

log = logging.getLogger("saesteer")
Result = TypeVar("Result")


class Busy(SaesteerError, RuntimeError):
    """Too many texts wait already."""


@dataclass(frozen=True)
class TextRequest:
    """A text to be written."""

    layer: int
    intervention: Intervention
    factor: str
    """A decimal."""
    stream: int
    """What its random numbers are drawn from (core.counter_rng.streams)."""
    prompt: tuple[int, ...]
    """Token ids."""
    sampling: Sampling
    stops: tuple[str, ...] = ()
    """It ends before the first of these."""

    @property
    def shape(self) -> object:
        """What texts of one batch have in common."""
        return self.layer, len(self.prompt), self.sampling, self.intervention.kind_of_batch


@dataclass(frozen=True)
class TextProgress:
    """A text as far as it is written."""

    text: str
    n_tokens: int = 0
    finish: str | None = None
    """Why it ended: stop, length or error; None: it goes on."""


Write = Callable[[int, TextProgress], None]
"""(number of the text in its job, what there is of it); called in the scheduler's thread."""


@dataclass
class ClientTexts:
    """Texts of one client."""

    texts: Sequence[TextRequest]
    write: Write
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Stop the job: its rows end with the next token."""
        self.is_cancelled = True


class Scheduler:
    """The thread that owns the model."""

    def __init__(self, lm: LanguageModel, sae: Callable[[int], Sae]) -> None:
        self._lm, self._sae = lm, sae
        self._waiting: list[tuple[ClientTexts, int]] = []
        self._active: deque[_Batch] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._condition = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    def submit(self, texts: Sequence[TextRequest], write: Write) -> ClientTexts:
        """Queue a client's texts; Busy where too many wait."""
        job = ClientTexts(texts, write)
        with self._condition:
            self._check_room(len(texts))
            self._waiting += [(job, number) for number in range(len(texts))]
            self._condition.notify()
        return job

    def run(self, work: Callable[[], Result]) -> Future[Result]:
        """Queue another call that needs the model, between two tokens; Busy where too many texts wait."""
        future: Future[Result] = Future()
        with self._condition:
            self._check_room(1)
            self._calls.append((work, future))
            self._condition.notify()
        return future

    def _check_room(self, n: int) -> None:
        n_before = len(self._waiting) + len(self._calls) + sum(batch.n_rows for batch in self._active)
        if n_before + n > MOST_TEXTS:
            raise Busy(f"{n_before} texts wait or are being written: try again in a few seconds")

    def close(self) -> None:
        """End after the token that is being computed."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._is_closed or self._waiting or self._calls or self._active)
                if self._is_closed:
                    return
                self._active.extend(self._batches(self._waiting))
                self._waiting = []
                call = self._calls.popleft() if self._calls else None
            if call is not None:
                _run(*call)
            if self._active:
                is_going_on = self._active[0].advance()
                with self._condition:
                    batch = self._active.popleft()
                    self._active.extend([batch] if is_going_on else [])

    def _batches(self, waiting: Sequence[tuple[ClientTexts, int]]) -> Iterator[_Batch]:
        groups: dict[object, list[tuple[ClientTexts, int]]] = {}
        for job, number in waiting:
            groups.setdefault(job.texts[number].shape, []).append((job, number))
        for group in groups.values():
            for start in range(0, len(group), MOST_ROWS):
                rows = group[start : start + MOST_ROWS]
                yield _Batch(rows, self._texts([job.texts[number] for job, number in rows]), fault("logits are", self._lm.head.weight))

    def _texts(self, texts: Sequence[TextRequest]) -> Iterator[Growing]:
        """Texts of one shape while they grow."""
        first = texts[0]
        yield from steered_texts_by_token(self._lm, self._sae(first.layer), first.layer, *as_batch(texts), first.sampling)


def as_batch(texts: Sequence[TextRequest]) -> tuple[pl.DataFrame, list[Intervention], list[tuple[int, ...]]]:
    """Texts of one shape as the engine takes them: rows, and the interventions and prompts that these name."""
    interventions = list({id(text.intervention): text.intervention for text in texts}.values())
    prompts = list(dict.fromkeys(text.prompt for text in texts))
    places = {id(intervention): place for place, intervention in enumerate(interventions)}
    rows = {
        "row": range(len(texts)),
        "intervention": [places[id(text.intervention)] for text in texts],
        "prompt": [prompts.index(text.prompt) for text in texts],
        "factor": [text.factor for text in texts],
        "stream": [text.stream for text in texts],
    }
    return pl.DataFrame(rows, schema_overrides={"row": pl.UInt32, "stream": pl.UInt64}), interventions, prompts


def _run(work: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except Exception as error:  # goes to whoever waits
        future.set_exception(error)


class _Batch:
    """Rows that are continued together."""

    def __init__(self, rows: Sequence[tuple[ClientTexts, int]], steps: Iterator[Growing], fault: str) -> None:
        self._rows, self._steps, self._fault = dict(enumerate(rows)), steps, fault
        self._texts, self._n_tokens = dict.fromkeys(self._rows, ""), 0

    @property
    def n_rows(self) -> int:
        """Rows that go on."""
        return len(self._rows)

    def advance(self) -> bool:
        """Write one more token of each row; whether rows are left."""
        self._rows = {row: of for row, of in self._rows.items() if not of[0].is_cancelled}
        try:
            growing = next(self._steps, None) if self._rows else None
        except Exception as error:  # one client's fault must not end the others' texts
            log.exception("a batch of %d texts failed", len(self._rows))
            self._texts = dict.fromkeys(self._rows, str(error))
            return self._end("error")
        if growing is None:
            return self._end("length")
        self._n_tokens += 1
        for row, (job, number) in list(self._rows.items()):
            text = growing.texts[row]
            finish = "error" if text is None else "stop" if growing.stopped[row] else None
            if text is not None and (ends := [text.find(stop) for stop in job.texts[number].stops if stop in text]):
                text, finish = text[: min(ends)], "stop"
            self._texts[row] = self._fault if text is None else text
            job.write(number, TextProgress(self._texts[row], self._n_tokens, finish))
            if finish is not None:
                del self._rows[row]
        return bool(self._rows)

    def _end(self, finish: str) -> bool:
        """End every row."""
        for row, (job, number) in self._rows.items():
            job.write(number, TextProgress(self._texts[row], self._n_tokens, finish))
        return False
