"""SAELogits (SAELogitsEnsemble of AxBench's program, stanfordnlp/axbench pull request 146; no paper yet): features that the concept's texts
set apart and whose top logit-lens tokens name the concept, added up.

Candidates, from every token of the texts' outputs: features that fire on at least 3 of the positive texts' tokens, and there more strongly
than on the negative texts' tokens where they fire at all. They are ranked by (m+ - m-) / m+ * q^alpha, with m+ and m- a feature's mean
activations over positive and negative texts' tokens and q the share of positive tokens on which it fires; the `MOST` best by each of two
alphas are taken. Of their top 5 top logit-lens tokens a language model judges which stand for the concept, and in what order. A feature's
weight is its mean activation where it fires, raised so that weight * largest lens logit does not rise down that order; the vector is the
weighted sum of decoder rows.

What departs: no language model is called. Words of the concept, which one may have written (`Problem.words`), stand in for the judge: a
feature is taken where a top logit-lens token is one of them, in the order of how many are, then of the mean logit of these tokens (the
program sorts what it shows the judge by that). Features with the same tokens as an earlier one are taken too; the judge is told to drop
them.
"""

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.hook_points import to_residual
from saesteer.engine.interventions import Addition
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.methods.fit.problem import Abstains, Problem
from saesteer.methods.fit.sae_features import candidates, combination, ranked, scored

ALPHAS = (0.05, 20.0)
MIN_ACTIVE = 3
MOST = 50
N_LOGIT_LENS_TOKENS = 5
LEAST_LOGIT = 1e-4
"""A feature whose largest logit is no larger keeps its mean activation as its weight: by a negative one the weight would be negative."""


def fit(problem: Problem) -> Addition:
    """The weighted sum of the features whose top logit-lens tokens name the concept, to unit norm."""
    rows = naming(problem, promising(problem))
    activations, logits = (torch.tensor(rows[name].to_list(), device=problem.lm.device) for name in ("code", "largest_logit"))
    return combination(problem, rows["feature"].to_list(), falling_weights(activations, logits))


def promising(problem: Problem) -> pl.DataFrame:
    """The candidates, with `code`, their mean activation where they fire on positive texts' tokens."""
    # Of every text's every feature: activations added up, and on how many tokens it fires.
    of_texts = problem.pooled_activations(lambda z: torch.cat([z.double().sum(dim=0), (z > 0).double().sum(dim=0)]))
    (positive, n_positive), (negative, n_negative) = (sums.sum(dim=0).chunk(2) for sums in of_texts)  # [n_features]
    n_tokens, n_others = len(problem.positive_tokens.read), len(problem.negative_tokens.read)
    columns = {"code": positive / n_positive.clamp(min=1), "elsewhere": negative / n_negative.clamp(min=1), "n_active": n_positive}
    columns["gap"] = 1 - (negative / n_others) / (positive / n_tokens)  # of no feature that never fires: it is filtered out
    columns["share"] = n_positive / n_tokens
    rows = candidates(problem)
    for name, values in columns.items():
        rows = scored(rows, name, values)
    rows = rows.filter((pl.col("code") > pl.col("elsewhere")) & (pl.col("n_active") >= MIN_ACTIVE))
    best = [ranked(rows.with_columns(score=pl.col("gap") * pl.col("share") ** alpha), "score").head(MOST).drop("score") for alpha in ALPHAS]
    return pl.concat(best).unique("feature").sort("feature")


def naming(problem: Problem, rows: pl.DataFrame) -> pl.DataFrame:
    """The features that promote a word of the concept among their `N_LOGIT_LENS_TOKENS` tokens, most words first, with
    `largest_logit`."""
    words = {word.casefold() for word in problem.words}
    if not words:
        raise Abstains("no words are given for the concept (methods.words)")
    if rows.is_empty():
        raise Abstains("the concept's texts set no feature apart")
    features = rows["feature"].to_list()
    directions, reaching = problem.sae.W_dec[features].float(), to_residual(problem.lm, problem.layer, problem.sae.meta.hook_point)
    ids, logits = top_logit_lens_tokens(problem.lm, directions, N_LOGIT_LENS_TOKENS, to_residual=reaching)
    tokens = [{text.strip().casefold() for text in problem.lm.tokenizer.batch_decode([[token] for token in row])} for row in ids.tolist()]
    rows = rows.with_columns(
        pl.Series("overlap", [len(words & texts) for texts in tokens], dtype=pl.Int64),
        pl.Series("largest_logit", logits[:, 0].numpy()),
        pl.Series("mean_logit", logits.mean(dim=1).numpy()),
    ).filter(pl.col("overlap") > 0)
    if rows.is_empty():
        raise Abstains("no feature that the concept's texts set apart promotes one of its words")
    return rows.sort("overlap", "mean_logit", "feature", descending=[True, True, False])


def falling_weights(activations: Float[Tensor, " feature"], logits: Float[Tensor, " feature"]) -> Float[Tensor, " feature"]:
    """Activations, each raised as far as weight * logit needs to be no less than that of any feature after it."""
    raised = (activations * logits).flip(0).cummax(dim=0).values.flip(0)
    return torch.where(logits > LEAST_LOGIT, raised / logits, activations)
