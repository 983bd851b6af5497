"""How far SAE-TS's approximator of effects goes: with more vectors, and at multiples of the scale that it is fitted at."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import EFFECTS
from saesteer.run import Run
from saesteer.summaries.summary import Summary
from studies.questions.experiments import measures_effects
from studies.questions.tables import APPROXIMATOR_SIZES, EFFECT_MULTIPLES, EFFECTS_AT_MULTIPLES, PSEUDO_INVERSES


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.methods.fit.effects import effect_features
    from studies.questions.effect_questions import approximator_sizes, effect_multiples, pseudo_inverses, told_apart

    compared, n_features, intervals = run.comparison.methods, run.experiment.saes.n_features, run.experiment.intervals
    n_held_out, again = compared.effects.n_held_out, run.summary_by_group(EFFECTS_AT_MULTIPLES)
    features = run.features(run.layers).drop_nulls("concept")
    frames: dict[str, list[pl.DataFrame]] = {table.name: [] for table in SUMMARY.tables}
    for layer in run.experiment.layers:
        vectors = effect_features(n_features, compared.effects.n_vectors, compared.seed, layer)
        effects = told_apart(run.rows(EFFECTS, [layer]), vectors, n_held_out)
        labelled = features.filter(layer=layer)["feature"].to_list()
        frames[APPROXIMATOR_SIZES.name].append(approximator_sizes(effects, n_held_out, intervals))
        frames[EFFECT_MULTIPLES.name].append(effect_multiples(effects, again.filter(layer=layer), n_held_out, intervals))
        frames[PSEUDO_INVERSES.name].append(pseudo_inverses(effects, labelled, n_held_out, intervals))
    return {name: pl.concat(of_table) for name, of_table in frames.items()}


SUMMARY = Summary((APPROXIMATOR_SIZES, EFFECT_MULTIPLES, PSEUDO_INVERSES), measures_effects, compute)
