"""Train one seed of the shipped world from nothing, and adopt a trained one.

Everything lies in one folder: model/, reference_model/, saes/layer_NN/, oracle/, texts.parquet, topics.json, metrics.json. It is
built beside its final name and renamed when complete, so a folder of that name is never half a world.
"""

import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt16
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from saesteer.core.files import write_json
from saesteer.world.lexicon import Lexicon, load_lexicon
from studies.world import corpus, measure, oracle, train_model, train_saes
from studies.world.oracle import OracleSizes
from studies.world.tokenizer import build_tokenizer
from studies.world.train_model import ModelRecipe
from studies.world.train_saes import SaeRecipe

logger = logging.getLogger(__name__)

MODEL_NAME = "saesteer-world"
MODEL, REFERENCE, SAES, ORACLE = "model", "reference_model", "saes", "oracle"
TEXTS, TOPICS, METRICS, CARD = "texts.parquet", "topics.json", "metrics.json", "README.md"
SHIPPED = (MODEL, REFERENCE, SAES, ORACLE, TEXTS, TOPICS)
THREADS = 2  # fixed, because sums over more threads round differently


@dataclass(frozen=True)
class WorldRecipe:
    """Every size of a world; the defaults are the shipped one's."""

    model: ModelRecipe = field(default_factory=ModelRecipe)
    sae: SaeRecipe = field(default_factory=SaeRecipe)
    oracle: OracleSizes = field(default_factory=OracleSizes)
    sae_documents: int = 8000
    held_out_documents: int = 1000
    labelled_texts: int = 2000


@dataclass(frozen=True)
class Build:
    """What every phase of a build needs: where, from which words, with which seed and sizes."""

    folder: Path
    lexicon: Lexicon
    tokenizer: PreTrainedTokenizerFast
    seed: int
    recipe: WorldRecipe


def build_world(lexicon_path: Path, prefixes_path: Path, out: Path, seed: int, recipe: WorldRecipe) -> dict[str, Any]:
    """Build into `out`, replacing what is there; returns the metrics that it also writes."""
    torch.set_num_threads(THREADS)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    lexicon = load_lexicon(lexicon_path, prefixes_path)
    build = Build(partial, lexicon, build_tokenizer(lexicon), seed, recipe)
    seconds = {}
    for name in (MODEL, REFERENCE):
        seconds[name] = timed(train_one_model, build, name)
    seconds[SAES] = timed(train_all_saes, build)
    seconds["texts_oracle_and_measures"] = timed(finish, build)
    metrics = add_seconds(partial, seconds)
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    logger.info("world of seed %d: %s, %.0f s", seed, out, sum(seconds.values()))
    return metrics


def timed(phase: Any, *arguments: Any) -> float:
    """Run a phase; returns how many seconds it took."""
    start = time.monotonic()
    phase(*arguments)
    return round(time.monotonic() - start, 1)


def train_one_model(build: Build, name: str) -> None:
    """Train and store the LM `name`; both see the same texts, each in its own order and from its own initial weights."""
    recipe = build.recipe.model
    rows = corpus.training_rows(build.lexicon, build.tokenizer, build.seed, "train", recipe.steps * recipe.batch)
    model = train_model.new_model(recipe, len(build.tokenizer), build.seed, name)
    train_model.train(model, rows, recipe, build.seed, name)
    train_model.save_model(model, build.tokenizer, build.folder / name)


def train_all_saes(build: Build) -> None:
    """Train and store an SAE for each layer of the stored model, on texts of their own stream."""
    model = measure.load_model(build.folder / MODEL)
    rows = corpus.training_rows(build.lexicon, build.tokenizer, build.seed, "saes", build.recipe.sae_documents)
    for layer, x in enumerate(train_saes.residuals(model, rows)):
        weights = train_saes.train_sae(x, build.recipe.sae, build.seed, layer)
        train_saes.save_sae(weights, build.folder / SAES / f"layer_{layer:02d}", layer, MODEL_NAME)


