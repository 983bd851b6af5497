"""How texts are scored: ratings by words for want of a judge, and texts of what was chosen, on prompts that took no part in the choice.

The texts are made afresh by the experiment's own protocol and judge (exchange.measured), several of each prompt: they are few beside those
that chose. Ratings by words say whether words for the concept are in the text, and whether the text is fluent. They are on the judges'
scale, 0 to 2, with the same rule against texts that repeat themselves. What a text is about is not known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby, islice

import polars as pl

from saesteer.analysis.acceptability import DISTINCT_BIGRAMS, fluency_by_loss
from saesteer.analysis.candidates import concept_words
from saesteer.analysis.recommendation import FEATURE, UNSTEERED, PromptMean, edit_of, estimated
from saesteer.analysis.score import harmonic_mean
from saesteer.engine.damage import TooFewTextsError, loss_rises
from saesteer.engine.generations import feature_edit
from saesteer.engine.interventions import Nothing
from saesteer.exchange.measured import MeasuredSteering, rated_texts
from saesteer.run import Run
from saesteer.settings.methods import N_ORDINARY_TEXTS
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.pilot import ordinary, ordinary_texts_pin

N_PROMPTS = 20
"""Prompts that score, at most."""
N_TEXTS = 40
"""Texts of each option that are scored, at least: as many of each prompt."""
MIN_PROMPTS = 10
"""Where fewer are left over, every other of the prompts that would choose scores instead."""
SCORES = ("judge_score", "concept_rating", "fluency_rating", "mean_nll")
FLUENT = 2.0
"""Most times the unsteered texts' perplexity for a fluency of 2; up to the limit on damage it is 1."""
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
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
    forms, names = [MeasuredSteering("0", Nothing(), 0.0)], [("0", FEATURE, "", UNSTEERED)]
    for number, (kind, name, factor) in enumerate(options.select("kind", "name", "factor").iter_rows(), start=1):
        edit, strength = edit_of(factor)
        forms.append(MeasuredSteering(str(number), feature_edit(sae, int(name), edit), strength))
        names.append((str(number), kind, name, factor))
    texts = rated_texts(run, lm, sae, forms, concept, n_texts, prompts).drop("factor")
    named = texts.join(pl.DataFrame(names, schema=["method", "kind", "name", "factor"], orient="row"), on="method", maintain_order="left")
    unrated = [pl.lit(None, JUDGEMENTS.schema[score]).alias(score) for score in SCORES if score not in named.columns]
    of_prompt = pl.col("prefix_id").replace_strict(dict(prompts), return_dtype=pl.String)
    return named.with_columns(pl.col("layer").cast(pl.Int64), *unrated, prompt=of_prompt).select(COLUMNS)


def ordinary_losses(run: Run, strengths: Sequence[tuple[int, str, str]]) -> dict[tuple[int, str, str], PromptMean]:
    """What steering at each layer, feature and factor adds to the loss of ordinary texts, those of the experiment's max-activating
    examples; empty where it has none, or too short ones."""
    if ordinary_texts_pin(run.steering) is None:
        return {}
    try:
        texts = ordinary(run, N_ORDINARY_TEXTS)
    except TooFewTextsError:
        return {}
    losses, lm = dict[tuple[int, str, str], PromptMean](), run.model()
    for (layer, name, edit), some in groupby(strengths, lambda strength: (*strength[:2], edit_of(strength[2])[0])):
        sae, factors = run.sae(layer), [factor for *_, factor in some]
        rises = loss_rises(lm, sae, feature_edit(sae, int(name), edit), [edit_of(factor)[1] for factor in factors], texts)
        losses |= {
            (layer, name, factor): estimated(rise, run.experiment.intervals) for factor, rise in zip(factors, rises.tolist(), strict=True)
        }
    return losses


def limits(words: Sequence[str]) -> str:
    """What such ratings go by, for the answer."""
    counted = f"the words {', '.join(words)}" if words else "only the words of the concept's name (--words names others)"
    return (
        f"Rated by words, not by a judge: counted are {counted}, whatever the text is about. Add a judge before you rely on it"
        " (docs/judges.md)."
    )


def rated_by_words(texts: pl.DataFrame, concept: str, words: Sequence[str], damage_limit: float) -> pl.DataFrame:
    """Texts (kind, factor, text, mean_nll) with concept_rating, fluency_rating and judge_score, their harmonic mean; null where there is
    no word to rate, or no loss, the unsteered texts' among them. The rating is 2 of a text with all words of the concept's name, or with
    two of `words` if these are given, 1 with fewer of them, 0 with none."""
    of_unsteered = texts.filter(kind=FEATURE, factor=UNSTEERED)["mean_nll"].mean()
    unsteered = math.nan if of_unsteered is None else float(str(of_unsteered))
    cuts = (unsteered + math.log(min(FLUENT, damage_limit)), unsteered + math.log(damage_limit))
    split = [_WORD.findall((text or "").lower()) for text in texts["text"]]
    counted = _counted(words or concept_words(concept))
    concepts = [_concept_rating(said, counted, min(2, len(counted)) if words else len(counted)) for said in split]
    losses = [None] * texts.height if of_unsteered is None else texts["mean_nll"].to_list()
    measured = zip(split, losses, strict=True)
    fluency = [fluency_by_loss(cuts, DISTINCT_BIGRAMS, said, loss) for said, loss in measured]
    rated = texts.with_columns(concept_rating=pl.Series(concepts, dtype=pl.UInt8), fluency_rating=pl.Series(fluency, dtype=pl.UInt8))
    return rated.with_columns(judge_score=harmonic_mean(["concept_rating", "fluency_rating"]))


def _counted(words: Collection[str]) -> list[str]:
    """Words, or phrases, as texts are split: each once, and none beside its own plural."""
    split = dict.fromkeys(" ".join(_WORD.findall(word.lower())) for word in words)
    return [word for word in split if word and not (word.endswith("s") and word[:-1] in split)]


def _concept_rating(said: Sequence[str], counted: Collection[str], n_of_all: int) -> int | None:
    """2 where `n_of_all` of the words, or phrases, are among a text's words (also with an s at the end), 1 where fewer are, else 0; None of
    a text without words."""
    text = f" {' '.join(said)} "
    n = sum(f" {word} " in text or f" {word}s " in text for word in counted)
    return (2 if n >= n_of_all else min(n, 1)) if said else None
