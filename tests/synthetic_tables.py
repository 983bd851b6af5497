"""Plausible tables of a world that does not exist: what the statistics and the figures are tested on, without a model."""

import math
from collections.abc import Callable

import numpy as np
import polars as pl

from saesteer.analysis.best_factor import best_factors, outcomes
from saesteer.analysis.examples import examples
from saesteer.analysis.pmi import feature_pmi, pmi_by_threshold
from saesteer.analysis.selection import factor_bins, filter_variants, lens_frequencies, selection
from saesteer.analysis.tables import STEERING
from saesteer.core.files import text_id
from saesteer.core.texts import of_features
from saesteer.settings import BestFactorSettings, SelectionSettings
from saesteer.steps.features import FEATURES
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES

TOPICS = ("sea", "weather", "chess", "cooking", "music")
PREFIXES = ("From what I have seen,", "Most people say", "It is known that", "Last year")
FACTORS = ("0", "0.2", "0.4", "0.8", "1.2", "1.6", "2", "2.5", "3", "3.5", "4", "6", "8", "10", "20")
CONTENT_WORDS = ("ship", "wave", "storm", "rain", "pawn", "queen", "bread", "salt", "song", "drum", "old", "new", "said", "went")
WORDS = [f"▁{word}" for word in (*CONTENT_WORDS, "found", "never", "the", "a", "of", "and")]
THRESHOLDS = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9)


def selection_settings(**changes: object) -> SelectionSettings:
    """Settings with few draws, so that tests are fast."""
    values = {"thresholds": THRESHOLDS, "late_layers_from": 5, "random_draws": 200, "permutations": 400}
    return SelectionSettings(**(values | changes))


def synthetic_features(n_layers: int = 8, n_features: int = 30, seed: int = 0) -> pl.DataFrame:
    """A FEATURES table: input score falls with depth, output score rises; one feature in 15 is dead, half have a concept."""
    rng = np.random.default_rng(seed)
    rows = []
    for layer in range(n_layers):
        depth = layer / max(n_layers - 1, 1)
        for feature in np.sort(rng.choice(1024, n_features, replace=False)).tolist():
            dead, topic = rng.random() < 1 / 15, rng.random() < 0.5
            score = float(min(1.0, 0.02 * math.exp(2.0 * depth + 1.3 * rng.normal())))
            lens = rng.choice(len(WORDS), min(20, len(WORDS) - 2), replace=False).tolist()
            row = {"layer": layer, "feature": feature, "density": 0.0 if dead else float(rng.beta(1, 80))}
            row |= {"max_activation": None if dead else float(np.float32(rng.gamma(4, 5))), "n_examples": 0 if dead else 100}
            row |= {"explanations": [], "explanation": None}
            row["page"] = f"https://www.neuronpedia.org/world/{layer}-res/{feature}" if layer % 2 else None
            row["concept"] = TOPICS[int(rng.integers(len(TOPICS)))] if topic and not dead else None
            row["concept_share"] = None if dead else float(rng.random())
            row |= {"top_logit_lens_tokens": [WORDS[i] for i in lens], "top_logit_lens_token_ids": lens}
            row["input_score"] = None if dead else float(rng.beta(0.6 + 4 * (1 - depth), 0.6 + 4 * depth))
            row["input_score_reason"] = "0 max-activating examples, 10 are needed" if dead else None
            row |= {"output_score": score, "min_rank": int(rng.integers(0, 50)), "max_prob": score, "delta_token_confidence": score}
            rows.append(row | {"a_max": float(rng.gamma(4, 5))})
    return pl.DataFrame(rows, schema=FEATURES.schema)


def synthetic_steering(features: pl.DataFrame, factors: tuple[str, ...] = FACTORS, seed: int = 0) -> pl.DataFrame:
    """A STEERING table: success and perplexity rise with the factor, success faster where the output score is high."""
    rng, rng_whole = np.random.default_rng(seed + 1), np.random.default_rng(seed + 5)
    n = 10  # texts of a half
    rows = []
    for feature in features.iter_rows(named=True):
        gain = 2.5 * feature["output_score"] ** 0.5 * rng.lognormal(0, 0.5)
        for factor in factors:
            for half in (0, 1):
                push = gain * float(factor) * 0.4
                success = round(float(np.clip(0.05 + push + 0.15 * rng.normal(), 0, 20)), 1)
                rated = feature["concept"] is not None
                concept = float(np.clip(push / 1.5 + 0.1 * rng.normal(), 0, 2))
                fluency = float(np.clip(2 - 0.25 * float(factor) + 0.1 * rng.normal(), 0, 2))
                empty = float(factor) >= 20 and rng.random() < 0.1
                harmonic = 2 * concept * fluency / (concept + fluency) if concept + fluency > 0 else 0.0
                row = {"layer": feature["layer"], "feature": feature["feature"], "factor": factor, "half": half, "n": n}
                row |= {"gen_success_1": success / 8, "gen_success_5": success / 3, "gen_success_20": success}
                row["log_perplexity"] = None if empty else float(1.7 + 0.35 * float(factor) + 0.1 * rng.normal())
                row["n_perplexity"] = 0 if empty else n
                row["mean_perplexity"] = None if empty else float(np.exp(1.8 + 0.35 * float(factor) + 0.2 * rng_whole.normal()))
                row["whole_text_perplexity"] = float(np.exp(2.5 + 0.1 * float(factor) + 0.1 * rng_whole.normal()))
                if rated:
                    row |= {"concept_rating": concept, "judge_score": harmonic, "concept_outside": 0.5 * concept}
                row |= dict.fromkeys(("n_concept", "n_outside", "n_judged"), n * rated)
                rows.append(row | {"fluency_rating": fluency, "n_fluency": n})
    return pl.DataFrame(rows, schema=STEERING.schema)


