"""Chat completions in the forms that endpoints give them: what is sent, what a body says, be it an answer or an error, and what an endpoint
shows of itself while it is asked: which parameters it takes, and which questions it refuses.

Where it took other parameters than the settings say, a file names those that answers came with, for later runs too:

    <answers folder>/<fingerprint>/request.json
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from saesteer.core.files import write_json
from saesteer.judge.answers import AnswerBook, Ask, JudgeAnswer, JudgeError
from saesteer.judge.parse import REQUEST_REFUSED
from saesteer.settings import Endpoint

ALIKE = 3
"""So many questions refused, and none answered between them, are no matter of the questions."""

NO_ANSWER = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)
"""What `completion_of` and `answer_fields` raise where an endpoint sent no answer, or JSON that is nested too deep."""

_ACCOUNT = re.compile(r"credit|billing|quota|balance|payment", re.IGNORECASE)
_FILTERED = re.compile(
    r"content[ _-]?(filter|polic|manage|moderat)|responsibleai|invalid_prompt|moderat|flagged|safety|usage (polic|guideline)"
    r"|content exists risk|high risk|inappropriate|data_inspection|sensitive (content|information|word)|prohibited|unsafe|敏感|违规|不安全",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"context[ _](length|size|window)|exceed_context|(prompt|input|request|message)s?\b.{0,60}too (long|large)|too many tokens"
    r"|string_too_long",
    re.IGNORECASE,
)
_FILTERED_AWAY = re.compile(r"content_filter|safety|prohibited_content|blocklist|spii|recitation", re.IGNORECASE)
"""Finish reasons of choices without a message, which are answers all the same."""


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parameters:
    """What models differ in: by which name an answer's length is limited, and whether a temperature may be given."""

    max_tokens_parameter: Literal["max_tokens", "max_completion_tokens"]
    temperature: Literal[0] | None

    def accepted(self, error: Mapping[str, Any]) -> "Parameters | None":
        """The parameters that an error asks for in place of these; None where it is about something else."""
        message, param, code = (str(error.get(name)) for name in ("message", "param", "code"))
        is_unsupported = code.startswith("unsupported_") or re.search(r"support|deprecat", message, re.IGNORECASE)
        about_limit = "max_completion_tokens" in message or param == "max_tokens"
        if self.max_tokens_parameter == "max_tokens" and is_unsupported and about_limit:
            return replace(self, max_tokens_parameter="max_completion_tokens")
        if self.temperature is not None and is_unsupported and "temperature" in (param, *re.findall(r"\w+", message)):
            return replace(self, temperature=None)
        return None


def completion_request(settings: Endpoint, ask: Ask, parameters: Parameters) -> dict[str, Any]:
    """The body of a request."""
    body = {"model": settings.model, "messages": ask.messages, parameters.max_tokens_parameter: settings.max_tokens}
    return body if parameters.temperature is None else body | {"temperature": parameters.temperature}


def completion_of(content: bytes) -> Any:
    """The JSON of a body, which may be an event stream: some gateways stream whether they are asked to or not."""
    if not content.lstrip().startswith((b"data:", b"event:", b"id:", b":")):
        return json.loads(content)
    lines = content.decode().split("\n")
    events = [json.loads(data) for line in lines if line.startswith("data:") and (data := line[5:].strip()) != "[DONE]"]
    if errors := [event for event in events if "error" in event]:
        return errors[-1]
    choices = [choice for event in events for choice in event.get("choices") or []]
    text = "".join(_text(choice["delta"].get("content")) for choice in choices)
    finish = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")][-1]  # none where the stream broke off
    usage = [event["usage"] for event in events if event.get("usage")]
    return {
        "choices": [{"message": {"content": text}, "finish_reason": finish}],
        "usage": usage[-1] if usage else None,
        "model": events[0].get("model"),
    }


