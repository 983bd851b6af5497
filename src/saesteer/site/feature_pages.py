"""What a page of one feature shows: first its answer (how well it steers at the recommended factor, how far texts stay fluent, one good
text); its row, where its scores lie in the layer, max-activating examples, a histogram of activations, logit
lens, curves over factors, steered texts, neighbours."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import safe_open

from saesteer.analysis.best_factor import TIE, both_halves, recommended_factors
from saesteer.analysis.halves import split_halves
from saesteer.analysis.tables import OUTCOMES, STEERING
from saesteer.core.texts import SINGLE_FEATURE, of_features
from saesteer.core.uncertainty import SCALES, difference_interval, interval_columns, mean_interval
from saesteer.run import Run
from saesteer.settings import Sweep
from saesteer.site.feature_table import N_LOGIT_LENS_TOKENS, labels
from saesteer.site.labels import with_labels
from saesteer.site.pieces import grouped, shortened, write_list
from saesteer.steps.activations import ACTIVATIONS
from saesteer.steps.gen_success import GEN_SUCCESS
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.steps.perplexity import PERPLEXITY
from saesteer.summaries.summary import counted_ratings

N_EXAMPLES = 8
"""Max-activating examples shown of a feature, the first."""
BEFORE, AFTER = 24, 12
"""Tokens of such an example shown around its maximum."""
N_PROMPTS = 8
"""Prompts whose steered texts are shown, the first of the list."""
N_NEIGHBOURS = 8
_BLOCK = 512  # rows of a decoder whose cosines are computed at once
_CANDIDATES = 4  # times as many as are shown are sorted: their cosines may be equal once they are rounded
_RANKED = ("output_score", "input_score")
OUTCOME_COLUMNS = ("rule", "factors", "net_gen_success_20", "gen_success_20", "concept_rating", "fluency_rating", "judge_score")
CURVE_COLUMNS = ("factor", "n", "gen_success_20", "log_perplexity", "concept_rating", "fluency_rating", "judge_score")
ANSWER = ("measure", "score", "score_low", "score_high", "gain", "gain_low", "gain_high", "n")
"""Columns of `held_out_scores` that a page begins with."""
LEAST_FLUENCY = 1.0
"""Texts count as fluent where their mean fluency rating, of 2, is at least this."""
TEXT_KEYS = ("factor", "prompt", "sample")
TEXT_COLUMNS = ("text", "concept_rating", "instruction_rating", "fluency_rating", "judge_score", "mean_nll", "gen_success_20")
_LENS = ("logits", "suppressed_tokens", "suppressed_logits")
_HISTOGRAM = ("histogram_activations", "histogram_counts")
MEASURES = ("judge_score", "gen_success_20")
"""A feature's score is the first of them that it has."""
_KEYS = ["layer", "feature"]
_Feature = dict[int, Any]
"""Feature of a layer -> a part of its page."""


def held_out_scores(run: Run) -> pl.DataFrame | None:
    """layer, feature, the recommended `factor`, what it was `chosen_by`, measure, score and gain, each with `_low` and `_high`, and n, the
    prompts behind the intervals; of a feature without a score, nulls. None without a sweep.

    Score and gain are means of OUTCOMES by the experiment's rule, the gain's minus those of STEERING at factor 0. Intervals are over
    prompts, each at the factor that the other half of them chose.
    """
    outcomes, steering = (run.summary_if_any(table) for table in (OUTCOMES, STEERING))
    if not isinstance(run.experiment, Sweep) or outcomes is None or steering is None:
        return None
    outcomes, confidence = outcomes.filter(rule=run.experiment.best_factor.rule), run.experiment.intervals.confidence
    unsteered_means = steering.filter(factor="0").group_by(_KEYS).agg(pl.col(MEASURES).mean())
    rows = outcomes.join(unsteered_means, on=_KEYS, how="left", suffix="_unsteered", maintain_order="left")
    by_prompt = _by_prompt(run, outcomes)
    by_feature = by_prompt.partition_by(_KEYS, as_dict=True)
    scores = []
    for row in rows.iter_rows(named=True):
        if measure := next((name for name in MEASURES if row[name] is not None), None):
            texts = by_feature.get((row["layer"], row["feature"]), by_prompt.clear())
            steered, unsteered = (texts[name].drop_nulls().to_numpy() for name in (measure, f"{measure}_unsteered"))
            score, before, scale = row[measure], row[f"{measure}_unsteered"], SCALES[measure]
            gain = None if before is None else score - before
            intervals = interval_columns("score", score, mean_interval(steered, confidence, scale))
            intervals |= interval_columns("gain", gain, difference_interval(steered, unsteered, confidence, scale))
            scores.append({name: row[name] for name in _KEYS} | {"measure": measure} | intervals | {"n": len(steered)})
    types: dict[str, Any] = {f"{name}{end}": pl.Float64 for name in ("score", "gain") for end in ("", "_low", "_high")}
    keys = {name: outcomes.schema[name] for name in _KEYS}
    known = pl.DataFrame(scores, schema=keys | {"measure": pl.String} | types | {"n": pl.Int64})
    return recommended_factors(steering, run.experiment.best_factor).join(known, on=_KEYS, how="left", maintain_order="left")


