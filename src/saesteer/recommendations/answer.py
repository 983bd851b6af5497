"""What `saesteer recommend` does: steer with the few features that a concept's name points to, have the texts judged, and say what to use.

The candidates are an experiment of their own (derived). Where the experiment has no judge, texts are rated by words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.analysis.halves import split_halves
from saesteer.analysis.recommendation import (
    ABLATED,
    CLAMPED,
    CONTROL,
    FEATURE,
    OPTION,
    UNSTEERED,
    Recommendation,
    as_multiple,
    best_options,
    harmless,
    met,
    recommend,
    recommend_less,
    scored_by_absence,
    unsteered_texts,
)
from saesteer.analysis.repeats import without_repeats
from saesteer.core.errors import SettingsError
from saesteer.core.files import text_id, write_text
from saesteer.core.texts import of_fits
from saesteer.methods.compare.protocol import at_every_layer
from saesteer.recommendations.candidates import candidates_sweep, picked_and_control, picked_features, usual_factors
from saesteer.recommendations.derived import TARGETS, derived_name, derived_run
from saesteer.recommendations.question import RecommendRequest, check_concept, evoking_prompts, with_concept_and_another
from saesteer.recommendations.scoring import COLUMNS, choosing_and_scoring, ordinary_losses, rated_by_words, scored_texts
from saesteer.run import Run, open_run
from saesteer.settings import Sweep, TopicConcepts, Workflow, experiment_name, load_experiment
from saesteer.settings.registry import key_of
from saesteer.settings.steps import SamplingSettings
from saesteer.steps.fits import FITS
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.perplexity import PERPLEXITY
from saesteer.workflow.project import bring_inputs

RIVALS = ("prompting", "diffmean")
_STRENGTH = ["layer", "name", "factor"]


@dataclass(frozen=True)
class Answer:
    """What is recommended, and what it rests on."""

    question: RecommendRequest
    recommendation: Recommendation
    candidates: pl.DataFrame
    """FEATURES columns and `match`."""
    choosing: pl.DataFrame
    """scoring.COLUMNS of every text on the prompts that chose, in their order, within the limit on damage."""
    scoring: pl.DataFrame
    """Rated texts of what was chosen and of the unsteered model, on the prompts that took no part in the choice."""
    is_reply: bool = False
    """Whether the model answers a prompt, which its text does not continue."""
    by_words: bool = False
    """Whether texts were rated by words (scoring.rated_by_words): those named, or for want of a judge those of the concept's name."""

    @property
    def title(self) -> str:
        """The experiment, and what is wanted."""
        return f"{self.question.name}: {'less of ' if self.question.less else ''}{self.question.concept}"

    @property
    def score_name(self) -> str:
        """What the scores are called."""
        if self.question.less:
            return "absence score by words" if self.by_words else "absence score"
        return "score by words" if self.by_words else "judge score"


def answer(workflow: Workflow, question: RecommendRequest) -> Answer:
    """The answer; computes what is missing."""
    for name in (question.name, question.comparison):
        if name is not None:
            experiment_name(name)
    source = as_sweep(workflow, question.name)
    bring_inputs(source.experiment)
    check_concept(source, question)
    return _answer_less(source, question) if question.less else _answer_more(source, question)


def _answer_more(source: Run, question: RecommendRequest) -> Answer:
    comparison = replace(open_run(question.comparison, source.workflow), loaded=source.loaded) if question.comparison else None
    rivals = with_concept_and_another(source, comparison, question) if comparison else {}
    picked = picked_features(source, question)
    values = of_candidates(question, source.sweep, picked) | {"sweep": candidates_sweep(source)}
    run = derived_run(source, "recommend", values, question)
    of_comparison = comparison.prompts() if comparison else {}
    unused = {prefix_id: prompt for prefix_id, prompt in run.unused_prompts().items() if prefix_id not in of_comparison}
    _, prompts = choosing_and_scoring(run.prompts(), unused)
    features = feature_texts(run).filter(pl.col("factor").cast(pl.Float64) >= 0)
    rival_texts = method_texts(source, comparison, question, rivals, prompts) if comparison else features.clear()
    does_score = pl.col("prefix_id").is_in(list(prompts))
    rate = partial(_rated, run, question)

    def scoring_texts(layer: int, option: pl.DataFrame) -> pl.DataFrame:
        texts = pl.concat([scored_texts(run, question.concept, layer, option, prompts), rival_texts.filter(does_score)])
        return rate(texts, dict.fromkeys(prompts, 0))

    choosing = rate(pl.concat([features, rival_texts]).filter(~does_score), split_halves(run.prompts() | of_comparison))
    return _answered(question, run, picked, choosing, scoring_texts)


