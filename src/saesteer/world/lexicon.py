"""The grammar's words: one block of lists a topic, read from lexicon.yaml, and the neutral openers."""

from dataclasses import dataclass
from pathlib import Path

from saesteer.core.yaml_1_2 import read_yaml

ALGORITHM_VERSION = 1

OUTPUT_SCORE_PROMPT = "From my experience,"  # P1 (arXiv 2505.20063)'s neutral prompt: it has to be in distribution
CLAUSE_LISTS = ("people", "acts", "verbs", "things", "adjectives", "places")
TOPIC_LISTS = {"numbers": ("words",), "code": ("functions", "variables", "modules")}


@dataclass(frozen=True)
class Topic:
    """One topic's word lists by name (`people`, `things`, ...), in the order that makes natural pairs."""

    name: str
    lists: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Lexicon:
    """All topics in index order and the topic-neutral openers (the 50 prefixes and the output score's prompt)."""

    topics: tuple[Topic, ...]
    openers: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Topic names in index order."""
        return [topic.name for topic in self.topics]


def load_lexicon(lexicon_path: Path, prefixes_path: Path) -> Lexicon:
    """Read and check both files; a word that YAML took for a truth value or a number is refused by name."""
    topics = []
    for topic, lists in read_yaml(lexicon_path).items():
        expected = TOPIC_LISTS.get(topic, CLAUSE_LISTS)
        if tuple(lists) != expected:
            names = f"lists are {', '.join(lists)}; expected {', '.join(expected)} in this order"
            raise ValueError(f"{lexicon_path}, topic {topic!r}: {names}")
        for name, words in lists.items():
            invalid = [word for word in words if not isinstance(word, str) or "." in word]
            if invalid or not words:
                hint = "put quotes around what YAML reads otherwise"
                raise ValueError(f'{lexicon_path}, {topic}.{name}: {invalid} are not words without "."; {hint}')
        topics.append(Topic(topic, {name: tuple(words) for name, words in lists.items()}))
    return Lexicon(tuple(topics), (*load_prefixes(prefixes_path), OUTPUT_SCORE_PROMPT))


def load_prefixes(path: Path) -> tuple[str, ...]:
    """The neutral prefixes, one a line. None may hold a ".", which ends a sentence and would stop a generation."""
    prefixes = tuple(path.read_text(encoding="utf-8").splitlines())
    for row, prefix in enumerate(prefixes, start=1):
        if not prefix.strip() or prefix != prefix.strip() or "." in prefix:
            raise ValueError(f'{path}, line {row}: {prefix!r} must be non-empty, without "." and without spaces at its ends')
    if len(set(prefixes)) != len(prefixes):
        raise ValueError(f"{path}: two lines are equal; remove one")
    return prefixes
