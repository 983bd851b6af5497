"""The judges that know topics, the grammar's and that of natural English, with one interface."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from saesteer.core.tokens import TextTokens
from saesteer.world import oracle_judge
from saesteer.world.books import judge as text_judge

ALGORITHM_VERSION = 2


@dataclass(frozen=True, eq=False)
class WorldJudge:
    """Ratings 0, 1 or 2; None where there is nothing to rate."""

    read: Callable[[Sequence[str]], list[list[int]]]
    """Texts as numbers of what the judge counts: tokens, or words."""
    concept: Callable[[Sequence[int], int], int | None]
    """The concept rating of a text so read, for a topic's number."""
    log_odds: Callable[[Sequence[int], int], float | None]
    """log P / (1 - P) in nats of a topic's number given a text so read; None of the grammar's judge."""
    fluency: Callable[[Sequence[int], float | None], int | None]
    """The fluency rating of a text so read, given its mean loss (nats per token) under the reference model."""
    n_topics: int


def load_judge(folder: Path, tokens: TextTokens) -> WorldJudge:
    """The judge of a folder: of the grammar's world (oracle.json) or of the books' (text_judge.json)."""
    if not (folder / text_judge.SETTINGS).exists():
        return oracle_as_judge(oracle_judge.load_oracle(folder), tokens)
    judge = text_judge.load_text_judge(folder)
    return WorldJudge(
        partial(text_judge.word_ids, judge),
        partial(text_judge.concept_rating, judge),
        partial(text_judge.concept_log_odds, judge),
        partial(text_judge.fluency_rating, judge),
        len(judge.log_likelihood),
    )


def oracle_as_judge(oracle: oracle_judge.Oracle, tokens: TextTokens) -> WorldJudge:
    """The grammar's oracle, which counts the model's tokens."""
    return WorldJudge(
        tokens.retokenise,
        partial(oracle_judge.concept_rating, oracle),
        lambda _ids, _topic: None,
        partial(oracle_judge.fluency_rating, oracle),
        len(oracle.log_prior),
    )
