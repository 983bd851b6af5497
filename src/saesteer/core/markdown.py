"""Tables, numbers and models' texts in Markdown and in a terminal."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table, without a line end after it."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (header, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(header)}", *lines[1:]])


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def with_interval(value: float | None, low: float | None, high: float | None, digits: int = 2) -> str:
    """A number, with its interval where it has one: 1.60 [1.19, 2.04]."""
    ends = "" if low is None or high is None else f" [{number(low, digits)}, {number(high, digits)}]"
    return number(value, digits) + ends


def counted(n: int, noun: str) -> str:
    """A number of things whose plural takes an s."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def readable_size(n_bytes: int | float) -> str:
    """A size in GiB, a small one in MiB."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 0.1 * 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def escaped(text: str) -> str:
    """Text of a model as it is, on one line, not as Markdown."""
    return "".join("\\" + character if character in "\\`*_<>[]|#" else character for character in " ".join(text.split()))


def printable(text: str) -> str:
    """Text of a model without what would move the cursor or change the terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}" for character in text)


def words(tokens: Iterable[str]) -> str:
    """Tokens as words, without the mark of a space that some tokenizers put before them."""
    return " ".join(token.replace("▁", " ").strip() for token in tokens)
