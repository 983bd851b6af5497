"""From a language model's raw answer to a rating, a name or an instruction, or to the reason why there is none: one reader for judges,
namers of features and writers of prompts. An unreadable answer is never a 0."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

ALGORITHM_VERSION = 2

CUT_OFF = ("length", "max_tokens")
"""How endpoints say that an answer was longer than allowed."""

REQUEST_REFUSED = "request_refused"
"""Outcome of a question that the endpoint refused, because a filter stopped it or it is too long: its words stand for the answer."""

REFUSED = ("content_filter", "refusal", REQUEST_REFUSED)

RATINGS = ("0", "1", "2")
"""What a rating's line may say, by its value."""
LONGEST_NAME = 100
"""Characters of a name, at most."""
_LONGEST_LINE = 1000
"""Characters of a line that is read, at most: the pattern's time grows with the square of its length."""

# The line as asked for, with the emphasis that chat models put around things. ASCII only: a dotless i is no i.
_LINE = r"[\s>*_`#-]*{label}[\s*_`]*:[\s*_`\[]*(?P<value>.*?)[\s*_`]*"
_EMPHASIS = " \t*_`]."

# Where thoughts begin and end in answers of models that think aloud (DeepSeek and Qwen, Mistral, gpt-oss). Templates and servers often
# write the beginning themselves, so an answer may lack it.
_THOUGHTS_BEGIN = re.compile(r"\s*(?:<(?:think|thinking|thought|reasoning)>|\[THINK\]|<\|channel\|>analysis)")
_THOUGHTS_END = re.compile(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|<\|channel\|>final<\|message\|>")

# What may follow the line: the end of a fence around the answer, or a token that ends the turn and that a server wrote out.
_FENCE = re.compile(r"\s*(?:`{3,}|~{3,})\s*")
_END_OF_TURN = r"(?:<\|\w+\|>|</s>|<end_of_turn>)"

_REFUSAL = re.compile(
    r"(?:i['’]m |i am )?(?:very |so |really )?(?:sorry|unable)\b|i (?:can(?:no|['’])t|won['’]t|will not)\b|as an ai\b", re.I
)


@dataclass(frozen=True)
class Rating:
    """What the judge said: 0, 1 or 2; or the place of its word among those that it could choose from."""

    value: int


@dataclass(frozen=True)
class Words:
    """A name or an instruction: printable text on one line. Untrusted all the same."""

    text: str


@dataclass(frozen=True)
class Unparsed:
    """An answer that says nothing readable: the answer as it came, and what is wrong with it."""

    raw: str
    why: str


ParsedAnswer = Rating | Words | Unparsed
"""What an answer says."""


def parse(raw: str, finish_reason: str | None, label: str, choices: Sequence[str] = RATINGS) -> ParsedAnswer:
    """The rating in the last line of an answer, or the name where there is nothing to choose from. `label` is what that line starts with,
    e.g. "Rating"."""
    value = _labelled(raw, finish_reason, label)
    if isinstance(value, Unparsed):
        return value
    return _choice(raw, value, choices) if choices else _name(raw, value)


def parse_instruction(raw: str, finish_reason: str | None, label: str) -> Words | Unparsed:
    """The instruction in the last line of an answer, unless it is a refusal."""
    value = _labelled(raw, finish_reason, label)
    if isinstance(value, Unparsed):
        return value
    text = _printable(value)
    if re.fullmatch(r"[\"“'‘].*[\"”'’]", text):
        text = text[1:-1].strip()
    if not any(character.isalnum() for character in text):
        return Unparsed(raw, "the last line holds no instruction")
    return Unparsed(raw, "the model refused") if _REFUSAL.match(text) else Words(text)


def _labelled(raw: str, finish_reason: str | None, label: str) -> str | Unparsed:
    """What stands behind the label in the last line of an answer.

    Only the last line counts that is neither blank nor a mark of the answer's end: whatever stands above it may repeat the rated text.
    """
    if finish_reason in REFUSED:
        return Unparsed(raw, "the endpoint refused the question" if finish_reason == REQUEST_REFUSED else "the model refused")
    if finish_reason in CUT_OFF:
        return Unparsed(raw, "the answer was cut off: raise max_tokens")
    *thoughts, answer = _THOUGHTS_END.split(raw)
    if not thoughts and _THOUGHTS_BEGIN.match(raw):
        answer = ""
    lines = [line for line in answer.splitlines() if line.strip()]
    while lines and (_FENCE.fullmatch(lines[-1]) or re.fullmatch(rf"\s*{_END_OF_TURN}\s*", lines[-1])):
        lines.pop()
    if not lines:
        return Unparsed(raw, "the answer is empty, or nothing but thoughts")
    line = lines[-1]
    match = len(line) <= _LONGEST_LINE and re.fullmatch(_LINE.format(label=re.escape(label)), line, re.IGNORECASE | re.ASCII)
    return match["value"] if match else Unparsed(raw, f"the last line is not `{label}: N`")


def _choice(raw: str, value: str, choices: Sequence[str]) -> Rating | Unparsed:
    value = re.sub(rf"\s*{_END_OF_TURN}$", "", value).rstrip(_EMPHASIS).lower()
    if choices[-1].isdecimal():  # 2.0, 2/2 and 2 out of 2 are 2
        value = re.sub(rf"^([0-9])(?:\.0+)?(?:\s*(?:/|out of)\s*{choices[-1]})?$", r"\1", value)
    if value in choices:
        return Rating(choices.index(value))
    if re.fullmatch(r"[+-]?[0-9]+([.,][0-9]+)?", value):
        return Unparsed(raw, f"the rating {value} is none of {', '.join(choices[:-1])} and {choices[-1]}")
    return Unparsed(raw, "the last line holds no single rating")


def _name(raw: str, value: str) -> Words | Unparsed:
    text = _printable(value.rstrip(_EMPHASIS)).strip("\"“”'")
    if not any(character.isalnum() for character in text):
        return Unparsed(raw, "the last line holds no name")
    return Words(text) if len(text) <= LONGEST_NAME else Unparsed(raw, f"the name is longer than {LONGEST_NAME} characters")


def _printable(text: str) -> str:
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