def _answer_less(source: Run, question: RecommendRequest) -> Answer:
    chosen_by, prompts = choosing_and_scoring(*evoking_prompts(source, question.concept, question.prompts))
    picked, control = picked_and_control(source, question)
    file = _written(source, "less", question.concept, chosen_by)
    chosen_from = candidates_sweep(source)
    positive = sorted((factor for factor in chosen_from.get("factors", source.sweep.sweep.factors) if float(factor) > 0), key=float)
    below = ["0", *(f"-{factor}" for factor in positive), positive[0]]  # a sweep has a factor above 0
    features = of_candidates(question, source.sweep, picked)
    sweep = {"prefixes": str(file), "published_prefixes": None, "n_prefixes": len(chosen_by)}
    added = derived_run(source, "less", features | {"sweep": sweep | chosen_from | {"factors": below}}, question)
    edited = features | {"sweep": sweep | {"pilot": None, "factors": ["0", "1"], "edit": "ablation"}}
    ablated = derived_run(source, "less-ablation", edited, question)
    edited = features | {"sweep": sweep | {"pilot": None, "factors": usual_factors(added, below), "edit": "clamp"}}
    clamped = derived_run(source, "less-clamp", edited, question)
    number = pl.col("factor").cast(pl.Float64)
    choosing = [
        feature_texts(added).filter(number <= 0),
        feature_texts(ablated).filter(factor="1").with_columns(factor=pl.lit(ABLATED)),
        feature_texts(clamped).filter(number < 0).with_columns(factor=pl.concat_str(pl.lit(CLAMPED), "factor")),
    ]

    rate = partial(_rated, added, question)

    def scoring_texts(layer: int, option: pl.DataFrame) -> pl.DataFrame:
        names = control.filter(layer=layer).select(kind=pl.lit(CONTROL), name=pl.col("feature").cast(pl.String))
        of_control = names.join(option.select("factor"), how="cross")
        at_layer = pl.concat([option.select("kind", "name", "factor"), of_control])
        return rate(scored_texts(added, question.concept, layer, at_layer, prompts), dict.fromkeys(prompts, 0))

    return _answered(question, added, picked, rate(pl.concat(choosing), split_halves(added.prompts())), scoring_texts)


def _rated(run: Run, question: RecommendRequest, texts: pl.DataFrame, halves: Mapping[str, int]) -> pl.DataFrame:
    """Texts with scores: the judge's, or by words where the experiment has none; for less of the concept by its absence. A text that
    repeats what the same option wrote on other prompts of its half scores 0, as in every recommended factor."""
    rated = texts
    if not run.sweep.is_rated:
        rated = rated_by_words(texts, question.concept, question.words, run.sweep.recommendation.damage_limit)
    scored = scored_by_absence(rated) if question.less else rated
    return without_repeats(scored, OPTION, halves)


def _answered(
    question: RecommendRequest,
    run: Run,
    picked: pl.DataFrame,
    choosing: pl.DataFrame,
    scoring_texts: Callable[[int, pl.DataFrame], pl.DataFrame],
) -> Answer:
    """The answer from the rated texts that choose, unsteered ones among them. scoring_texts: of a layer and its options."""
    limit, settings = question.max_damage, run.sweep.selection
    steered = choosing.filter(pl.col("factor") != UNSTEERED)
    if limit is not None:
        unsteered = unsteered_texts(choosing)
        steered = harmless(_harmless_on_ordinary_text(run, steered, limit), unsteered, settings, limit)
        choosing = pl.concat([unsteered, steered])
    options = best_options(steered)
    best = options.filter(kind=FEATURE)
    scoring = scoring_texts(best["layer"][0] if best.height else run.layers[0], best)
    losses = ordinary_losses(run, best.select(_STRENGTH).rows())
    loss = next(iter(losses.values()), None)
    recommended_by = recommend_less if question.less else recommend
    recommended = recommended_by(question.concept, options, scoring, settings, limit or run.sweep.recommendation.damage_limit, loss)
    is_reply = run.experiment.model.prompt_format == "chat"
    return Answer(question, recommended, picked, choosing, scoring, is_reply, not run.sweep.is_rated)


def _harmless_on_ordinary_text(run: Run, steered: pl.DataFrame, limit: float) -> pl.DataFrame:
    """The texts without those of a feature's strengths that are not seen to keep ordinary text's perplexity within the limit."""
    strengths = steered.filter(kind=FEATURE).select(_STRENGTH).unique(maintain_order=True).rows()
    above = [of for of, rise in ordinary_losses(run, strengths).items() if met(as_multiple(rise), high=limit) != "shown"]
    left_out = pl.DataFrame(above, schema={name: steered.schema[name] for name in _STRENGTH}, orient="row")
    return steered.join(left_out.with_columns(kind=pl.lit(FEATURE)), on=["kind", *_STRENGTH], how="anti", maintain_order="left")


