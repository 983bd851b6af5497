"""From a judge's raw answer to a rating, or to the reason why there is none. An unreadable answer is never a 0."""

import re
from dataclasses import dataclass

ALGORITHM_VERSION = 1

CUT_OFF = ("length", "max_tokens")
"""How endpoints say that an answer was longer than allowed."""

REFUSED = ("content_filter", "refusal")

# The line as asked for, with the emphasis that chat models put around things. ASCII only: a dotless i is no i.
_LINE = r"[\s>*_`#-]*{label}[\s*_`]*:[\s*_`\[]*(?P<value>.*?)[\s*_`\].]*"


@dataclass(frozen=True)
class Rating:
    """What the judge said: 0, 1 or 2."""

    value: int


@dataclass(frozen=True)
class Unparsed:
    """An answer without a rating: the answer as it came, and what is wrong with it."""

    raw: str
    why: str


def parse(raw: str, finish_reason: str | None, label: str) -> Rating | Unparsed:
    """The rating in the last line of an answer. `label` is what that line starts with, e.g. "Rating".

    Only the last line that is not blank counts: whatever stands above it may repeat the rated text.
    """
    if finish_reason in REFUSED:
        return Unparsed(raw, "the judge refused")
    if finish_reason in CUT_OFF:
        return Unparsed(raw, "the answer was cut off: raise max_tokens")
    lines = [line for line in raw.splitlines() if line.strip()]
    if not lines:
        return Unparsed(raw, "the answer is empty")
    match = re.fullmatch(_LINE.format(label=re.escape(label)), lines[-1], re.IGNORECASE | re.ASCII)
    if not match:
        return Unparsed(raw, f"the last line is not `{label}: N`")
    value = match["value"]
    if value in ("0", "1", "2"):
        return Rating(int(value))
    if re.fullmatch(r"[+-]?[0-9]+([.,][0-9]+)?", value):
        return Unparsed(raw, f"the rating {value} is none of 0, 1 and 2")
    return Unparsed(raw, "the last line holds no single rating")
