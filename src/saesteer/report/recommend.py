"""What `saesteer recommend` does: steer with the few features that a concept's name points to, have the texts judged, and say what to use.

The candidates are an experiment of their own, a file beside the one asked about, that takes over whatever rows are there already and gives
back those that it computed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from saesteer.analysis.recommendation import (
    FEATURE,
    STEERS,
    UNSTEERED,
    Choice,
    Estimate,
    Recommendation,
    candidates,
    estimated,
    fired_on,
    perplexity_ratio,
    recommend,
)
from saesteer.core.errors import SaesteerError, SettingsError
from saesteer.core.files import text_id
from saesteer.core.markdown import escaped, table
from saesteer.core.tables import FEATURES, FITS, GENERATIONS, JUDGEMENTS, PERPLEXITY, RECORDS, of_features, of_fits
from saesteer.engine.damage import N_CONTEXT, loss_rises, ordinary_texts
from saesteer.engine.generations import feature_addition
from saesteer.engine.models import MIN_ROWS
from saesteer.methods.compare.layers import at_every_layer
from saesteer.run import Run, open_run
from saesteer.settings import (
    Comparison,
    ExplainedFeatures,
    LocalRecords,
    NamedConcepts,
    NoJudge,
    Sweep,
    TopicConcepts,
    Workflow,
    experiment_name,
    load_experiment,
)
from saesteer.settings.methods import N_ORDINARY_TEXTS, ORDINARY_TOKENS
from saesteer.settings.registry import METHODS
from saesteer.sources.corpus import read_texts

RIVALS = ("prompting", "diffmean")
N_TEXTS = 5
"""Steered texts shown."""


@dataclass(frozen=True)
class Question:
    """What is asked: an experiment whose features are scored, a concept, and how much may be computed."""

    name: str
    concept: str
    n_per_layer: int
    cores: int
    configfile: Path
    comparison: str | None
    """A comparison of methods on the same model, whose settings and labelled texts serve for prompting and a supervised vector."""


@dataclass(frozen=True)
class Answer:
    """What is recommended, and what it rests on."""

    question: Question
    recommendation: Recommendation
    perplexity: Estimate | None
    """Of the recommended feature's texts, as a multiple of the unsteered ones'; None where nothing is recommended."""
    ordinary_loss: Estimate | None
    """What the feature adds to the loss on ordinary texts, nats a token; None where it has no texts of its own, or too short ones."""
    candidates: pl.DataFrame
    """FEATURES columns and `match`."""
    texts: pl.DataFrame
    """kind, layer, name, factor, prompt, text and ratings of every text, prompts in their order."""


def answer(workflow: Workflow, question: Question) -> Answer:
    """The answer; computes what is missing."""
    for name in (question.name, question.comparison):
        if name is not None:
            experiment_name(name)
    source = as_sweep(workflow, question.name)
    picked = picked_features(source, question)
    derived = computed(source, of_candidates(question, source.sweep, picked), question)
    rated = feature_texts(derived)
    if question.comparison:
        rated = pl.concat([rated, method_texts(workflow, question)])
    steered, unsteered = rated.filter(pl.col("factor") != UNSTEERED), rated.filter(factor=UNSTEERED, kind=FEATURE)
    made = recommend(question.concept, steered, unsteered, source.sweep.selection)
    if made.feature is None:
        return Answer(question, made, None, None, picked, rated)
    perplexity = perplexity_ratio(made.feature, steered, unsteered, source.sweep.selection)
    return Answer(question, made, perplexity, ordinary_loss(derived, made.feature), picked, rated)


def as_sweep(workflow: Workflow, name: str) -> Run:
    """The experiment as a sweep: of one that stops at the scores, with the sections of the sweep that it extends."""
    try:
        return Run(workflow, name, load_experiment(name, workflow.experiments_dir, kind="sweep"))
    except SettingsError as fault:
        raise SettingsError(f"to recommend is to steer: {name} has to be of kind sweep, or to extend one that is. {fault}") from fault


def ordinary_loss(run: Run, choice: Choice) -> Estimate | None:
    """What steering with the feature adds to the loss of ordinary texts, those of the experiment's records."""
    records, model = run.experiment.records, run.experiment.model
    if not isinstance(records, LocalRecords):
        return None
    corpus = read_texts(records.texts, run.model_folder(), model.bos, ORDINARY_TOKENS)["token_ids"]
    if (corpus.list.len() > N_CONTEXT).sum() < MIN_ROWS:
        return None
    texts = ordinary_texts(corpus.to_list(), N_ORDINARY_TEXTS, ORDINARY_TOKENS)
    sae = run.sae_with(choice.layer, int(choice.name))
    rises = loss_rises(run.model(), sae, feature_addition(sae, int(choice.name)), float(choice.factor), texts)
    return estimated(rises.tolist(), "ordinary loss", run.experiment.intervals)