def as_sweep(workflow: Workflow, name: str) -> Run:
    """The experiment as a sweep: of one that stops at the scores, with the sections of the sweep that it extends."""
    run = open_run(name, workflow)
    try:
        sweep = replace(run, experiment=load_experiment(name, *workflow.all_experiments_dirs, kind="sweep"), loaded={})
    except SettingsError as fault:
        raise SettingsError(f"to recommend is to steer: {name} has to be of kind sweep, or to extend one that is. {fault}") from fault
    if (edit := sweep.sweep.sweep.edit) != "addition":
        raise SettingsError(f"{name} edits features by {edit} (sweep.edit); recommend adds them: name a sweep with edit addition")
    return sweep


def of_candidates(question: RecommendRequest, experiment: Sweep, picked: pl.DataFrame) -> dict[str, Any]:
    """The experiment file of the candidates, all rated against the concept; by nobody where words are counted."""
    listed = {layer: picked.filter(layer=layer)["feature"].sort().to_list() for layer in experiment.layers}
    concepts: dict[str, Any] = {"kind": "given", "concept": question.concept}
    if isinstance(experiment.concepts, TopicConcepts):
        concepts["topics"] = str(experiment.concepts.topics)
    return {
        "extends": question.name,
        "description": f"Candidates of {question.name} for {question.concept!r}, written by saesteer recommend",
        "kind": "sweep",
        "layers_per_job": len(experiment.layers),  # there is little to compute, and each job costs a Python start
        "features_per_job": None,
        "features": {"kind": "explicit", "features": listed},
        "concepts": concepts,
        "explanations": None,
    } | ({"judge": {"kind": "none"}} if question.words else {})


def feature_texts(run: Run) -> pl.DataFrame:
    """scoring.COLUMNS of the candidates' texts, prompts in their order."""
    return texts_of(run).with_columns(kind=pl.lit(FEATURE), name="target").select(COLUMNS)


def of_rivals(
    experiment: Sweep, question: RecommendRequest, concepts: Mapping[str, list[str]], prompts: Path, n_prompts: int
) -> dict[str, Any]:
    """The experiment file of prompting and a supervised vector: the comparison's, with texts sampled as those of the features."""
    methods: dict[str, Any] = {"methods": ["unsteered", *RIVALS], "vectors": None, "concepts": dict(concepts), "words": {}}
    methods |= {"prompts": str(prompts), "published_prompts": None, "n_prompts": n_prompts}
    sampling = experiment.sampling.model_dump(include={*SamplingSettings.model_fields} - {"seed"})
    return {"extends": question.comparison, "methods": methods | sampling}


def method_texts(
    source: Run, comparison: Run, question: RecommendRequest, concepts: Mapping[str, list[str]], further: Mapping[str, str]
) -> pl.DataFrame:
    """Texts of prompting and of a supervised vector, at the strengths of the comparison, on its prompts and on further ones."""
    prompts = comparison.prompts() | dict(further)
    values = of_rivals(source.sweep, question, concepts, _written(comparison, "rivals", question.concept, prompts), len(prompts))
    are_judged = source.sweep.is_rated and not question.words
    run = derived_run(comparison, "rivals", values, question, TARGETS if are_judged else (PERPLEXITY.name,))
    rows = (of_fits(texts_of(run)), run.rows(FITS).cast({"layer": pl.Int64}))
    texts, fits = (at_every_layer(table, run.experiment.layers) for table in rows)
    joined = texts.join(fits.select(*FITS.keys, "n_texts"), on=FITS.keys, maintain_order="left")
    rivals = joined.filter(pl.col("method").is_in([key_of(name) for name in RIVALS]), concept_id=text_id(question.concept))
    learnt = pl.when(pl.col("n_texts") > 0).then(pl.format("{} from {} labelled texts", "method", "n_texts")).otherwise("method")
    return rivals.with_columns(kind="method", name=learnt).select(COLUMNS)


def _written(source: Run, purpose: str, concept: str, prompts: Mapping[str, str]) -> Path:
    """The file of a derived experiment's prompts, one a line."""
    file = source.workflow.derived_dir / f"{derived_name(source, purpose, concept)}.txt"
    write_text(file, "".join(f"{prompt}\n" for prompt in prompts.values()))
    return file


def texts_of(run: Run) -> pl.DataFrame:
    """Texts of the run's prompts with their losses and, where there is a judge, ratings, prompts in their order: GENERATIONS keys and
    columns, and `prompt`."""
    keys, prompts = GENERATIONS.keys, run.prompts()
    texts, losses = run.rows(GENERATIONS, columns=["text"]), run.rows(PERPLEXITY, columns=["mean_nll"])
    rows = texts.join(run.rows_if_any(JUDGEMENTS), on=keys, how="left").join(losses, on=keys)
    rows = rows.filter(pl.col("prefix_id").is_in(list(prompts)))
    number = {prefix_id: number for number, prefix_id in enumerate(prompts)}
    ordered = rows.sort(pl.col("prefix_id").replace_strict(number, return_dtype=pl.Int64), *keys)
    return ordered.with_columns(prompt=pl.col("prefix_id").replace_strict(dict(prompts)), layer=pl.col("layer").cast(pl.Int64))