def _by_prompt(run: Run, outcomes: pl.DataFrame) -> pl.DataFrame:
    """layer, feature, prefix_id, and each of MEASURES at the factor chosen for the prompt's half, 0 where steering failed, and of its
    unsteered texts (`_unsteered`). outcomes: of one rule."""
    prompt = [*_KEYS, "prefix_id"]
    success, ratings = run.rows_if_any(GEN_SUCCESS, None, ["gen_success_20"]), counted_ratings(run)
    texts = of_features(success.join(ratings, on=GEN_SUCCESS.keys, how="left"))
    means = texts.group_by(*prompt, "factor", maintain_order=True).agg(pl.col(MEASURES).cast(pl.Float64).mean())
    halves = split_halves(run.prompts_if_any(), run.sweep.best_factor.factor_choice)
    half = pl.col("prefix_id").replace_strict(halves, default=None, return_dtype=pl.Int64).alias("half")
    prompts = means.select(*prompt, half).unique(maintain_order=True).drop_nulls("half")
    chosen = prompts.join(outcomes.select(*_KEYS, "factors"), on=_KEYS, maintain_order="left")
    chosen = chosen.with_columns(factor=pl.col("factors").list.get("half"))
    steered = chosen.join(means, on=[*prompt, "factor"], how="left", maintain_order="left")
    counted = steered.with_columns(pl.when(pl.col("factor").is_not_null()).then(name).otherwise(0.0).alias(name) for name in MEASURES)
    return counted.join(means.filter(factor="0").drop("factor"), on=prompt, how="left", suffix="_unsteered", maintain_order="left")


def write_feature_pages(folder: Path, run: Run, features: pl.DataFrame, scores: pl.DataFrame | None) -> dict[str, Any]:
    """Write every feature's page, in the order of FEATURES; gives what the page has to know of them. scores: `held_out_scores`."""
    summaries = {table.name: run.summary_if_any(table) for table in (STEERING, OUTCOMES)} | {"scores": scores}
    columns = [name for name in features.columns if name not in ("top_logit_lens_token_ids", "explanation")]
    choice = run.experiment.best_factor if isinstance(run.experiment, Sweep) else None

    def pages() -> Iterator[dict[str, Any]]:
        for rows in _with_provenance(run, features).partition_by("layer", maintain_order=True):
            layer = int(rows["layer"][0])
            of_layer = {name: table.filter(pl.col("layer") == layer) for name, table in summaries.items() if table is not None}
            parts = _parts(run, layer, rows, of_layer)
            for row in shortened(rows.select(columns)).iter_rows():
                feature = row[1]
                yield {"row": row} | {name: of_feature[feature] for name, of_feature in parts.items() if feature in of_feature}

    return {
        "starts": write_list(folder, "f", pages()),
        "columns": columns,
        "curve": CURVE_COLUMNS,
        "answer": ANSWER,
        "outcomes": OUTCOME_COLUMNS,
        "rule": choice and choice.rule,
        "confidence": run.experiment.intervals.confidence,
        "edit": run.sweep.sweep.edit if choice else "addition",
        "held_out": choice is not None and choice.factor_choice == "held_out",
        "texts": [*TEXT_KEYS, *TEXT_COLUMNS],
    }


def _with_provenance(run: Run, features: pl.DataFrame) -> pl.DataFrame:
    """FEATURES whose last explanation, where it is a label of the judge's, says so."""
    said = pl.col("explanations")
    labelled = said.list.head(said.list.len() - 1).list.concat(pl.concat_list("labelled"))
    rows = with_labels(run, features).with_columns(explanations=pl.when(pl.col("label") == said.list.last()).then(labelled).otherwise(said))
    return rows.select(features.columns)


