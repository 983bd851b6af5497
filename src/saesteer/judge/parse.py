"""From a judge's raw answer to a rating or a name, or to the reason why there is none. An unreadable answer is never a 0."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

ALGORITHM_VERSION = 1

CUT_OFF = ("length", "max_tokens")
"""How endpoints say that an answer was longer than allowed."""

REQUEST_REFUSED = "request_refused"
"""Of questions that the endpoint refused, as a filter stopped them or they are too long: its words stand for the answer."""

REFUSED = ("content_filter", "refusal", REQUEST_REFUSED)

RATINGS = ("0", "1", "2")
"""What a rating's line may say, by its value."""
LONGEST_NAME = 100
"""Characters of a name, at most."""
_LONGEST_LINE = 1000
"""Characters of a line that is read, at most: the pattern's time grows with the square of its length."""

# The line as asked for, with the emphasis that chat models put around things. ASCII only: a dotless i is no i.
_LINE = r"[\s>*_`#-]*{label}[\s*_`]*:[\s*_`\[]*(?P<value>.*?)[\s*_`\].]*"


@dataclass(frozen=True)
class Rating:
    """What the judge said: 0, 1 or 2; or the place of its word among those that it could choose from."""

    value: int


@dataclass(frozen=True)
class Name:
    """What the judge calls something: printable text on one line, of at most LONGEST_NAME characters. Untrusted all the same."""

    text: str


@dataclass(frozen=True)
class Unparsed:
    """An answer that says nothing readable: the answer as it came, and what is wrong with it."""

    raw: str
    why: str


Reading = Rating | Name | Unparsed
"""What an answer says."""


def parse(raw: str, finish_reason: str | None, label: str, choices: Sequence[str] = RATINGS) -> Reading:
    """The rating in the last line of an answer, or the name where there is nothing to choose from. `label` is what that line starts with,
    e.g. "Rating".

    Only the last line that is not blank counts: whatever stands above it may repeat the rated text.
    """
    if finish_reason in REFUSED:
        return Unparsed(raw, "the endpoint refused the question" if finish_reason == REQUEST_REFUSED else "the judge refused")
    if finish_reason in CUT_OFF:
        return Unparsed(raw, "the answer was cut off: raise max_tokens")
    lines = [line for line in raw.splitlines() if line.strip()]
    if not lines:
        return Unparsed(raw, "the answer is empty")
    line = lines[-1]
    match = len(line) <= _LONGEST_LINE and re.fullmatch(_LINE.format(label=re.escape(label)), line, re.IGNORECASE | re.ASCII)
    if not match:
        return Unparsed(raw, f"the last line is not `{label}: N`")
    value = match["value"]
    if not choices:
        return _name(raw, value)
    if value.lower() in choices:
        return Rating(choices.index(value.lower()))
    if re.fullmatch(r"[+-]?[0-9]+([.,][0-9]+)?", value):
        return Unparsed(raw, f"the rating {value} is none of {', '.join(choices[:-1])} and {choices[-1]}")
    return Unparsed(raw, "the last line holds no single rating")


def _name(raw: str, value: str) -> Name | Unparsed:
    text = " ".join("".join(character if character.isprintable() else " " for character in value).split()).strip("\"“”'")
    if not any(character.isalnum() for character in text):
        return Unparsed(raw, "the last line holds no name")
    return Name(text) if len(text) <= LONGEST_NAME else Unparsed(raw, f"the name is longer than {LONGEST_NAME} characters")