def finish(build: Build) -> None:
    """Write texts, topics, oracle and metrics beside the trained weights, using the tokenizer as stored."""
    tokenizer = AutoTokenizer.from_pretrained(build.folder / MODEL, trust_remote_code=False)
    corpus.write_texts(
        build.folder / TEXTS, tokenizer, corpus.fitted_corpus(build.lexicon, build.seed, "labelled", build.recipe.labelled_texts)
    )
    (build.folder / TOPICS).write_text(json.dumps(build.lexicon.names, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    reference = measure.load_model(build.folder / REFERENCE)
    fitted, measured = oracle.fit_oracle(build.lexicon, tokenizer, reference, build.seed, build.recipe.oracle)
    oracle.save_oracle(fitted, measured, build.recipe.oracle, build.folder / ORACLE)
    metrics = {
        "seed": build.seed,
        "recipe": asdict(build.recipe),
        "language": language_metrics(build),
        "layers": layer_metrics(build),
        "oracle": {**measured, "thresholds": asdict(fitted.thresholds)},
        "seconds": None,
        "samples": measure.samples(measure.load_model(build.folder / MODEL), tokenizer, build.seed),
    }
    write_json(build.folder / METRICS, metrics)


def language_metrics(build: Build) -> dict[str, int | float]:
    """Both models' held-out losses beside the grammar's bound, and sizes."""
    held_out = corpus.fitted_corpus(build.lexicon, build.seed, "held_out", build.recipe.held_out_documents)
    rows = corpus.padded_rows(build.tokenizer, held_out.documents)
    model = measure.load_model(build.folder / MODEL)
    recipe = build.recipe.model
    trained_on = corpus.training_rows(build.lexicon, build.tokenizer, build.seed, "train", recipe.steps * recipe.batch)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(build.tokenizer),
        "training_tokens": int(corpus.is_content(trained_on).sum()),
        "held_out_tokens": held_out.n_tokens,
        "entropy_bound": held_out.nats / held_out.n_tokens,
        "model_loss": measure.held_out_loss(model, rows),
        "reference_loss": measure.held_out_loss(measure.load_model(build.folder / REFERENCE), rows),
    }


def layer_metrics(build: Build) -> list[dict[str, int | float]]:
    """Each layer's residual norm and what its SAE keeps, on held-out texts."""
    held_out = corpus.fitted_corpus(build.lexicon, build.seed, "held_out", build.recipe.held_out_documents)
    rows = corpus.padded_rows(build.tokenizer, held_out.documents)
    model = measure.load_model(build.folder / MODEL)
    return measures_of_saes(model, build.folder / SAES, rows, measure.held_out_loss(model, rows))


def measures_of_saes(
    model: PreTrainedModel, saes: Path, rows: UInt16[np.ndarray, "row context"], clean: float
) -> list[dict[str, int | float]]:
    """What each layer's stored SAE keeps of the rows' residuals; `clean` is the model's loss on them."""
    layers = []
    for layer, x in enumerate(train_saes.residuals(model, rows)):
        sae = measure.load_sae(saes / f"layer_{layer:02d}")
        recovered = measure.loss_recovered(model, sae, layer, rows, x.mean(0), clean)
        layers.append({"layer": layer, **measure.sae_metrics(sae, x), "loss_recovered": recovered})
    return layers


def add_seconds(folder: Path, seconds: dict[str, float]) -> dict[str, Any]:
    """Put each phase's wall time into metrics.json (null until then); returns all metrics."""
    metrics: dict[str, Any] = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    metrics["seconds"] = {**seconds, "total": round(sum(seconds.values()), 1)}
    write_json(folder / METRICS, metrics)
    return metrics


def adopt(builds: Path, shipped: Path) -> dict[str, Any]:
    """Copy seed 0, the first, over the shipped world, with the metrics of every seed found beside it."""
    source = builds / "seed_0"
    missing = [name for name in (*SHIPPED, METRICS) if not (source / name).exists()]
    if missing:
        raise FileNotFoundError(f"{source} lacks {', '.join(missing)}: build it with `make world SEED=0`")
    seeds = [json.loads(path.read_text(encoding="utf-8")) for path in builds.glob(f"seed_*/{METRICS}") if path.parent.suffix != ".partial"]
    metrics = {"seeds": sorted(seeds, key=lambda one: one["seed"])}
    for name in SHIPPED:
        _replace(source / name, shipped / name)
    write_json(shipped / METRICS, metrics)
    return metrics


def _replace(source: Path, target: Path) -> None:
    if source.is_dir():
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