def answer_fields(body: Any) -> dict[str, Any]:
    """What a chat completion's body says of an JudgeAnswer; an error of NO_ANSWER when it is none. A count of 0 is none."""
    choice = body["choices"][0]
    message, finish = choice.get("message"), choice.get("finish_reason")
    if message is None and isinstance(finish, str) and _FILTERED_AWAY.match(finish):
        message = {}
    content, refusal = _text(message.get("content")), message.get("refusal")
    if refusal and not content:
        content, finish = refusal, "refusal"
    if not isinstance(content, str) or not isinstance(finish, str | None):
        raise ValueError("the message is no text")
    usage, model = body.get("usage"), body.get("model")
    counts = {name: usage.get(name) if isinstance(usage, Mapping) else None for name in ("prompt_tokens", "completion_tokens")}
    return {
        "raw": storable(content),
        "finish_reason": finish if finish is None else storable(finish),
        "model": storable(model) if isinstance(model, str) else None,
        **{name: count if type(count) is int and 0 < count < 2**32 else None for name, count in counts.items()},
    }


def _text(content: Any) -> str:
    """A message's content, which may be in parts, thoughts and references among them."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str | None):
        raise ValueError("the content is no text")
    return content or ""


def storable(text: str) -> str:
    """The text without escaped halves of surrogate pairs, which are valid JSON but cannot be written to a file."""
    return text.encode("utf-8", "replace").decode()


def error_of(text: str) -> Mapping[str, Any]:
    """What a body says of an error, its message at least: OpenAI's form, that of a list, or without a name around it."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {"message": text}
    body = body[0] if isinstance(body, list) and body else body
    error = body.get("error", body) if isinstance(body, dict) else body
    return error if isinstance(error, dict) and "message" in error else {"message": text if isinstance(error, dict) else str(error)}


def status_of_error(body: Any) -> int | None:
    """The status that an error which came with status 200 stands for; None: it is none, or does not say."""
    if not isinstance(body, dict) or "choices" in body:
        return None
    text = json.dumps(body)
    code = str(error_of(text).get("code"))
    if re.fullmatch("[45][0-9][0-9]", code):
        return int(code)
    return 400 if is_about_the_question(400, text) else None


def is_about_the_question(status: int, text: str) -> bool:
    """Whether an error says that a filter stopped its question, or that it is too long."""
    error = error_of(text)
    said = " ".join(str(error.get(name)) for name in ("code", "type", "message"))
    says_so = status in (400, 403, 422, 500) and (_FILTERED.search(said) or _TOO_LONG.search(said))
    return bool(says_so or status == 413) and not _ACCOUNT.search(said)


def may_be_about_the_question(status: int, text: str) -> bool:
    """Whether an error can be about its question, going by its status, rather than about the account or the address."""
    return status in (400, 422) and not _ACCOUNT.search(str(error_of(text)["message"]))


def may_be_charged(content: bytes) -> bool:
    """Whether a body that is no answer may have been charged for: it holds a choice, or part of one, or counts tokens."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return b'"choices"' in content
    usage = body.get("usage") if isinstance(body, dict) else None
    counts = usage.values() if isinstance(usage, dict) else ()
    return isinstance(body, dict) and (bool(body.get("choices")) or any(type(count) is int and count > 0 for count in counts))


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
        self._held: list[JudgeAnswer] = []
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

    def answered(self, answer: JudgeAnswer) -> None:
        """An answer: questions that were refused just before it were refused for themselves."""
        self._book.add(answer)
        self.keep()

    def refused(self, identity: Mapping[str, Any], status: int, text: str) -> JudgeAnswer | None:
        """The unreadable answer that stands for an error; None where the error is no matter of its question.

        It is one where it says so and the book has answers to others. Where only one of these holds, it is one as long as fewer than ALIKE
        come in a row; where neither does, it is none.
        """
        says_so = is_about_the_question(status, text)
        if not says_so and not may_be_about_the_question(status, text):
            return None
        words = storable(str(error_of(text)["message"]))[:500]
        answer = JudgeAnswer(**identity, raw=words, finish_reason=REQUEST_REFUSED, prompt_tokens=None, completion_tokens=None, model=None)
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
