"""The shipped world's own judge: its texts carry their topics, so a token's topic is known up to the grammar's ambiguity.

It rates what P1 and AxBench (arXiv 2505.20063, 2501.17148) ask a language model to rate, concept and fluency, from 0 to 2, but by a
naive Bayes topic model fitted on labelled text and by the loss of a second, independently seeded language model. Which words count
as content is read off the fitted model: those whose topic distribution lies at least `content_nats` from the topics' prior.
Function words ("the", "was", ".") and the neutral openers' words lie near it. All cuts were fitted on a calibration split of their
own (studies.world.oracle).

Strong steering ends in words of the topic without sense (saesteer.world.degenerate). So a word counts once, however often it stands in the
text, a text shows a topic by several words only, and one whose pairs of successive tokens recur has no fluency: a language model expects
what repeats itself, so its loss would be low.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from safetensors.numpy import load_file
from scipy.special import softmax

ALGORITHM_VERSION = 2

WEIGHTS, SETTINGS = "classifier.safetensors", "oracle.json"


@dataclass(frozen=True)
class Thresholds:
    """Where the ratings change. Pairs are (1 from here, 2 from here) for concept and (2 up to here, 1 up to here) for fluency."""

    content_nats: float
    topic_posterior: float
    least_on_topic: int
    """Distinct content tokens on the topic that a concept rating above 0 takes."""
    concept_shares: tuple[float, float]
    fluency_nats: tuple[float, float]
    distinct_bigrams: float
    """Smallest share of distinct pairs among the text's pairs of successive tokens that a fluency rating above 0 takes."""


@dataclass(frozen=True, eq=False)
class Oracle:
    """A naive Bayes topic model over single tokens and the cuts of both ratings."""

    log_likelihood: Float[np.ndarray, "topic vocab"]
    log_prior: Float[np.ndarray, " topic"]
    thresholds: Thresholds


def load_oracle(folder: Path) -> Oracle:
    """Read classifier.safetensors and oracle.json."""
    weights = load_file(folder / WEIGHTS)
    cuts: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["thresholds"]
    thresholds = Thresholds(**cuts | {name: tuple(cuts[name]) for name in ("concept_shares", "fluency_nats")})
    return Oracle(weights["log_likelihood"], weights["log_prior"], thresholds)


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


def fluency_rating(cuts: tuple[float, float], distinct_bigrams: float, ids: Sequence[int], mean_nll: float | None) -> int | None:
    """By a text's mean loss (nats per token) under the reference model: 2 up to the first cut, 1 up to the second, else 0; 0 also where
    less than `distinct_bigrams` of its pairs of successive ids are distinct. None where the loss is undefined."""
    if mean_nll is None or not math.isfinite(mean_nll):
        return None
    return 0 if distinct_bigram_share(ids) < distinct_bigrams else sum(mean_nll <= cut for cut in cuts)


def distinct_bigram_share(ids: Sequence[int]) -> float:
    """Distinct pairs of successive ids over all of them (distinct-2; Li et al., arXiv 1510.03055); 1 where there is no pair."""
    pairs = list(pairwise(ids))
    return len(set(pairs)) / len(pairs) if pairs else 1.0
