"""The shipped world's own judge: its texts carry their topics, so a token's topic is known up to the grammar's ambiguity.

It rates what P1 and AxBench (arXiv 2505.20063, 2501.17148) ask a language model to rate, concept and fluency, from 0 to 2, but by a
naive Bayes topic model fitted on labelled text and by the loss of a second, independently seeded language model. Which words count
as content is read off the fitted model: those whose topic distribution lies at least `content_nats` from the topics' prior.
Function words ("the", "was", ".") and the neutral openers' words lie near it. All cuts were fitted on a calibration split of their
own (studies.world.oracle).

Strong steering ends in words of the topic without sense (tests/degenerate_texts.py). So a word counts once, however often it stands in the
text, and a text shows a topic by several words only. Fluency is acceptability: the loss, the share of function words and what the order of
the content words is worth each have to lie where those of 90 % or 95 % of unsteered sentences do. A text whose pairs of successive tokens
recur has none: a language model expects what repeats itself, so its loss would be low.

What the order is worth is measured by a bigram model of the grammar's labelled text: how much higher its loss is, on average, when the
content words move on by one, two, ... places in a circle. A list reads the same in any order, and so do words in places of other parts of
speech. The reference model would say the same at the price of a forward pass a shift.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from safetensors.numpy import load_file
from scipy.special import softmax

from saesteer.analysis.acceptability import Acceptable, distinct_bigram_share, fluency, moved_on
from saesteer.core.errors import SettingsError

ALGORITHM_VERSION = 3

WEIGHTS, SETTINGS = "classifier.safetensors", "oracle.json"


PAIR_PRIOR = 5.0
"""Weight of the tokens' frequencies at large in the bigram model, in observed pairs."""
FUNCTION_WORD = 0.0008
"""Share of all tokens from which one is a function word: between the rarest article and the commonest noun of the grammar."""


@dataclass(frozen=True)
class Thresholds(Acceptable):
    """Where the ratings change."""

    content_nats: float
    topic_posterior: float
    least_on_topic: int
    """Distinct content tokens on the topic that a concept rating above 0 takes."""
    concept_shares: tuple[float, float]
    """Concept is 1 from the first on, 2 from the second."""


@dataclass(frozen=True, eq=False)
class Oracle:
    """A naive Bayes topic model over single tokens, a bigram model, and the cuts of both ratings."""

    log_likelihood: Float[np.ndarray, "topic vocab"]
    log_prior: Float[np.ndarray, " topic"]
    pair_counts: Float[np.ndarray, "token next"]
    thresholds: Thresholds

    @cached_property
    def pair_nats(self) -> Float[np.ndarray, "token next"]:
        """-log P(next token | token), the counts of a token's successors smoothed by how often these are seen at all (MacKay and Peto,
        1995)."""
        seen = self.pair_counts.sum(0) + 1
        smooth = self.pair_counts + PAIR_PRIOR * seen / seen.sum()
        return np.log(smooth.sum(1, keepdims=True)) - np.log(smooth)

    @cached_property
    def is_function_word(self) -> Bool[np.ndarray, " vocab"]:
        """The tokens that are common, whatever the topic or the language: at least FUNCTION_WORD of all."""
        seen = self.pair_counts.sum(0)
        return np.asarray(seen >= FUNCTION_WORD * seen.sum())


def load_oracle(folder: Path) -> Oracle:
    """Read classifier.safetensors and oracle.json. Of an earlier version's: SettingsError."""
    weights = load_file(folder / WEIGHTS)
    if "pairs" not in weights:
        raise SettingsError(f"{folder / WEIGHTS} is a judge's of an earlier version: build its world again, or pull the judge anew")
    cuts: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["thresholds"]
    as_tuples: dict[str, Any] = {name: tuple(cut) if isinstance(cut, list) else cut for name, cut in cuts.items()}
    vocab = weights["log_likelihood"].shape[1]
    pair_counts = np.zeros((vocab, vocab), dtype=np.float32)
    pair_counts[tuple(weights["pairs"].T.astype(np.int64))] = weights["pair_counts"]
    return Oracle(weights["log_likelihood"], weights["log_prior"], pair_counts, Thresholds(**as_tuples))