def picked_features(run: Run, question: Question) -> pl.DataFrame:
    """The candidates' FEATURES columns and `match`; refused where nothing points to the concept."""
    experiment, path = run.sweep, run.summary_path(FEATURES)
    if isinstance(experiment.judge, NoJudge):
        raise SettingsError(f"experiment {question.name} has judge of kind none: a recommendation needs ratings: give it a judge")
    if not path.exists():
        raise SettingsError(f"there is no {path}: compute the scores first: snakemake --cores all {path}")
    features = run.summary(FEATURES)
    # A layer at a time: a large model's records fill the memory.
    fires = pl.concat(fired_on(run.rows(RECORDS, [layer])) for layer in experiment.layers)
    listed = experiment.features
    near = isinstance(listed, ExplainedFeatures) and (listed.query or "").lower() == question.concept.lower()
    known_of = features.join(fires, on=["layer", "feature"], how="left", maintain_order="left").with_columns(near=near)
    picked = candidates(known_of, question.concept, question.n_per_layer)
    if picked.is_empty():
        known = ", ".join(sorted(set(features["concept"].drop_nulls()))[:40]) or "none"
        raise SettingsError(
            f"none of the {features.height} features of {question.name} is labelled with, explained by, fires on or promotes"
            f" {question.concept!r}: labels are {known}"
        )
    return picked.join(features, on=["layer", "feature"], how="left", maintain_order="left")


def derived_name(name: str, concept: str) -> str:
    """Name of the experiment of a concept's candidates."""
    return f"{name}-recommend-{re.sub('[^a-z0-9]+', '-', concept.lower()).strip('-')}-{text_id(concept)[:4]}"


def of_candidates(question: Question, experiment: Sweep, picked: pl.DataFrame) -> dict[str, Any]:
    """The experiment file of the candidates, all rated against the concept."""
    listed = {layer: picked.filter(layer=layer)["feature"].sort().to_list() for layer in experiment.layers}
    concepts: dict[str, Any] = {"kind": "given", "concept": question.concept}
    if isinstance(experiment.concepts, TopicConcepts):
        concepts["topics"] = str(experiment.concepts.topics)
    return {
        "extends": question.name,
        "description": f"Candidates of {question.name} for {question.concept!r}, written by saesteer recommend",
        "kind": "sweep",
        "features": {"kind": "explicit", "features": listed},
        "concepts": concepts,
    }


def write_experiment(path: Path, values: Mapping[str, Any]) -> None:
    """Write an experiment file."""
    path.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), encoding="utf-8")


def computed(source: Run, values: Mapping[str, Any], question: Question) -> Run:
    """An experiment that is derived from another one, with its texts written and rated: it takes over the rows that the source has, and
    gives it the new ones."""
    derived = derived_name(source.name, question.concept)
    write_experiment(source.workflow.experiments_dir / f"{derived}.yaml", values)
    run = open_run(derived, source.workflow)
    share_parts(source.data, run.data)
    targets = [str(path) for table in (JUDGEMENTS, PERPLEXITY) for path in run.manifests(table.name)]
    target_of = "methods" if isinstance(run.experiment, Comparison) else "experiments"
    command = [sys.executable, "-m", "snakemake", *targets, "--cores", str(question.cores), "--rerun-incomplete", "--quiet", "rules"]
    command += ["--configfile", str(question.configfile), "--config", f"{target_of}=[{derived}]"]
    if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
        raise SaesteerError(f"the workflow of {derived} failed: see above, or logs/{derived}")
    share_parts(run.data, source.data)
    return run


