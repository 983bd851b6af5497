"""Slow, obvious versions of the formulas over max-activating examples, top logit-lens tokens and generations, written from P1's text with
plain Python."""

from fractions import Fraction


def max_activating_examples(dense: dict[str, list[list[float]]], feature: int, n_examples: int) -> list[tuple[str, int, float]]:
    """(text_id, position, value) of a feature's max-activating examples. `dense` holds each text's codes, [position][feature]; position 0
    is BOS."""
    examples = []
    for text_id, codes in dense.items():
        values = [row[feature] for row in codes]
        best = max(range(1, len(values)), key=lambda position: (values[position], -position))
        if values[best] > 0:
            examples.append((text_id, best, values[best]))
    return sorted(examples, key=lambda example: (-example[2], example[0]))[:n_examples]


def histogram(values: list[float], n_bins: int) -> list[tuple[float, int]]:
    """(middle, count) of bins of equal width from 0 to the largest value, in exact fractions; a bin holds its lower edge, the last one the
    largest value too."""
    width = Fraction(max(values)) / n_bins
    bins = []
    for number in range(n_bins):
        low, high = number * width, (number + 1) * width
        count = sum(low <= Fraction(value) < high or (number == n_bins - 1 and value == max(values)) for value in values)
        bins.append((float((low + high) / 2), count))
    return bins


def input_score(example_token_ids: list[int], top_logit_lens_token_ids: list[int], min_examples: int) -> float | None:
    """P1: the fraction of a feature's max-activating examples whose maximal token is among its top logit-lens tokens."""
    if len(example_token_ids) < min_examples:
        return None
    return sum(token in top_logit_lens_token_ids for token in example_token_ids) / len(example_token_ids)


def gen_success(generated: list[int], top_logit_lens_token_ids: list[int], k: int) -> int:
    """P1: how many generated tokens are among the first k top logit-lens tokens."""
    return sum(token in top_logit_lens_token_ids[:k] for token in generated)


def concept(example_topics: list[int | None], token_topics: list[int], min_share: float) -> tuple[int | None, float, float]:
    """(topic or None, share, lift) of highest lift among the topics of enough share, or among all; token_topics are the topics of all
    labelled tokens."""
    best = (False, -1.0, 0, 0.0)
    for topic in sorted({t for t in example_topics if t is not None}):
        share = sum(t == topic for t in example_topics) / len(example_topics)
        lift = share / (sum(t == topic for t in token_topics) / len(token_topics))
        if (share >= min_share, lift) > best[:2]:
            best = (share >= min_share, lift, topic, share)
    _, lift, topic, share = best
    return (topic if share >= min_share else None), share, lift