def topic_posterior(oracle: Oracle, token_ids: Sequence[int]) -> Float[np.ndarray, "token topic"]:
    """P(topic | token) of each token by itself, by Bayes' rule."""
    ids, vocab = np.asarray(token_ids, dtype=np.int64), oracle.log_likelihood.shape[1]
    if outside := [token for token in token_ids if not 0 <= token < vocab]:
        raise ValueError(f"token id {outside[0]} is outside the oracle's vocabulary of {vocab} tokens")
    joint = oracle.log_likelihood[:, ids].T + oracle.log_prior  # [token, topic]
    return softmax(joint.astype(np.float64), axis=-1)


def content_tokens(oracle: Oracle, token_ids: Sequence[int]) -> Bool[np.ndarray, " token"]:
    """Which tokens say something about the topic: KL(P(topic | token) || P(topic)) of at least `content_nats`."""
    posterior = topic_posterior(oracle, token_ids)
    divergence = (posterior * (np.log(posterior) - oracle.log_prior)).sum(-1)
    return np.asarray(divergence >= oracle.thresholds.content_nats)


def topic_share(oracle: Oracle, token_ids: Sequence[int], topic: int) -> float | None:
    """Share of the distinct content tokens whose P(topic | token) exceeds `topic_posterior`, 0 where fewer than `least_on_topic` do; None
    when no token is content."""
    if not 0 <= topic < len(oracle.log_prior):
        raise ValueError(f"topic {topic} is out of range: the oracle knows 0 to {len(oracle.log_prior) - 1} (see topics.json)")
    distinct = sorted(set(token_ids))
    content = content_tokens(oracle, distinct)
    if not content.any():
        return None
    on_topic = topic_posterior(oracle, distinct)[content, topic] > oracle.thresholds.topic_posterior
    return float(on_topic.mean()) if on_topic.sum() >= oracle.thresholds.least_on_topic else 0.0


def concept_rating(oracle: Oracle, token_ids: Sequence[int], topic: int) -> int | None:
    """0, 1 or 2: how much of the text is about the topic; None when there is no content token to judge."""
    share = topic_share(oracle, token_ids, topic)
    return None if share is None else sum(share >= cut for cut in oracle.thresholds.concept_shares)


def fluency_rating(oracle: Oracle, token_ids: Sequence[int], mean_nll: float | None) -> int | None:
    """By a text's mean loss (nats per token) under the reference model, its function words and the order of its content words
    (acceptability.fluency)."""
    return fluency(
        oracle.thresholds, distinct_bigram_share(token_ids), mean_nll, function_share(oracle, token_ids), order_nats(oracle, token_ids)
    )


def function_share(oracle: Oracle, token_ids: Sequence[int]) -> float | None:
    """Share of function words, the full stop among them; None where there is no token."""
    return float(oracle.is_function_word[list(token_ids)].mean()) if len(token_ids) else None


def order_nats(oracle: Oracle, token_ids: Sequence[int]) -> float | None:
    """How much higher the bigram model's loss is, in nats per pair, when the words that are no function words have moved on among their
    places: the mean over all numbers of places that are no whole circle. None where there are fewer than two."""
    ids = np.asarray(token_ids, dtype=np.int64)
    places = np.flatnonzero(~oracle.is_function_word[ids])
    if len(places) < 2:
        return None
    texts = np.tile(ids, (len(places), 1))  # [shift, token]; the first is the text itself
    texts[:, places] = ids[moved_on(places)]
    losses = oracle.pair_nats[texts[:, :-1], texts[:, 1:]].mean(-1)
    return float(losses[1:].mean() - losses[0])