def share_parts(source: Path, target: Path) -> None:
    """Link every part of one experiment's stores into another's: parts are never changed, and named by their own digest."""
    for path in source.glob("*/*/layer_*/*.parquet"):
        linked = target / path.relative_to(source)
        if not linked.exists():
            linked.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, linked)
    for path in source.glob("*/*/fingerprint.json"):
        linked = target / path.relative_to(source)
        if not linked.exists() and linked.parent.exists():
            os.link(path, linked)


def feature_texts(run: Run) -> pl.DataFrame:
    """Ratings and texts of the candidates' texts, prompts in their order."""
    joined = joined_texts([of_features(run.rows(table)) for table in _TABLES], ["layer", "feature", "factor", "prefix_id", "sample"])
    return in_order(joined.with_columns(kind=pl.lit(FEATURE), name=pl.col("feature").cast(pl.String)), run.prompts())


def method_texts(workflow: Workflow, question: Question) -> pl.DataFrame:
    """The same of prompting and a supervised vector, at the strengths of the comparison."""
    comparison = open_run(str(question.comparison), workflow)
    settings = comparison.comparison.methods
    if not isinstance(settings.concepts, NamedConcepts):
        raise SettingsError(f"{question.comparison}: methods.concepts is a published list: take one of kind topics or texts")
    field = "topics" if settings.concepts.kind == "topics" else "names"
    other = next(name for name in settings.concepts.names if name != question.concept)
    methods = {"methods": ["unsteered", *RIVALS], "concepts": {field: [question.concept, other]}, "words": {}}
    run = computed(comparison, {"extends": question.comparison, "methods": methods}, question)
    texts = [at_every_layer(of_fits(run.rows(table)), run.experiment.layers) for table in _TABLES]
    joined = joined_texts(texts, ["layer", "method", "concept_id", "factor", "prefix_id", "sample"])
    fits = at_every_layer(run.rows(FITS), run.experiment.layers).select(*FITS.keys, "n_texts")
    rivals = joined.join(fits, on=FITS.keys).filter(pl.col("method").is_in(RIVALS), concept_id=text_id(question.concept))
    learnt = pl.when(pl.col("n_texts") > 0).then(pl.format("{} from {} labelled texts", "method", "n_texts")).otherwise("method")
    return in_order(rivals.with_columns(kind="method", name=learnt), run.prompts())


_TABLES = (GENERATIONS, JUDGEMENTS, PERPLEXITY)


def joined_texts(tables: Sequence[pl.DataFrame], keys: list[str]) -> pl.DataFrame:
    """Texts with their ratings and losses, from the rows of `_TABLES`."""
    texts, ratings, losses = tables
    return texts.select(*keys, "text").join(ratings, on=keys).join(losses.select(*keys, "mean_nll"), on=keys)


def in_order(rows: pl.DataFrame, prompts: Mapping[str, str]) -> pl.DataFrame:
    """Rows of prompts, in the prompts' order."""
    place = {prompt: number for number, prompt in enumerate(prompts)}
    order = rows.filter(pl.col("prefix_id").is_in(list(place))).with_columns(
        place=pl.col("prefix_id").replace_strict(place, return_dtype=pl.Int64), prompt=pl.col("prefix_id").replace_strict(dict(prompts))
    )
    columns = [
        "kind",
        "layer",
        "name",
        "factor",
        "prefix_id",
        "prompt",
        "text",
        "judge_score",
        "concept_rating",
        "fluency_rating",
        "mean_nll",
    ]
    return order.sort("place").select(columns).cast({"layer": pl.Int64})


def sentences_of(made: Recommendation) -> list[str]:
    """The verdict in words."""
    first = _verdict(made)
    return [first, *(_rival(rival, behind, made) for rival, behind in zip(made.rivals, made.behind, strict=True))]


def _verdict(made: Recommendation) -> str:
    best = made.feature
    if best is None:
        return f"No text of a candidate for {made.concept!r} could be rated."
    where = f"feature {best.layer}/{best.name} at factor {best.factor}"
    score = f"judge score {shown(best.score)} of 2, {shown(best.above_unsteered, signed=True)} above unsteered"
    if made.verdict == "use":
        return f"Use {where}: {score}."
    if made.verdict == "weak":
        return f"The best candidate, {where}, steers weakly towards {made.concept!r}: {score}."
    return f"No candidate is seen to steer towards {made.concept!r}: the best is {where}, {score}."