def synthetic_texts(seed: int = 0) -> pl.DataFrame:
    """Labelled texts' ids and tokens; the last two words occur in none."""
    rng = np.random.default_rng(seed + 2)
    rows = [{"text_id": f"{i:016x}", "token_ids": rng.integers(0, len(WORDS) - 2, 8).tolist()} for i in range(200)]
    return pl.DataFrame(rows, schema={"text_id": pl.String, "token_ids": pl.List(pl.UInt32)})


def synthetic_generations(features: pl.DataFrame, factors: tuple[str, ...], seed: int = 0) -> pl.DataFrame:
    """Sweep rows, one sample for each prefix."""
    rng = np.random.default_rng(seed + 3)
    rows = []
    for layer, feature in features.select("layer", "feature").iter_rows():
        for factor in factors:
            for prefix in PREFIXES:
                ids = rng.integers(0, len(WORDS), 12).tolist()
                text = "".join(WORDS[i] for i in ids).replace("▁", " ")
                rows.append((layer, "feature", str(feature), factor, text_id(prefix), 0, ids, text, len(ids), False, None, None))
    return of_features(pl.DataFrame(rows, schema=GENERATIONS.schema, orient="row"))


def lens_rows(layer: int, token_ids: dict[int, list[int]]) -> pl.DataFrame:
    """What the counts of top logit-lens tokens read of a LOGIT_LENS table."""
    rows = [{"layer": layer, "feature": feature, "token_ids": ids} for feature, ids in token_ids.items()]
    return pl.DataFrame(rows, schema_overrides=LOGIT_LENS.schema)


def synthetic_examples(features: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Max-activating examples of every feature, none for dead ones."""
    rng = np.random.default_rng(seed + 4)
    rows = []
    for feature in features.iter_rows(named=True):
        context = [WORDS[i] for i in rng.integers(0, len(WORDS), 10)]
        place = {"rank": 0, "text_id": "0" * 16, "token_index": 4}
        example = place | {"token": context[4], "token_id": 4, "max_value": 1.0, "context": context}
        alive = feature["max_activation"] is not None
        known = {name: feature[name] for name in ("layer", "feature", "density", "max_activation", "n_examples", "explanations")}
        histogram = {"histogram_activations": [0.1, 0.3, 0.5, 0.7, 0.9], "histogram_counts": [1200, 85, 0, 3, 1]} if alive else {}
        rows.append(known | histogram | {"examples": [example] if alive else [], "source": "local"})
    return pl.DataFrame(rows, schema=MAX_ACTIVATING_EXAMPLES.schema)


def synthetic_outcomes(n_layers: int = 8, n_features: int = 30, factors: tuple[str, ...] = FACTORS, seed: int = 0) -> pl.DataFrame:
    """OUTCOMES as `main_tables` has them, without the tables that take long."""
    features = synthetic_features(n_layers, n_features, seed)
    return outcomes(best_factors(synthetic_steering(features, factors, seed), BestFactorSettings()), features)


def main_tables(
    n_layers: int = 8,
    n_features: int = 30,
    factors: tuple[str, ...] = FACTORS,
    seed: int = 0,
    order: Callable[[pl.DataFrame], pl.DataFrame] = lambda rows: rows,
    **changes: object,
) -> dict[str, pl.DataFrame]:
    """Every summary table of the main job, by name, each from tables whose rows are in the order that `order` gives them; `changes` are
    selection settings."""
    settings = selection_settings(**changes)
    features = synthetic_features(n_layers, n_features, seed)
    steering = order(synthetic_steering(features, factors, seed))
    generations = order(synthetic_generations(features, factors, seed))
    local_examples, features = order(synthetic_examples(features, seed)), order(features)
    best = order(best_factors(steering, BestFactorSettings()))
    results = order(outcomes(best, features))
    frequencies = order(lens_frequencies(generations.filter(factor="0"), features))
    pmi = feature_pmi(generations, results, features, synthetic_texts(seed=seed), "capped")
    chosen = (generations, PREFIXES, "capped", 8, settings.late_layers_from)
    return {
        "features": features,
        "steering": steering,
        "best_factors": best,
        "outcomes": results,
        "selection": selection(results, settings),
        "filter_variants": filter_variants(steering, features, frequencies, BestFactorSettings(), settings),
        "factor_bins": factor_bins(steering, features, (0.0, 0.01, 0.1, 0.3, 1.0), settings),
        "feature_pmi": pmi,
        "pmi": pmi_by_threshold(pmi, settings),
        "examples": examples(results, features, local_examples, *chosen),
    }
