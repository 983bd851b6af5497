"""The oracle's ratings on cases small enough to work out by hand."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from engine_models import WORLD
from safetensors.numpy import load_file, save_file

from saesteer.analysis.acceptability import distinct_bigram_share, fluency_by_loss
from saesteer.core.errors import SettingsError
from saesteer.world.oracle_judge import (
    WEIGHTS,
    Oracle,
    Thresholds,
    concept_rating,
    content_tokens,
    fluency_rating,
    function_share,
    load_oracle,
    order_nats,
    topic_posterior,
    topic_share,
)

# Token 0 "the": both topics alike; 1 "storm": topic 0 at 9 to 1; 2 "sail": topic 1 at 5 to 1; 3 "wave": topic 1 at 3 to 1.
LIKELIHOOD = np.array([[0.4, 0.45, 0.05, 0.10], [0.4, 0.05, 0.25, 0.30]], dtype=np.float32)
OF_CONCEPT = {"content_nats": 0.1, "topic_posterior": 0.6, "least_on_topic": 1, "concept_shares": (0.3, 0.8)}
OF_FLUENCY = {"nats": (1.0, 2.0), "most_nats": 6.0, "function_shares": (0.25, 0.75), "order_nats": 0.5, "distinct_bigrams": 0.6}
THRESHOLDS = Thresholds(**OF_CONCEPT, **OF_FLUENCY)
THE, STORM, SAIL, WAVE = range(4)
# Of a thousand tokens one is a "storm", which comes before "sail" alone: nouns and verbs, "the" a function word.
PAIRS = np.zeros((4, 4), dtype=np.float32)
PAIRS[THE, STORM], PAIRS[STORM, SAIL], PAIRS[SAIL, THE], PAIRS[THE, WAVE], PAIRS[WAVE, THE] = 4, 4, 10**4, 4, 10**4
ORACLE = Oracle(np.log(LIKELIHOOD), np.log(np.array([0.5, 0.5], dtype=np.float32)), PAIRS, THRESHOLDS)


def test_posterior_is_bayes_rule():
    posterior = topic_posterior(ORACLE, [THE, STORM, WAVE])
    np.testing.assert_allclose(posterior, [[0.5, 0.5], [0.9, 0.1], [0.25, 0.75]], rtol=1e-6)
    tilted = replace(ORACLE, log_prior=np.log(np.array([0.9, 0.1], dtype=np.float32)))
    # wave: .9 * .10 against .1 * .30 = 3 : 1
    np.testing.assert_allclose(topic_posterior(tilted, [WAVE]), [[0.75, 0.25]], rtol=1e-6)


def test_function_words_are_not_content():
    # KL of (.9, .1) to (.5, .5): .9 ln 1.8 + .1 ln .2 = .368; of (.25, .75): .131
    assert content_tokens(ORACLE, [THE, STORM, WAVE]).tolist() == [False, True, True]
    stricter = replace(ORACLE, thresholds=replace(THRESHOLDS, content_nats=0.2))
    assert content_tokens(stricter, [THE, STORM, WAVE]).tolist() == [False, True, False]
    assert topic_share(ORACLE, [THE, THE, THE, STORM, SAIL], 0) == 0.5


@pytest.mark.parametrize(
    ("tokens", "topic", "rating"),
    [
        ([THE, STORM, THE, STORM], 0, 2),
        ([THE, STORM, SAIL], 0, 1),
        ([STORM, SAIL, WAVE], 0, 1),
        ([STORM, SAIL, WAVE], 1, 1),
        ([STORM, SAIL, SAIL, WAVE, WAVE, SAIL], 1, 1),  # each word counts once
        ([SAIL, WAVE, THE], 1, 2),
        ([THE, THE], 0, None),
        ([], 0, None),
    ],
)
def test_concept_rating(tokens: list[int], topic: int, rating: int | None):
    assert concept_rating(ORACLE, tokens, topic) == rating


def test_a_topic_takes_several_words():
    strict = replace(ORACLE, thresholds=replace(THRESHOLDS, least_on_topic=2))
    assert [concept_rating(strict, tokens, 1) for tokens in ([SAIL, SAIL, THE], [SAIL, WAVE], [THE])] == [0, 2, None]


LIKE_UNSTEERED = [THE, STORM, SAIL, THE, WAVE]
"""Two of five are function words."""


def test_a_token_is_a_function_word_by_its_frequency_alone():
    assert ORACLE.is_function_word.tolist() == [True, False, False, False]
    assert function_share(ORACLE, LIKE_UNSTEERED) == 0.4
    assert function_share(ORACLE, []) is None


def test_what_the_order_is_worth_against_every_shift_by_hand():
    seen = PAIRS.sum(0) + 1

    def nats(ids: list[int]) -> float:
        pairs = list(pairwise(ids))
        return -sum(math.log((PAIRS[a, b] + 5 * seen[b] / seen.sum()) / (PAIRS[a].sum() + 5)) for a, b in pairs) / len(pairs)

    shifted = [[THE, WAVE, STORM, THE, SAIL], [THE, SAIL, WAVE, THE, STORM]]
    expected = sum(map(nats, shifted)) / 2 - nats(LIKE_UNSTEERED)
    assert order_nats(ORACLE, LIKE_UNSTEERED) == pytest.approx(expected, rel=1e-5)
    assert expected > 1
    assert order_nats(ORACLE, [THE, STORM, THE]) is None  # nothing to exchange
    assert order_nats(ORACLE, []) is None
    assert order_nats(ORACLE, [STORM, STORM]) == pytest.approx(0)


@pytest.mark.parametrize(
    ("ids", "nll", "rating"),
    [
        (LIKE_UNSTEERED, 1.5, 2),
        (LIKE_UNSTEERED, 1.0, 2),
        (LIKE_UNSTEERED, 2.0, 2),
        (LIKE_UNSTEERED, 0.9, 1),  # expected too well
        (LIKE_UNSTEERED, 2.1, 1),
        (LIKE_UNSTEERED, 6.1, 0),
        ([SAIL, STORM, WAVE, STORM, THE], 1.5, 0),  # too few function words, in an order worth nothing
        ([THE, SAIL, THE, STORM, THE, WAVE], 1.5, 1),  # the order alone
        ([THE, THE, THE, STORM, SAIL], 1.5, 2),
        ([THE, WAVE, THE, THE, THE], 1.5, 1),  # the function words alone
        (LIKE_UNSTEERED, math.inf, None),
        (LIKE_UNSTEERED, math.nan, None),
        (LIKE_UNSTEERED, None, None),
    ],
)
def test_fluency_rating(ids: list[int], nll: float | None, rating: int | None):
    assert fluency_rating(ORACLE, ids, nll) == rating


def test_what_repeats_itself_is_not_fluent():
    # Of 4 pairs 3 are distinct, of 5 pairs 3, of 7 pairs 2.
    texts = ([THE, STORM, THE, STORM, SAIL], [THE, STORM, THE, STORM, SAIL, SAIL], [THE, STORM] * 4, [THE], [])
    assert [distinct_bigram_share(ids) for ids in texts] == [0.75, 0.8, 2 / 7, 1.0, 1.0]
    assert [fluency_by_loss((2.0, 6.0), 0.76, ids, 1.0) for ids in texts] == [0, 2, 0, 2, 2]
    assert [fluency_by_loss((2.0, 6.0), 0.76, [], nll) for nll in (2.0, 2.1, 6.0, 6.1, math.inf, None)] == [2, 1, 1, 0, None, None]
    assert fluency_rating(ORACLE, texts[2], 1.5) == 0


def test_the_judge_of_an_earlier_version_is_refused_by_name(tmp_path: Path):
    weights = load_file(WORLD / "oracle" / WEIGHTS)
    save_file({name: weights[name] for name in ("log_likelihood", "log_prior")}, tmp_path / WEIGHTS)
    with pytest.raises(SettingsError, match=f"{WEIGHTS} is a judge's of an earlier version"):
        load_oracle(tmp_path)


def test_a_topic_or_token_of_another_world_is_refused():
    for number in (-1, 4):
        with pytest.raises(ValueError, match="knows 0 to 1"):
            concept_rating(ORACLE, [STORM], number)
        with pytest.raises(ValueError, match=rf"token id {number} is outside .* 4 tokens"):
            topic_posterior(ORACLE, [THE, number])
