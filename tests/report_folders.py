"""Results of experiments that never ran, full of texts that would do harm if a page took them for markup, and their reports."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from method_rows import LAYER, method_settings, method_summaries, synthetic_rows
from safetensors.numpy import save_file
from synthetic_tables import PREFIXES, main_tables, synthetic_examples, synthetic_features, synthetic_generations
from workflow_folder import ROOT

from saesteer.analysis.tables import OUTCOMES, STEERING
from saesteer.core.files import text_id, write_json
from saesteer.core.store import WantedRows, complete
from saesteer.core.tables import Table, write_summary
from saesteer.core.texts import as_generations
from saesteer.methods.compare.paper_values import our_protocol
from saesteer.methods.compare.tables import METHOD_SUMMARIES
from saesteer.run import Run
from saesteer.settings import Workflow, load_experiment, load_workflow
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.steps.activations import ACTIVATIONS
from saesteer.steps.features import FEATURES
from saesteer.steps.gen_success import GEN_SUCCESS
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.steps.perplexity import PERPLEXITY
from saesteer.summaries.summary import summary_tables

HOSTILE = (
    "</script><script>window.hurt=1</script>",
    "<img src=x onerror=window.hurt=1>",
    "<!--<script>",
    "line\u2028paragraph\u2029end\nnext",
    "'\"`${window.hurt=1}\\",
    "&lt;b&gt; \u202eback",
)
FACTORS = ("0", "2", "10", "20")
METHODS = ("unsteered", "diffmean", "sae_label", "prompting", "lora")


@dataclass(frozen=True)
class PromptedRun(Run):
    """A run whose prompts are these, not those of the experiment's file."""

    prompt_texts: Mapping[str, str] = field(default_factory=dict)

    def prompts_if_any(self) -> dict[str, str]:
        return dict(self.prompt_texts)


def workflow_in(folder: Path, name: str) -> Workflow:
    """A workflow whose data and figures lie in the folder."""
    folders = {"data_dir": folder / "data", "figures_dir": folder / "figures"}
    return load_workflow({"experiments": [name]}).model_copy(update=folders)


def copy_of(run: Run, folder: Path) -> Run:
    """The same run with a copy of its data."""
    shutil.copytree(run.workflow.data_dir, folder / "data")
    return replace(run, workflow=workflow_in(folder, run.name))


def spoilt(values: pl.Series) -> pl.Series:
    """Texts, each with one of HOSTILE behind it; null stays null."""
    texts = [None if value is None else f"{value} {HOSTILE[i % len(HOSTILE)]}" for i, value in enumerate(values)]
    return pl.Series(values.name, texts, pl.String)


def write_step(data: Path, table: Table, rows: pl.DataFrame) -> None:
    """Rows of a step in the part store, as a job leaves them."""
    by_layer = {int(of_layer["layer"][0]): of_layer for of_layer in rows.partition_by("layer", maintain_order=True)}
    wanted = [WantedRows(layer, [of_layer.select(table.keys[1:])], {"step": table.name}) for layer, of_layer in by_layer.items()]
    manifest = data / table.name / f"layers_{min(by_layer):02d}-{max(by_layer):02d}.json"
    complete(data / table.name, table, wanted, lambda missing: by_layer.values(), manifest)


