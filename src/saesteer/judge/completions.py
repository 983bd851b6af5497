"""Chat completions as every compatible endpoint takes and gives them: `model`, `messages`, `max_tokens` and `temperature` only."""

from collections.abc import Mapping
from typing import Any

from saesteer.judge.answers import Ask
from saesteer.settings import Endpoint


def completion_request(settings: Endpoint, ask: Ask) -> dict[str, Any]:
    """The body of a chat completion."""
    return {"model": settings.model, "messages": ask.messages, "max_tokens": settings.max_tokens, "temperature": 0}


def answer_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a chat completion's body says of an Answer; ValueError, KeyError, TypeError or IndexError when it is none."""
    choice = body["choices"][0]
    message = choice["message"]
    content, refusal, finish = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    if refusal and not content:
        content, finish = refusal, "refusal"
    if not isinstance(content, str | None) or not isinstance(finish, str | None):
        raise ValueError("the message is no text")
    usage, model = body.get("usage") or {}, body.get("model")
    return {
        # An escaped half of a surrogate pair is valid JSON but no text that could be stored.
        "raw": (content or "").encode("utf-8", "replace").decode(),
        "finish_reason": finish,
        "prompt_tokens": _count(usage.get("prompt_tokens")),
        "completion_tokens": _count(usage.get("completion_tokens")),
        "model": model if isinstance(model, str) else None,
    }


def _count(value: Any) -> int | None:
    """A token count as reported; None when it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 else None