def _parts(run: Run, layer: int, rows: pl.DataFrame, summaries: Mapping[str, pl.DataFrame]) -> dict[str, _Feature]:
    parts = {"place": _ranks(rows), "label": dict(zip(rows["feature"], labels(rows), strict=True))}
    if run.has_rows(MAX_ACTIVATING_EXAMPLES, layer):
        examples = run.rows(MAX_ACTIVATING_EXAMPLES, [layer], ["examples", *_HISTOGRAM]).join(rows, on="feature", how="semi")
        parts["examples"] = _examples(examples, run.rows(ACTIVATIONS, [layer]) if run.has_rows(ACTIVATIONS, layer) else None)
        histograms = examples.select("feature", *_HISTOGRAM).drop_nulls().iter_rows()
        parts["histogram"] = {feature: [_rounded(activations), counts] for feature, activations, counts in histograms}
    if run.has_rows(LOGIT_LENS, layer):
        lens = run.rows(LOGIT_LENS, [layer], _LENS).join(rows, on="feature", how="semi").select("feature", *_LENS)
        parts["lens"] = {
            feature: [_rounded(logits), suppressed, _rounded(smallest)] for feature, logits, suppressed, smallest in lens.iter_rows()
        }
    if "outcomes" in summaries:
        parts["outcomes"] = grouped(summaries["outcomes"].select("feature", *OUTCOME_COLUMNS))
    texts = steered_texts(run, layer, SINGLE_FEATURE)
    if texts is not None:
        texts = of_features(texts.drop("reason")).drop("layer")
        parts["texts"] = grouped(texts)
    if "steering" in summaries and "scores" in summaries:
        curves, scores = both_halves(summaries["steering"]), summaries["scores"]
        parts["curve"] = grouped(curves.select("feature", *CURVE_COLUMNS))
        parts["recommended"] = {feature: how for feature, *how in scores.select("feature", "factor", "chosen_by").iter_rows()}
        parts["answer"] = answers(curves, scores, texts)
    if decoder := run.sae_file_if_any(layer):
        nearest = neighbours(decoder, rows["feature"].to_list())
        labelled = rows.select("feature", labels(rows), pl.col("top_logit_lens_tokens").list.head(N_LOGIT_LENS_TOKENS))
        shown = {feature: names for feature, *names in labelled.rows()}
        parts["neighbours"] = {
            feature: [(other, cosine, *shown[other]) for other, cosine in of_feature] for feature, of_feature in nearest.items()
        }
    return parts


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _ranks(rows: pl.DataFrame) -> _Feature:
    """Each score's rank in the layer, 1 the largest, and of how many."""
    ranks = rows.select("feature", *(pl.col(name).rank("min", descending=True) for name in _RANKED))
    counts = [int(rows[name].count()) for name in _RANKED]
    return {
        feature: [None if rank is None else [rank, n] for rank, n in zip(of_feature, counts, strict=True)]
        for feature, *of_feature in ranks.rows()
    }


def _examples(examples: pl.DataFrame, activations: pl.DataFrame | None) -> _Feature:
    """Feature -> its first examples: max activation, position of the maximum among the tokens shown, these tokens, where they activate the
    feature and by how much if that is known, and on which sides the text goes on."""
    every = examples.select("feature", "examples").explode("examples", empty_as_null=False).unnest("examples")
    start = (pl.col("token_index").cast(pl.Int64) - BEFORE).clip(lower_bound=0)
    first = every.filter(pl.col("rank") < N_EXAMPLES).sort("feature", "rank")
    first = first.with_columns(start=start, n_context=pl.col("context").list.len())
    first = first.with_columns(tokens=pl.col("context").list.slice("start", pl.col("token_index") - pl.col("start") + 1 + AFTER))
    by_text = None if activations is None else _activations(activations, first.select("feature", "text_id"))
    shown: _Feature = dict.fromkeys(examples["feature"].to_list(), ())
    columns = ("feature", "text_id", "max_value", "token_index", "start", "tokens", "n_context")
    for feature, text, value, at, begin, tokens, n in shortened(first.select(columns)).iter_rows():
        end, active = begin + len(tokens), {} if by_text is None else by_text.get((feature, text), {})
        by_token = [(position - begin, active[position]) for position in range(begin, end) if position in active]
        example = (value, at - begin, tokens, None if by_text is None else by_token, (begin > 0, end < n))
        shown[feature] = (*shown[feature], example)
    return shown


def _activations(activations: pl.DataFrame, texts: pl.DataFrame) -> dict[tuple[int, str], dict[int, float]]:
    """(feature, text_id) -> position of a token -> the feature's activation there, of the pairs in `texts`."""
    of_texts = activations.join(texts, on="text_id", how="semi").select("feature", "text_id", "token_index", "value")
    active = of_texts.explode("feature", "token_index", "value").join(texts, on=["feature", "text_id"], how="semi")
    by_text: dict[tuple[int, str], dict[int, float]] = {}
    for feature, text, position, value in shortened(active).iter_rows():
        by_text.setdefault((feature, text), {})[position] = value
    return by_text