def swept(folder: Path, n_layers: int = 2, n_features: int = 4) -> Run:
    """An experiment with a sweep, judged, all of its texts hostile."""
    data = folder / "data/tiny"
    for name, table in main_tables(n_layers, n_features, FACTORS, late_layers_from=1).items():
        rows = _spoilt_features(table) if name == "features" else table
        write_summary(summary_tables()[name], rows, data / f"tables/{name}.parquet")
    features = synthetic_features(n_layers, n_features)
    write_step(data, MAX_ACTIVATING_EXAMPLES, _spoilt_examples(synthetic_examples(features)))
    write_step(data, ACTIVATIONS, _activations(features))
    lens = features.select("layer", "feature", token_ids="top_logit_lens_token_ids", tokens="top_logit_lens_tokens")
    write_step(data, LOGIT_LENS, _with_ends(lens))
    texts = as_generations(synthetic_generations(features, FACTORS)).select(list(GENERATIONS.columns))
    write_step(data, GENERATIONS, texts.with_columns(spoilt(texts["text"])))
    _write_measures(data, texts)
    for layer in range(n_layers):
        rows = np.random.default_rng(layer).normal(size=(1024, 8)).astype(np.float32)
        path = data / f"saes/layer_{layer:02d}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({"W_dec": rows}, path)
    files = {str(layer): {"file": f"layer_{layer:02d}.safetensors"} for layer in range(n_layers)}
    write_json(data / f"saes/layers_00-{n_layers - 1:02d}.json", {"step": "saes", "layers": files})
    experiment = load_experiment("tiny", ROOT / "config/experiments")
    experiment = experiment.model_copy(update={"layers": tuple(range(n_layers)), "description": f"A test {HOSTILE[0]}"})
    prompts = {text_id(prompt): f"{prompt} {HOSTILE[1]}" for prompt in PREFIXES}
    return PromptedRun(workflow_in(folder, "tiny"), "tiny", experiment, prompt_texts=prompts)


def compared(folder: Path) -> Run:
    """A comparison of methods, all of its texts hostile."""
    data, prompts = folder / "data/methods", tuple(text_id(prompt) for prompt in PREFIXES)
    settings = method_settings(methods=list(METHODS))
    rows = synthetic_rows(settings, n_concepts=3, prompts=prompts)
    summaries = method_summaries(rows, prompts, settings, {LAYER: our_protocol(settings, "tiny", LAYER, "oracle", 3)})
    concepts = rows.concepts.with_columns(spoilt(rows.concepts["concept"]))
    names = dict(concepts.select("concept_id", "concept").rows())
    summaries["method_scores"] = summaries["method_scores"].with_columns(concept=pl.col("concept_id").replace_strict(names))
    for name, table in summaries.items():
        write_summary(METHOD_SUMMARIES[name], table, data / f"tables/{name}.parquet")
    write_summary(COMPARED_CONCEPTS, concepts, data / "tables/compared_concepts.parquet")
    features = _spoilt_features(synthetic_features(1, 4)).with_columns(layer=pl.lit(LAYER, pl.UInt16))
    write_summary(FEATURES, features, data / "tables/features.parquet")
    texts = rows.texts.with_columns(spoilt(rows.texts["text"]))
    for step, of_step in ((GENERATIONS, texts), (PERPLEXITY, rows.perplexity), (JUDGEMENTS, rows.judgements)):
        write_step(data, step, as_generations(of_step).select(list(step.columns)))
    experiment = load_experiment("tiny-methods", ROOT / "config/experiments")
    experiment = experiment.model_copy(update={"layers": (LAYER,), "methods": settings})
    return PromptedRun(workflow_in(folder, "methods"), "methods", experiment, prompt_texts=dict(zip(prompts, PREFIXES, strict=True)))


def _spoilt_features(features: pl.DataFrame) -> pl.DataFrame:
    lens = [
        [f"{tokens[0]}{HOSTILE[i % len(HOSTILE)]}", *tokens[1:]] for i, tokens in enumerate(features["top_logit_lens_tokens"].to_list())
    ]
    pages = ["javascript:window.hurt=1" if i % 2 else "https://www.neuronpedia.org/world/6-res/1" for i in range(features.height)]
    explanations = [[HOSTILE[i % len(HOSTILE)]] for i in range(features.height)]
    return features.with_columns(
        spoilt(features["concept"]), top_logit_lens_tokens=pl.Series(lens), page=pl.Series(pages), explanations=pl.Series(explanations)
    )


def _spoilt_examples(examples: pl.DataFrame) -> pl.DataFrame:
    rows = [
        [example | {"context": [*example["context"][:-1], HOSTILE[i % len(HOSTILE)]]} for example in of_feature]
        for i, of_feature in enumerate(examples["examples"].to_list())
    ]
    return examples.with_columns(
        examples=pl.Series(rows, dtype=MAX_ACTIVATING_EXAMPLES.schema["examples"]),
        reason=pl.when(pl.col("examples").list.len() == 0).then(pl.lit("never active")),
    )


