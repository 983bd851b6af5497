"""The statistics again, slowly and obviously, from their definitions; nothing of the package is used."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np


def p1_factor(factors: Sequence[float], success: Sequence[float], perplexity: Sequence[float | None], limit: float) -> float | None:
    """P1 (arXiv 2505.20063): drop factors with success above the limit, maximise (success / max) / (perplexity / max)."""
    left = [
        (factor, s, p)
        for factor, s, p in sorted(zip(factors, success, perplexity, strict=True), key=lambda item: item[0])
        if factor > 0 and s <= limit and p is not None
    ]
    if not left or max(s for _, s, _ in left) == 0:
        return None
    max_s, max_p = max(s for _, s, _ in left), max(p for _, _, p in left)
    best, best_ratio = None, -1.0
    for factor, s, p in left:
        ratio = (s / max_s) / (p / max_p)
        if ratio > best_ratio * (1 + 1e-12):
            best, best_ratio = factor, ratio
    return best


def capped_factor(factors: Sequence[float], success: Sequence[float], perplexity: Sequence[float | None], cap: float) -> float | None:
    """The largest success among positive factors with perplexity <= cap x unsteered; none: the lowest perplexity; no success: None."""
    rows = sorted(zip(factors, success, perplexity, strict=True), key=lambda item: item[0])
    unsteered = next((p for factor, _, p in rows if factor == 0), None)
    positive = [row for row in rows if row[0] > 0]
    readable = [row for row in positive if row[2] is not None]
    if not readable or all(s == 0 for _, s, _ in positive):
        return None
    allowed = [row for row in readable if unsteered is not None and row[2] <= cap * unsteered]
    if allowed:
        most = max(s for _, s, _ in allowed)
        return next(factor for factor, s, _ in allowed if s == most)
    lowest = min(p for _, _, p in readable)
    return next(factor for factor, _, p in readable if p == lowest)


def within_layer_permutations(values: Sequence[float], layers: Sequence[int]) -> Iterator[list[float]]:
    """Every arrangement of the values that keeps each in its layer."""
    groups = [[index for index, layer in enumerate(layers) if layer == each] for each in sorted(set(layers))]
    for arrangement in itertools.product(*(itertools.permutations(group) for group in groups)):
        permuted = list(values)
        for group, source in zip(groups, arrangement, strict=True):
            for target, index in zip(group, source, strict=True):
                permuted[target] = values[index]
        yield permuted


def exact_p_within_layers(values: Sequence[float], scores: Sequence[float], layers: Sequence[int], threshold: float) -> float:
    """Share of all arrangements inside layers whose kept mean is as far from the mean of all arrangements as the observed one."""
    kept = [index for index, score in enumerate(scores) if score >= threshold]
    observed = sum(values[index] for index in kept)
    sums = [sum(permuted[index] for index in kept) for permuted in within_layer_permutations(values, layers)]
    middle = sum(sums) / len(sums)
    return sum(abs(total - middle) >= abs(observed - middle) - 1e-9 for total in sums) / len(sums)


def removal_means(values: Sequence[float], n_kept: int) -> list[float]:
    """The mean of every subset of n_kept values."""
    return [sum(subset) / n_kept for subset in itertools.combinations(values, n_kept)]


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, ties sharing their mean rank."""
    return [sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values]


def pooled_rank_correlation(x: Sequence[float], y: Sequence[float], strata: Sequence[int]) -> float:
    """Correlation of centred ranks, ranked inside each stratum and divided by its size."""
    a, b = [], []
    for stratum in set(strata):
        members = [index for index, each in enumerate(strata) if each == stratum]
        n = len(members)
        a += [(rank - (n + 1) / 2) / n for rank in ranks([x[index] for index in members])]
        b += [(rank - (n + 1) / 2) / n for rank in ranks([y[index] for index in members])]
    return sum(p * q for p, q in zip(a, b, strict=True)) / math.sqrt(sum(p * p for p in a) * sum(q * q for q in b))


def pmi(texts: Sequence[Sequence[int]], generated: Sequence[int], lens: Sequence[int], n_top: int) -> tuple[list[float], int]:
    """PMI of each pair that shares a text, and how many pairs never do; generated tokens that no text holds are ignored."""
    sets = [set(text) for text in texts]
    counts = {token: count for token, count in Counter(generated).items() if any(token in text for text in sets)}
    top = sorted(counts, key=lambda token: (-counts[token], token))[:n_top]
    values, absent = [], 0
    for a in top:
        for b in lens:
            if a == b:
                continue
            p_a, p_b = (np.mean([token in text for text in sets]) for token in (a, b))
            p_both = np.mean([a in text and b in text for text in sets])
            if p_both > 0:
                values.append(math.log(p_both / (p_a * p_b)))
            else:
                absent += 1
    return values, absent
