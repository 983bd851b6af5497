"""Texts of what was chosen, on prompts that took no part in the choice: what is reported of it.

They are made afresh by the experiment's own protocol and judge (exports.measured), several of each prompt: they are few beside those that
chose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, islice

import polars as pl

from saesteer.analysis.recommendation import FEATURE, UNSTEERED, Estimate, estimated
from saesteer.analysis.suppression import edit_of
from saesteer.engine.damage import N_CONTEXT, loss_rises, ordinary_texts
from saesteer.engine.generations import feature_edit
from saesteer.engine.interventions import Nothing
from saesteer.engine.models import MIN_ROWS
from saesteer.exchange.measured import Form, rated_texts
from saesteer.run import Run
from saesteer.settings import LocalExamples
from saesteer.settings.methods import N_ORDINARY_TEXTS, ORDINARY_TOKENS
from saesteer.sources.corpus import read_texts
from saesteer.steps.judge import JUDGEMENTS

N_PROMPTS = 20
"""Prompts that score, at most."""
N_TEXTS = 40
"""Texts of each option that are scored, at least: as many of each prompt."""
MIN_PROMPTS = 10
"""Where fewer are left over, every other of the prompts that would choose scores instead."""
SCORES = ("judge_score", "concept_rating", "fluency_rating", "mean_nll")
COLUMNS = ("kind", "layer", "name", "factor", "prefix_id", "prompt", "text", *SCORES)


def choosing_and_scoring(prompts: Mapping[str, str], unused: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The prompts that choose and those that score, by prefix_id: an experiment's prompts and those left over in their file, or every other
    of the first in turn where too few are left over."""
    if len(unused) >= MIN_PROMPTS:
        return dict(prompts), dict(islice(unused.items(), N_PROMPTS))
    choosing = dict(islice(prompts.items(), 0, None, 2))
    rest = {prefix_id: prompt for prefix_id, prompt in prompts.items() if prefix_id not in choosing}
    return choosing, dict(islice((rest | dict(unused)).items(), N_PROMPTS))


def scored_texts(
    run: Run, concept: str, layer: int, options: pl.DataFrame, prompts: Mapping[str, str], n_texts: int = N_TEXTS
) -> pl.DataFrame:
    """COLUMNS of the unsteered model's texts (FEATURE, UNSTEERED) and of those of the features that `options` (kind, name, factor) has at
    the layer, prompts in their order. Scores are null without a judge."""
    lm, sae = run.model(), run.sae(layer)
    forms, names = [Form("0", Nothing(), 0.0)], [("0", FEATURE, "", UNSTEERED)]
    for number, (kind, name, factor) in enumerate(options.select("kind", "name", "factor").iter_rows(), start=1):
        edit, strength = edit_of(factor)
        forms.append(Form(str(number), feature_edit(sae, int(name), edit), strength))
        names.append((str(number), kind, name, factor))
    texts = rated_texts(run, lm, sae, forms, concept, n_texts, prompts).drop("factor")
    named = texts.join(pl.DataFrame(names, schema=["method", "kind", "name", "factor"], orient="row"), on="method", maintain_order="left")
    unrated = [pl.lit(None, JUDGEMENTS.schema[score]).alias(score) for score in SCORES if score not in named.columns]
    of_prompt = pl.col("prefix_id").replace_strict(dict(prompts), return_dtype=pl.String)
    return named.with_columns(pl.col("layer").cast(pl.Int64), *unrated, prompt=of_prompt).select(COLUMNS)


def ordinary_losses(run: Run, strengths: Sequence[tuple[int, str, str]]) -> dict[tuple[int, str, str], Estimate]:
    """What steering at each layer, feature and factor adds to the loss of ordinary texts, those of the experiment's max-activating
    examples; empty where it has none, or too short ones."""
    local, model = run.experiment.max_activating_examples, run.experiment.model
    if not isinstance(local, LocalExamples):
        return {}
    corpus = read_texts(local.texts, run.model_folder(), model.bos, ORDINARY_TOKENS)["token_ids"]
    if (corpus.list.len() > N_CONTEXT).sum() < MIN_ROWS:
        return {}
    texts = ordinary_texts(corpus.to_list(), N_ORDINARY_TEXTS, ORDINARY_TOKENS)
    losses, lm = dict[tuple[int, str, str], Estimate](), run.model()
    for (layer, name, edit), some in groupby(strengths, lambda strength: (*strength[:2], edit_of(strength[2])[0])):
        sae, factors = run.sae_with(layer, int(name)), [factor for *_, factor in some]
        rises = loss_rises(lm, sae, feature_edit(sae, int(name), edit), [edit_of(factor)[1] for factor in factors], texts)
        losses |= {
            (layer, name, factor): estimated(rise, run.experiment.intervals) for factor, rise in zip(factors, rises.tolist(), strict=True)
        }
    return losses
