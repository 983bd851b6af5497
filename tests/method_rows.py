"""Rows of a comparison of methods: written out text by text for examples by hand, or plausible ones drawn for a whole table."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from saesteer.core.texts import of_fits
from saesteer.methods.compare import protocol, summaries
from saesteer.methods.compare.paper_values import Protocol
from saesteer.methods.compare.protocol import Rows
from saesteer.methods.compare.tables import METHOD_SCORES
from saesteer.settings import BestFactorSettings
from saesteer.settings.methods import MethodSettings
from saesteer.settings.registry import METHODS, method
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.steps.fits import FITS
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.perplexity import PERPLEXITY

LAYER = 5
BEST_FACTOR = BestFactorSettings()
TOPICS = {"kind": "topics", "topics": ("sea", "weather"), "lexicon": "lexicon.yaml", "openers": "prefixes.txt"}
TEXTS = of_fits(pl.DataFrame(schema=GENERATIONS.schema)).schema
Ratings = tuple[int | None, int | None, int | None]  # concept, instruction, fluency


def method_settings(**changes: Any) -> MethodSettings:
    """Settings with few draws, so that tests are fast."""
    values: dict[str, Any] = {"concepts": TOPICS, "prompts": "prefixes.txt", "bootstrap_draws": 200}
    values["methods"] = [row.name for row in METHODS if row.name != "from_file"]
    return MethodSettings(**(values | changes))


def harmonic(ratings: Ratings) -> float | None:
    """The harmonic mean of those that apply, in plain Python; an instruction that is None does not apply."""
    concept, instruction, fluency = ratings
    if concept is None or fluency is None:
        return None
    given = [concept, fluency] if instruction is None else [concept, instruction, fluency]
    return 0.0 if min(given) == 0 else len(given) / sum(1 / rating for rating in given)


def fit_row(key: str, concept_id: str, layer: int = LAYER, **changes: Any) -> dict[str, Any]:
    row = {
        "layer": layer, "method": key, "concept_id": concept_id, "kind": "addition", "tensors": b"", "values": "{}", "features": [],
        "residual_change": 3.0, "residual_norm": 12.0, "n_texts": 144, "r2": None, "fit_seconds": 0.5, "reason": None,
    }  # fmt: skip
    if changes.get("kind", "addition") is None:
        changes |= {"tensors": None, "values": None, "residual_change": None, "residual_norm": None, "reason": "no feature"}
    return row | changes


def rows_of(
    texts: Iterable[tuple[str, str, str, str, Ratings]],
    abstaining: Iterable[tuple[str, str]] = (),
    fits: Mapping[tuple[str, str], dict[str, Any]] | None = None,
) -> Rows:
    """Rows from texts (method, concept, factor, prompt, ratings); a prompt that occurs again is a further sample."""
    samples: dict[tuple[str, ...], int] = {}
    steered, perplexity, judgements, made = [], [], [], {}
    for key, concept, factor, prompt, ratings in texts:
        place = (key, concept, factor, prompt)
        samples[place] = samples.get(place, -1) + 1
        ids = {"layer": LAYER, "method": key, "concept_id": concept, "factor": factor, "prefix_id": prompt, "sample": samples[place]}
        made[key, concept] = fit_row(key, concept, **(fits or {}).get((key, concept), {}))
        steered.append(
            ids | {"token_ids": [5, 6, 7, 8], "text": f"{key} {factor}", "n_tokens": 4, "stopped": True, "seconds": 0.2, "reason": None}
        )
        nll = {"mean_nll": 1.0 + float(factor), "whole_text_nll": 2.0 + float(factor) / 2}
        perplexity.append(ids | nll | {"n_scored": 4, "reason": None})
        names = ("concept_rating", "instruction_rating", "fluency_rating")
        score = harmonic(ratings)
        judgements.append(
            ids | dict(zip(names, ratings, strict=True)) | {"judge_score": score, "reason": "unread" if score is None else None}
        )
    prompts = sorted({row["prefix_id"] for row in steered})
    for key, concept in abstaining:
        made[key, concept] = fit_row(key, concept, kind=None)
        for prompt in prompts:  # as the workflow writes them: rows without a text
            ids = {"layer": LAYER, "method": key, "concept_id": concept, "factor": "1", "prefix_id": prompt, "sample": 0}
            steered.append(ids | {"token_ids": None, "text": None, "n_tokens": 0, "stopped": False, "seconds": 0.0, "reason": "no feature"})
    concepts = [{"concept_id": name, "concept": name, "label_feature": None} for name in sorted({concept for _, concept in made})]
    return Rows(
        pl.DataFrame(steered, schema=TEXTS),
        pl.DataFrame(perplexity, schema=of_fits(pl.DataFrame(schema=PERPLEXITY.schema)).schema),
        pl.DataFrame(judgements, schema=of_fits(pl.DataFrame(schema=JUDGEMENTS.schema)).schema),
        pl.DataFrame(list(made.values()), schema=FITS.schema),
        pl.DataFrame(concepts, schema=COMPARED_CONCEPTS.schema),
    )


def score_rows(values: Mapping[str, Sequence[float | None]]) -> pl.DataFrame:
    """METHOD_SCORES of methods with one score a concept."""
    rows = [
        {"layer": LAYER, "method": key, "concept_id": f"{number:016x}", "concept": str(number), "score": score, "abstains": False}
        for key, scores in values.items()
        for number, score in enumerate(scores)
    ]
    return pl.DataFrame([dict.fromkeys(METHOD_SCORES.columns) | row for row in rows], schema=METHOD_SCORES.schema)


def shuffled(rows: Rows, seed: int) -> Rows:
    """The same rows in another order."""
    return Rows(*(getattr(rows, name).sample(fraction=1.0, shuffle=True, seed=seed + place) for place, name in enumerate(vars(rows))))


PROMPTS = tuple(f"{number:016x}" for number in range(6))


def synthetic_rows(settings: MethodSettings, n_concepts: int = 6, prompts: tuple[str, ...] = PROMPTS, seed: int = 0) -> Rows:
    """All methods of the settings: concept ratings rise with the factor, fluency falls; one rating in 40 is missing, some fits abstain."""
    rng = np.random.default_rng(seed)
    texts, abstaining, fits = [], [], {}
    for name in settings.methods:
        key, grid = method(name).key, method(name).grid
        factors = settings.factors.factors(method(name))
        strength, harm = rng.uniform(0, 1.2), rng.uniform(0.1, 0.5)
        for concept in range(n_concepts):
            concept_id = f"{concept:016x}"
            if name.startswith("sae") and rng.random() < 0.25:
                abstaining.append((key, concept_id))
                continue
            r2 = 0.7 if "effects" in method(name).needs else None
            fits[key, concept_id] = {"residual_change": float(rng.gamma(4, 1)), "r2": r2, "fit_seconds": float(rng.gamma(2, 0.2))}
            for factor in factors:
                push = 0.0 if grid == "once" else math.log1p(float(factor))
                for prompt in prompts:
                    drawn = np.clip(rng.normal([0.3 + strength * push, 1.9 - harm * push], 0.5).round(), 0, 2).astype(int).tolist()
                    texts.append((key, concept_id, factor, prompt, (None if rng.random() < 1 / 40 else drawn[0], None, drawn[1])))
    rows = rows_of(texts, abstaining, fits)
    noise = pl.Series(rng.normal(0, 0.1, rows.perplexity.height))
    return replace(rows, perplexity=rows.perplexity.with_columns(pl.col("mean_nll") + noise))


def scored(
    rows: Rows, prefix_ids: Sequence[str], settings: MethodSettings, best_factor: BestFactorSettings = BEST_FACTOR
) -> dict[str, pl.DataFrame]:
    """The protocol's tables, with P1's own limit."""
    return protocol.scored(rows, protocol.prompt_halves(prefix_ids, settings.factor_choice), settings, best_factor)


def method_summaries(
    rows: Rows, prefix_ids: Sequence[str], settings: MethodSettings, protocols: dict[int, Protocol]
) -> dict[str, pl.DataFrame]:
    """Every summary table, with P1's own limit."""
    return summaries.method_summaries(rows, prefix_ids, settings, BEST_FACTOR, protocols)
