"""Ways of detecting a concept: each one's numbers by a slow formula, their AUROC by hand and by SciPy, regressions by scikit-learn."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from engine_models import shipped_model, shipped_sae
from scipy.stats import mannwhitneyu
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from saesteer.core.markdown import number
from saesteer.core.uncertainty import SHARES, mean_interval, of_differences
from saesteer.engine.hook_points import hook_point_of
from saesteer.engine.models import residual_at
from saesteer.engine.saes import encode
from saesteer.methods.fit.problem import Tokens
from saesteer.sources.corpus import topic_names
from studies import ROOT
from studies.pages.questions import BLOCKS, LABEL_FOLDER
from studies.questions.detection import Sample, classified, detected, sample
from studies.questions.labelled_texts import chosen_texts, texts_by_topic
from studies.questions.summaries.detection import BY_AUROC, DIFFMEAN, LABELLED, PROBE, WAYS, WORDS
from studies.questions.tables import DETECTION

LAYER, LABEL, N = 3, 5, 8


def test_the_auroc_is_the_share_of_pairs_in_order() -> None:
    """By hand: of (2, 0) against (1, 0, 0) the pairs are right, right, right and wrong, tied, tied: (3 + 2 / 2) / 6."""
    texts = Sample([], torch.tensor([True, True, False, False, False]), Tokens(torch.zeros(0, 1), torch.zeros(0, 1), []))
    assert texts.auroc(torch.tensor([[2.0], [0.0], [1.0], [0.0], [0.0]])).tolist() == [pytest.approx(4 / 6)]
    rng = np.random.default_rng(0)
    numbers, on = rng.integers(0, 6, (40, 3)).astype(np.float32), rng.random(40) < 0.4
    ours = Sample([], torch.from_numpy(on), texts.tokens).auroc(torch.from_numpy(numbers)).tolist()
    assert ours == pytest.approx([roc_auc_score(on, column) for column in numbers.T])
    pairs = on.sum() * (~on).sum()
    assert ours == pytest.approx([mannwhitneyu(column[on], column[~on]).statistic / pairs for column in numbers.T])


def test_a_regression_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    train, test, on = rng.poisson(0.7, (30, 8)), rng.poisson(0.7, (10, 8)), rng.random(30) < 0.5
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(train, on)
    ours = classified(torch.from_numpy(train).double(), torch.from_numpy(on), torch.from_numpy(test).double())
    assert ours.tolist() == pytest.approx((theirs.decision_function(test) - theirs.intercept_).tolist(), abs=1e-4)


def test_each_way_is_its_slow_formula_and_reads_no_first_token() -> None:
    lm, sae = shipped_model(), shipped_sae(LAYER)
    labelled = pl.read_parquet(ROOT / "data/world/texts.parquet")
    topics = topic_names(ROOT / "data/world/topics.json")
    point = hook_point_of(lm, LAYER, sae.meta.hook_point)
    train, test = (sample(lm, point, *chosen_texts(texts_by_topic(labelled[half::2], topics), "sea", N)) for half in (0, 1))
    assert train.is_on_concept.tolist() == test.is_on_concept.tolist() == [True] * N + [False] * N
    ways = {way: (feature, numbers.double().numpy()) for way, feature, numbers in detected(lm, point, sae, LABEL, train, test)}
    assert tuple(ways) == WAYS
    residuals = [[residual_at(lm, torch.tensor([text]), LAYER + 1)[0, 1:] for text in half.texts] for half in (train, test)]
    largest = [np.stack([encode(sae, residual).max(dim=0).values.numpy() for residual in half]) for half in residuals]
    first, second = largest[0][:N, None], largest[0][None, N:]  # every pair of training texts
    best = int(((first > second) + 0.5 * (first == second)).mean(axis=(0, 1)).argmax())
    assert [ways[way][0] for way in WAYS] == [LABEL, best, None, None, None]
    for way, feature in ((LABELLED, LABEL), (BY_AUROC, best)):
        np.testing.assert_allclose(ways[way][1], largest[1][:, feature], atol=1e-3)
    having, lacking = (torch.cat(residuals[0][group]).mean(dim=0) for group in (slice(N), slice(N, None)))
    direction = (having - lacking) / (having - lacking).norm()
    np.testing.assert_allclose(ways[DIFFMEAN][1], [float((residual @ direction).max()) for residual in residuals[1]], rtol=1e-3)
    means = [np.stack([residual.double().mean(dim=0).numpy() for residual in half]) for half in residuals]
    scaled = [(half - means[0].mean(axis=0)) / means[0].std(axis=0) for half in means]
    counts = [np.array([[text[1:].count(token) for token in range(lm.n_vocab)] for text in half.texts]) for half in (train, test)]
    assert test.token_counts(lm.n_vocab).tolist() == counts[1].tolist()
    for way, (seen, unseen) in ((PROBE, scaled), (WORDS, counts)):
        theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(seen, train.is_on_concept)
        np.testing.assert_allclose(ways[way][1], theirs.decision_function(unseen) - theirs.intercept_, atol=2e-3)


def test_the_page_shows_means_and_pairs_concepts_with_the_bag_of_words(tmp_path: Path) -> None:
    """By hand: DiffMean is .1 above and .3 below the bag of words, .1 below in the mean. A concept that a way lacks counts nowhere."""
    values = {DIFFMEAN: (0.9, 0.6), WORDS: (0.8, 0.9), PROBE: (0.7,)}
    rows = [(LAYER, concept, way, None, 9, 9, value) for way, of in values.items() for concept, value in zip("ab", of, strict=False)]
    (tmp_path / LABEL_FOLDER / "tiny-x").mkdir(parents=True)
    pl.DataFrame(rows, DETECTION.schema, orient="row").write_csv(tmp_path / LABEL_FOLDER / "tiny-x/detection.csv")
    lines = {line.split(" | ")[2]: line.split(" | ")[3:] for line in BLOCKS["open-detection"].markdown(tmp_path).splitlines()[2:]}
    low, high = mean_interval(np.array([0.1, -0.3]), 0.95, of_differences(SHARES)) or (0, 0)
    assert lines[DIFFMEAN][0] == "2"
    assert lines[DIFFMEAN][1].startswith("0.75 [")
    assert lines[DIFFMEAN][2] == f"−0.10 [{number(low)}, {number(high)}] |"
    assert lines[WORDS][2] == lines[LABELLED][2] == "– |"
    assert (lines[PROBE], lines[LABELLED][:2]) == (["1", "0.70", "−0.10 |"], ["0", "–"])