def _with_ends(lens: pl.DataFrame) -> pl.DataFrame:
    """Top logit-lens tokens with logits 20.5, 19.5, ..., and the same tokens, the last first, as suppressed ones with −20.5, −19.5, ..."""
    falling = pl.col("token_ids").list.eval(20.5 - pl.int_range(pl.len())).cast(pl.List(pl.Float32))
    suppressed = {f"suppressed_{name}": pl.col(name).list.reverse() for name in ("token_ids", "tokens")}
    rows = lens.with_columns(logits=falling, suppressed_logits=falling.list.eval(-pl.element()), **suppressed)
    return rows.select(list(LOGIT_LENS.columns))


def _activations(features: pl.DataFrame) -> pl.DataFrame:
    """Of the one text that every example is of: each feature by 1 at its maximum, and by .25 at the token before."""
    rows = []
    for of_layer in features.partition_by("layer", maintain_order=True):
        numbers = of_layer["feature"].to_list()
        positions, values = [3, 4] * len(numbers), [0.25, 1.0] * len(numbers)
        rows.append((of_layer["layer"][0], "0" * 16, 10, 9, positions, [number for number in numbers for _ in (3, 4)], values))
    return pl.DataFrame(rows, schema=ACTIVATIONS.schema, orient="row")


def _write_measures(data: Path, texts: pl.DataFrame) -> None:
    keys, n = texts.select(GENERATIONS.keys), texts.height
    ratings = {"concept_rating": np.arange(n) % 3, "fluency_rating": np.full(n, 2), "judge_score": (np.arange(n) % 3).astype(float)}
    judged = keys.with_columns(
        **{name: pl.Series(values) for name, values in ratings.items()}, instruction_rating=None, concept_log_odds=None
    )
    lost = keys.with_columns(mean_nll=pl.Series(np.linspace(1, 5, n)), n_scored=pl.lit(12), whole_text_nll=pl.lit(2.0))
    success = keys.with_columns(**{f"gen_success_{k}": pl.lit(k // 5) for k in (1, 5, 20)})
    for table, rows in ((JUDGEMENTS, judged), (PERPLEXITY, lost), (GEN_SUCCESS, success)):
        write_step(data, table, rows.with_columns(reason=None).select(list(table.columns)).cast(table.schema))


def gains(run: Run) -> dict[str, float | None]:
    """LAYER/FEATURE -> held-out judge score minus the mean of the unsteered texts' over both halves; None without a judge score."""
    keys, steering = ["layer", "feature"], run.summary(STEERING)
    unsteered = steering.filter(factor="0").group_by(keys).agg(unsteered=pl.col("judge_score").mean())
    rows = run.summary(OUTCOMES).filter(rule=run.sweep.best_factor.rule).join(unsteered, on=keys)
    gain = pl.col("judge_score") - pl.col("unsteered")
    return {f"{layer}/{feature}": value for layer, feature, value in rows.select(*keys, gain.alias("gain")).rows()}


def first_order(run: Run) -> list[str]:
    """Every feature in the order in which the table shows them first: by gain, without one by net success, then by label."""
    features, outcomes = run.summary(FEATURES), run.summary(OUTCOMES).filter(rule=run.sweep.best_factor.rule)
    net = {f"{row['layer']}/{row['feature']}": row["net_gen_success_20"] for row in outcomes.iter_rows(named=True)}
    by_gain = gains(run)

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        name, label = f"{row['layer']}/{row['feature']}", " ".join((row["concept"] or row["explanation"] or "").split())
        gain, success = by_gain[name], net[name]
        score = (0, -gain) if gain is not None else (1, -success) if success is not None else (2, -row["output_score"])
        return score, label == "", label, row["layer"], row["feature"]

    return [f"{row['layer']}/{row['feature']}" for row in sorted(features.iter_rows(named=True), key=key)]