def steered_texts(run: Run, layer: int, method: str | None = None) -> pl.DataFrame | None:
    """A layer's texts of the first prompts, with what was measured on each: the keys of GENERATIONS, `prompt` (its number) for prefix_id,
    TEXT_COLUMNS and `reason`. Of one method, or of all but single features."""
    if not run.has_rows(GENERATIONS, layer):
        return None
    texts = run.rows(GENERATIONS, [layer], ["text", "reason"])
    numbers = {prefix: number for number, prefix in enumerate(list(run.prompts_if_any())[:N_PROMPTS])}
    of_method = pl.col("method") == method if method else pl.col("method") != SINGLE_FEATURE
    texts = texts.filter(of_method, pl.col("prefix_id").is_in(list(numbers)))
    judged = ["concept_rating", "instruction_rating", "fluency_rating", "judge_score"]
    for table, columns in ((JUDGEMENTS, judged), (PERPLEXITY, ["mean_nll"]), (GEN_SUCCESS, ["gen_success_20"])):
        texts = texts.join(run.rows_if_any(table, [layer], columns), on=GENERATIONS.keys, how="left")
    texts = texts.with_columns(prefix_id=pl.col("prefix_id").replace_strict(numbers, return_dtype=pl.UInt32))
    order = ["method", "target", pl.col("factor").cast(pl.Float64), "prefix_id", "sample"]
    return texts.sort(order).select("layer", "method", "target", "factor", "prefix_id", "sample", *TEXT_COLUMNS, "reason")


def answers(curves: pl.DataFrame, scores: pl.DataFrame, texts: pl.DataFrame | None) -> dict[int, dict[str, Any]]:
    """Feature of a layer -> `held_out`, the values of ANSWER; `fluent`, see `fluent_up_to`; `text`, prompt and sample of the text that is
    shown. What is not known is None. curves: `both_halves`."""
    best = {} if texts is None else _best_texts(texts, scores)
    held_out = grouped(scores.drop_nulls("measure").select("feature", *ANSWER))
    made = {}
    for (feature,), curve in curves.partition_by("feature", as_dict=True, maintain_order=True).items():
        fluent = fluent_up_to({row["factor"]: row for row in curve.to_dicts()})
        made[feature] = {"held_out": held_out.get(feature, [None])[0], "fluent": fluent, "text": best.get(feature)}
    return made


def fluent_up_to(rows: Mapping[str, Mapping[str, Any]]) -> list[Any] | None:
    """The largest factor up to which the texts of every factor are fluent, null where those of the smallest are not, and whether it is
    the largest of all. None where fluency was not rated."""
    steered = [(factor, row["fluency_rating"]) for factor, row in rows.items() if float(factor) > 0]
    if all(fluency is None for _, fluency in steered):
        return None
    last = None
    for factor, fluency in steered:
        if fluency is None or fluency < LEAST_FLUENCY - TIE:
            return [last, False]
        last = factor
    return [last, True]


def _best_texts(texts: pl.DataFrame, scores: pl.DataFrame) -> dict[int, tuple[int, int]]:
    """Each feature's text at the recommended factor with the highest judge score, or the highest GenSuccess@20 where there is no judge
    score; of equal ones the first prompt's first. Texts without a score, and empty ones, come last."""
    rows = texts.join(scores, on=["feature", "factor"], how="semi")
    empty = pl.col("text").fill_null("").str.strip_chars() == ""
    highest = [-pl.col("judge_score"), -pl.col("gen_success_20").cast(pl.Int64)]
    rows = rows.sort("feature", empty, *highest, "prefix_id", "sample", nulls_last=True).unique(
        "feature", keep="first", maintain_order=True
    )
    return {feature: (prompt, sample) for feature, prompt, sample in rows.select("feature", "prefix_id", "sample").rows()}


def neighbours(decoder: Path, features: list[int]) -> dict[int, list[tuple[int, float]]]:
    """Each feature's nearest others of these features by cosine of the decoder rows, with the cosines to three digits."""
    with safe_open(decoder, framework="np") as opened:
        rows = opened.get_tensor("W_dec")[features].astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    n = min(N_NEIGHBOURS * _CANDIDATES, len(rows) - 1)
    nearest: dict[int, list[tuple[int, float]]] = {}
    for start in range(0, len(rows) if n else 0, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(rows)))
        cosines = rows[block] @ rows.T
        cosines[block - start, block] = -2  # no feature is its own neighbour
        places = np.argpartition(-cosines, n - 1, axis=1)[:, :n]
        for place, of_feature, neighbouring in zip(block, cosines, places, strict=True):
            pairs = sorted((-round(float(of_feature[other]), 3), features[other]) for other in neighbouring)
            nearest[features[place]] = [(other, -cosine) for cosine, other in pairs[:N_NEIGHBOURS]]
    return nearest