def _rival(rival: Choice, behind: Estimate, made: Recommendation) -> str:
    has_layer = any(row.key == rival.kind and row.has_layer for row in METHODS)
    where = f"layer {rival.layer}, factor {rival.factor}" if has_layer else f"factor {rival.factor}"
    what = f"{rival.name} at {where}: judge score {shown(rival.score)}"
    if made.feature is None or behind.interval is None:
        return f"{what}."
    low, high = behind.interval
    against = (
        "better than the feature" if low > 0 else "worse than the feature" if high < 0 else "as good as the feature, as far as is seen"
    )
    instead = ": use it instead" if low > 0 and (rival.score.mean or 0.0) >= STEERS else ""
    return f"{what}; {against} ({shown(behind, signed=True)}){instead}."


def shown(estimate: Estimate | None, signed: bool = False) -> str:
    """mean [low, high], n."""
    if estimate is None or estimate.mean is None or estimate.interval is None:
        return "unknown"
    sign = "+" if signed else ""
    low, high = estimate.interval
    return f"{estimate.mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}] (n = {estimate.n})"


def page_of(made: Answer) -> str:
    """The answer as Markdown: verdict, what it does and what it breaks, candidates, and texts."""
    best = made.recommendation.feature
    parts = [f"# {made.question.name}: {escaped(made.question.concept)}\n", *(f"- {line}" for line in sentences_of(made.recommendation))]
    if best is not None:
        parts += [
            "",
            f"## Feature {best.layer}/{best.name} at factor {best.factor}\n",
            table(["measured", "mean [95 %]"], _measured(made, best)),
        ]
    head = ["feature", "matched by", "fires on", "writes", "input score", "output score", "best mean score", "at factor"]
    parts += ["", "## Candidates\n", table(head, _lines(made.candidates, made.texts))]
    if best is not None:
        chosen = made.texts.filter(kind=FEATURE, layer=best.layer, name=best.name)
        parts += ["", f"## Texts at factor {best.factor}, and unsteered\n"]
        parts.append(table(["prompt", "unsteered", "steered", "judge score"], _texts(chosen, best.factor)))
    return "\n".join(parts) + "\n"


def _measured(made: Answer, best: Choice) -> list[list[str]]:
    return [
        ["judge score, 0 to 2, held out", shown(best.score)],
        ["concept, 0 to 2, held out", shown(best.concept)],
        ["fluency, 0 to 2, held out", shown(best.fluency)],
        ["perplexity of its texts, × unsteered", shown(made.perplexity)],
        ["loss on ordinary text, nats a token more", shown(made.ordinary_loss, signed=True)],
    ]


def _lines(picked: pl.DataFrame, rated: pl.DataFrame) -> list[list[str]]:
    """A row a candidate; its best mean is over the prompts that chose its factor, and so too high."""
    steered = rated.filter(pl.col("factor") != UNSTEERED, kind=FEATURE)
    means = steered.group_by("layer", "name", "factor").agg(pl.col("judge_score").mean()).drop_nulls().sort("judge_score", descending=True)
    lines = []
    for row in picked.iter_rows(named=True):
        best = means.filter(layer=row["layer"], name=str(row["feature"])).rows(named=True)
        numbers = [f"{row[name]:.2f}" if row[name] is not None else "unknown" for name in ("input_score", "output_score")]
        at_best = [f"{best[0]['judge_score']:.2f}", best[0]["factor"]] if best else ["unrated", ""]
        fires = row["concept"] or row["explanation"] or "unclear"
        lines.append(
            [
                f"{row['layer']}/{row['feature']}",
                row["match"],
                escaped(fires),
                escaped(" ".join(row["lens_tokens"][:5])),
                *numbers,
                *at_best,
            ]
        )
    return lines


def _texts(chosen: pl.DataFrame, factor: str) -> list[list[str]]:
    """prompt, unsteered and steered text, score; of the first texts."""
    unsteered = chosen.filter(factor=UNSTEERED).select("prefix_id", unsteered="text")
    both = chosen.filter(factor=factor).join(unsteered, on="prefix_id", maintain_order="left").head(N_TEXTS)
    said = ("prompt", "unsteered", "text")
    return [
        [*(escaped(row[name] or "") for name in said), "" if row["judge_score"] is None else f"{row['judge_score']:.2f}"]
        for row in both.iter_rows(named=True)
    ]
