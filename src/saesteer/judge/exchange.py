"""What an endpoint shows of itself while it is asked: which parameters it takes, and which questions it refuses.

Where it took other parameters than the settings say, a file names those that answers came with, for later runs too:

    <answers folder>/<fingerprint>/request.json
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from saesteer.core.files import write_json
from saesteer.judge.answers import Answer, AnswerBook, JudgeError
from saesteer.judge.completion import Parameters, error_of, is_about_the_question, may_be_about_the_question, storable
from saesteer.judge.parse import REQUEST_REFUSED
from saesteer.settings import Endpoint

ALIKE = 3
"""So many questions refused, and none answered between them, are no matter of the questions."""

log = logging.getLogger(__name__)


class Exchange:
    """A run of requests to one endpoint, whose answers go into a book."""

    def __init__(self, settings: Endpoint, book: AnswerBook) -> None:
        self._settings, self._book = settings, book
        self._record = book.folder / "request.json"
        self.parameters = Parameters(settings.max_tokens_parameter, settings.temperature)
        if self._record.exists():
            try:
                self.parameters = TypeAdapter(Parameters).validate_json(self._record.read_bytes())
            except ValidationError:
                raise JudgeError(f"{self._record} names no parameters that a request can have: delete it, and run again") from None
        self._held: list[Answer] = []
        self._refused: list[str] = []

    def adapts(self, sent: Parameters, status: int, text: str) -> bool:
        """Whether a request that was sent with some parameters and got an error is to be sent again, with those that there are now."""
        if status not in (400, 422):
            return False
        if sent != self.parameters:  # another request has met the same error
            return True
        accepted = sent.accepted(error_of(text))
        if accepted is None:
            return False
        self.parameters = accepted
        write_json(self._record, asdict(accepted))
        takes = "takes no temperature" if accepted.temperature != sent.temperature else "takes max_completion_tokens for max_tokens"
        log.warning("%s %s %s: asked so from here on (%s)", self._settings.section, self._settings.model, takes, self._record)
        return True

    def answered(self, answer: Answer) -> None:
        """An answer: questions that were refused just before it were refused for themselves."""
        self._book.add(answer)
        self.keep()

    def refused(self, identity: Mapping[str, Any], status: int, text: str) -> Answer | None:
        """The unreadable answer that stands for an error; None where the error is no matter of its question.

        It is one where it says so and the book has answers to others. Where only one of these holds, it is one as long as fewer than ALIKE
        come in a row; where neither does, it is none.
        """
        says_so = is_about_the_question(status, text)
        if not says_so and not may_be_about_the_question(status, text):
            return None
        words = storable(str(error_of(text)["message"]))[:500]
        answer = Answer(**identity, raw=words, finish_reason=REQUEST_REFUSED, prompt_tokens=None, completion_tokens=None, model=None)
        if not says_so or not self._book.is_answered:
            self._held.append(answer)
            return answer if len(self._held) < (ALIKE if says_so or self._book.is_answered else 1) else None
        self._refused.append(words)
        self._book.add(answer)
        return answer

    def keep(self) -> None:
        """Keep what was refused."""
        self._refused += [answer.raw for answer in self._held]
        for answer in self._held:
            self._book.add(answer)
        self._held = []

    def close(self) -> None:
        """At the end of a run that did not fail."""
        self.keep()
        if self._refused:
            n, section = len(self._refused), self._settings.section
            log.warning("%s: the endpoint refused %d questions, the first with: %s", section, n, self._refused[0])
