"""Fitting the oracle: cuts by hand, the classifier against counting, items that are what they say."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from saesteer.analysis.acceptability import distinct_bigram_share
from saesteer.world.lexicon import load_lexicon
from saesteer.world.oracle_judge import Oracle, function_share, order_nats, topic_posterior
from studies.world import oracle as fitting
from studies.world.tokenizer import BOS_ID, build_tokenizer
from studies.world.train_model import ModelRecipe, new_model

ROOT = Path(__file__).resolve().parents[2]
LEXICON = load_lexicon(ROOT / "data/world/lexicon.yaml", ROOT / "config/prefixes.txt")
TOKENIZER = build_tokenizer(LEXICON)
NONE = 255
CUTS = replace(fitting.UNFITTED, content_nats=1.0, topic_posterior=0.5)


def judge_of(log_likelihood: np.ndarray, log_prior: np.ndarray) -> Oracle:
    n = log_likelihood.shape[1]
    return Oracle(log_likelihood, log_prior, np.zeros((n, n), dtype=np.float32), CUTS)


@pytest.mark.parametrize(
    ("higher", "lower", "cut"),
    [
        ([5.0, 6.0], [1.0, 2.0], 3.5),  # any cut between 2 and 5 is perfect; the one half-way between the two values seen
        ([2.0, 3.0, 4.0], [1.0, 1.0, 3.0], 1.5),  # 1.5 keeps all of the higher and one third of the lower: gain 2/3
        ([1.0], [1.0], 1.0),
    ],
)
def test_best_cut(higher: list[float], lower: list[float], cut: float):
    assert fitting.best_cut(np.array(higher), np.array(lower)) == cut


def test_best_cut_against_every_cut():
    rng = np.random.default_rng(0)
    for _ in range(50):
        higher, lower = rng.normal(1, 1, 30).round(1), rng.normal(0, 1, 20).round(1)
        gains = {c: (higher >= c).mean() - (lower >= c).mean() for c in np.concatenate([higher, lower]) - 0.01}
        cut = fitting.best_cut(higher, lower)
        assert (higher >= cut).mean() - (lower >= cut).mean() == pytest.approx(max(gains.values()))


def test_classifier_counts_labelled_tokens_only():
    rows = np.array([[2, 4, 4, 5], [2, 6, 5, 0]], dtype=np.uint16)
    topics = np.array([[NONE, 0, 0, 0], [NONE, 1, 1, NONE]], dtype=np.uint8)
    likelihood, prior = fitting.fit_classifier(rows, topics, 2, 8)
    # Labelled tokens: topic 0 three, topic 1 two; with a half added 3.5 and 2.5.
    np.testing.assert_allclose(np.exp(prior), [3.5 / 6, 2.5 / 6], rtol=1e-6)
    # Token 4 in topic 0: (2 + .5 * 3.5 / 3) over the sum of all eight tokens so smoothed.
    smooth = 0.5 * 3.5 / 3
    np.testing.assert_allclose(np.exp(likelihood[0, 4]), (2 + smooth) / (3 + 8 * smooth), rtol=1e-6)
    np.testing.assert_allclose(np.exp(likelihood).sum(1), 1, rtol=1e-5)


def test_an_unseen_token_says_almost_nothing():
    rows = np.array([[4] * 300, [5] * 300], dtype=np.uint16)
    topics = np.array([[0] * 300, [1] * 100 + [NONE] * 200], dtype=np.uint8)
    likelihood, prior = fitting.fit_classifier(rows, topics, 2, 8)
    judge = judge_of(likelihood, prior)
    np.testing.assert_allclose(topic_posterior(judge, [7])[0], np.exp(prior), atol=0.01)


def test_concept_items_are_made_as_they_say():
    items = fitting.concept_items(LEXICON, TOKENIZER, 0, "test/concept", 60)
    own = [{word for words in topic.lists.values() for phrase in words for word in phrase.split()} for topic in LEXICON.topics]
    shares: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for item in items:
        words = [token.lstrip("▁").lower() for token in TOKENIZER.convert_ids_to_tokens(list(item.token_ids))]
        topical = [word for word in words if any(word in lists for lists in own)]
        shares[item.rating].append(np.mean([word in own[item.topic] for word in topical]))
    one_word, added, other = ([share for share in shares[0] if low <= share <= high] for low, high in ((1, 1), (0.01, 0.99), (0, 0.01)))
    assert min(len(one_word), len(added), len(other)) >= 10  # a third each
    assert 0.1 < np.mean(added) < 0.5
    assert 0.3 < np.mean(shares[1]) < 0.7
    assert np.mean(shares[2]) > 0.98


def test_fluency_items_differ_as_they_say():
    items = fitting.fluency_items(LEXICON, TOKENIZER, 0, "test/fluency", 40)
    stop = TOKENIZER.convert_tokens_to_ids(".")
    assert [sum(item.rating == rating for item in items) for rating in (0, 1, 2)] == [40, 40, 40]
    assert all(item.context[0] == BOS_ID and item.continuation[-1] == stop for item in items)
    loops = [item for item in items if item.loop]
    assert {item.rating for item in loops} == {0}
    assert 5 <= len(loops) <= 25  # a third of those rated 0
    assert max(distinct_bigram_share(item.continuation) for item in loops) < 0.8
    assert all(distinct_bigram_share(item.continuation) > 0.8 for item in items if item.rating == 2)


def test_pairs_are_those_of_rows_without_their_padding():
    rows = np.array([[2, 4, 5, 4], [2, 4, 5, 0]], dtype=np.uint16)
    counts = fitting.count_pairs(rows, 8)
    assert {(int(a), int(b)): int(counts[a, b]) for a, b in np.argwhere(counts)} == {(2, 4): 2, (4, 5): 2, (5, 4): 1}


def test_ranges_hold_nine_of_ten_sentences_as_written():
    items = fitting.fluency_items(LEXICON, TOKENIZER, 0, "test/fluency", 200)
    rows = np.zeros((200, 64), dtype=np.uint16)
    written = [item.continuation for item in items if item.rating == 2]
    for row, ids in zip(rows, written, strict=True):
        row[: len(ids)] = ids
    oracle = Oracle(np.zeros((1, len(TOKENIZER))), np.zeros(1), fitting.count_pairs(rows, len(TOKENIZER)), fitting.UNFITTED)
    losses = np.array([place + 1000.0 * (2 - item.rating) for place, item in enumerate(items)])
    cuts = fitting.fit_fluency(oracle, losses, items).thresholds
    of_written = [loss for loss, item in zip(losses, items, strict=True) if item.rating == 2]
    assert [sum(loss < cuts.nats[0] for loss in of_written), sum(loss > cuts.nats[1] for loss in of_written)] == [10, 10]
    assert 1600 <= cuts.most_nats <= 2000
    shares, orders = [function_share(oracle, ids) for ids in written], [order_nats(oracle, ids) for ids in written]
    assert sum(cuts.function_shares[0] <= share <= cuts.function_shares[1] for share in shares) >= 180
    assert sum(order is None or order >= cuts.order_nats for order in orders) >= 189


def test_a_clauses_corruptions_by_hand():
    rng, words = random.Random(0), ["the", "cook", "salted", "a", "soup"]
    left = fitting.without_one(words, (), rng)
    assert len(left) == 4
    assert [word for word in words if word in left] == left
    replaced = fitting.partly_replaced(words, ["x"], rng)
    assert (replaced.count("x"), len(replaced)) == (1, 5)
    for _ in range(20):
        looped = fitting.looped(words, (), rng)
        assert len(looped) == 10
        assert any(looped[start + n :] == looped[start:-n] for start in (0, 2) for n in range(1, fitting.LOOPED + 1))
    for _ in range(20):
        added = fitting.with_added((*words, "."), ["x", "y", "z"], rng)
        assert added[-1] == "."
        assert 1 <= sum(word in "xyz" for word in added) <= fitting.ADDED
        assert 5 <= len(added) <= 9


def test_continuation_losses_against_one_forward_each():
    recipe = ModelRecipe(n_layers=2, d_model=32, d_mlp=64, n_heads=2, n_kv_heads=1, head_dim=16)
    model = new_model(recipe, len(TOKENIZER), 0, "model").eval()
    items = fitting.fluency_items(LEXICON, TOKENIZER, 0, "test/fluency", 3)
    for item, loss in zip(items, fitting.continuation_losses(model, items, batch=4), strict=True):
        with torch.no_grad():
            log_p = model(torch.tensor([item.context + item.continuation])).logits[0].log_softmax(-1)
        start = len(item.context)
        expected = -np.mean([float(log_p[start + i - 1, token]) for i, token in enumerate(item.continuation)])
        assert loss == pytest.approx(expected, rel=1e-4)


def test_a_sentence_is_the_product_of_its_tokens():
    likelihood = np.array([[0.4, 0.45, 0.05, 0.10], [0.4, 0.05, 0.25, 0.30]], dtype=np.float32)
    judge = judge_of(np.log(likelihood), np.log(np.array([0.5, 0.5], dtype=np.float32)))
    # tokens 1 and 3: .45 * .10 against .05 * .30 = 3 : 1
    np.testing.assert_allclose(fitting.classify_sentence(judge, [1, 3]), [0.75, 0.25], rtol=1e-6)
    np.testing.assert_allclose(fitting.classify_sentence(judge, []), [0.5, 0.5], rtol=1e-6)


def test_calibration_error_by_hand():
    # One token decides: token 0 gives .75 to topic 0, token 1 gives .75 to topic 1.
    judge = judge_of(np.log(np.array([[0.75, 0.25], [0.25, 0.75]], dtype=np.float32)), np.log(np.array([0.5, 0.5], dtype=np.float32)))
    # Right in 1 of 2 at confidence .75: accuracy .5, error .25.
    accuracy, error = fitting.sentence_accuracy(judge, [((0,), 0), ((1,), 0)])
    assert (accuracy, error) == (0.5, pytest.approx(0.25))
