"""The protocol of the methods' comparison, one text at a time in plain Python: slow and obvious, to compare the package with."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

Ratings = tuple[int | None, int | None, int | None]
Text = tuple[str, str, str, str, Ratings]  # method, concept, factor, prompt, (concept, instruction, fluency)


def harmonic(values: Sequence[float]) -> float:
    return 0.0 if min(values) == 0 else len(values) / sum(1 / value for value in values)


def applying(ratings: Ratings) -> list[int] | None:
    """The ratings that apply, or None where one of them could not be read. Instructions apply everywhere or nowhere in these tests."""
    concept, instruction, fluency = ratings
    if concept is None or fluency is None:
        return None
    return [concept, fluency] if instruction is None else [concept, instruction, fluency]


def score_of(texts: list[Text], kind: str) -> float | None:
    """The score of some texts of one method, concept and factor."""
    if kind == "product_of_means":
        pairs = [(r[0] / 2, r[2] / 2) for *_, r in texts if r[0] is not None and r[2] is not None]
        return fmean(concept for concept, _ in pairs) * fmean(fluency for _, fluency in pairs) if pairs else None
    rated = [given for *_, r in texts if (given := applying(r)) is not None]
    if not rated:
        return None
    if kind == "harmonic_mean":
        return fmean(harmonic(given) for given in rated)
    return harmonic([fmean(column) for column in zip(*rated, strict=True)])


def unrated(texts: list[Text], kind: str) -> int:
    """How many of them have no score."""
    return sum(score_of([text], "product_of_means" if kind == "product_of_means" else "harmonic_mean") is None for text in texts)


def half_of(prompt: str, prompts: Sequence[str], choice: str) -> int:
    place = list(prompts).index(prompt)
    if choice == "same_texts":
        return 0
    return place % 2 if choice == "held_out" else int(place >= (len(prompts) + 1) // 2)


def directions(choice: str) -> list[tuple[int, int]]:
    """(half that chooses, half that reports)."""
    return {"held_out": [(1, 0), (0, 1)], "first_half": [(0, 1)], "same_texts": [(0, 0)]}[choice]


def chosen_factor(texts: list[Text], kind: str) -> str | None:
    """Of the half's texts: the factor of best score; of equals the smallest; a single factor needs no rating."""
    factors = sorted({text[2] for text in texts}, key=float)
    best, best_score = None, -1.0
    for factor in factors:
        value = score_of([text for text in texts if text[2] == factor], kind)
        if value is not None and value > best_score + 1e-9:
            best, best_score = factor, value
    return factors[0] if len(factors) == 1 else best


def prefers_one(texts: list[Text], kind: str) -> bool:
    """Whether the factors differ in what they are worth on the half's texts."""
    values = [score_of([text for text in texts if text[2] == factor], kind) for factor in {text[2] for text in texts}]
    known = [value for value in values if value is not None]
    return bool(known) and max(known) > min(known) + 1e-9


def concept_result(
    texts: list[Text], method: str, concept: str, prompts: Sequence[str], choice: str, kind: str, unsteered: str
) -> dict[str, Any]:
    """What a method's row of METHOD_SCORES says; a method without texts of the concept abstains."""
    own = [text for text in texts if text[:2] == (method, concept)]
    grid = sorted({text[2] for text in texts if text[0] == method}, key=float)
    scores, factors, ends, sizes, missing = [], [], [], [], []
    for chooses, reports in directions(choice):
        source = own or [text for text in texts if text[:2] == (unsteered, concept)]
        choosing = [text for text in source if half_of(text[3], prompts, choice) == chooses]
        factor = chosen_factor(choosing, kind)
        reported = [text for text in source if half_of(text[3], prompts, choice) == reports and text[2] == factor]
        scores.append(score_of(reported, kind) if factor is not None else None)
        factors.append(factor if own else None)
        if own and factor is not None and len(grid) > 1 and prefers_one(choosing, kind):
            ends.append((factor == grid[0], factor == grid[-1]))
        sizes.append(len(reported) if own else 0)
        missing.append(unrated(reported, kind) if own else 0)
    known = [score for score in scores if score is not None]
    return {
        "abstains": not own,
        "score": fmean(known) if known else None,
        "n_halves": len(known),
        "factors": factors,
        "n_choices": len(ends),
        "n_at_smallest": sum(smallest for smallest, _ in ends),
        "n_at_largest": sum(largest for _, largest in ends),
        "n": sum(sizes),
        "n_missing": sum(missing),
    }
