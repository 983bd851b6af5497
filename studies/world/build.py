"""Train one seed of the shipped world from nothing, and adopt a trained one.

Everything lies in one folder: model/, reference_model/, saes/layer_NN/, oracle/, texts.parquet, topics.json, metrics.json.
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
from transformers import PreTrainedTokenizerFast

from saesteer.core.files import write_folder, write_json
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
    lexicon = load_lexicon(lexicon_path, prefixes_path)
    write_folder(out, lambda folder: build_all(Build(folder, lexicon, build_tokenizer(lexicon), seed, recipe)))
    metrics: dict[str, Any] = json.loads((out / METRICS).read_text(encoding="utf-8"))
    logger.info("world of seed %d: %s, %.0f s", seed, out, metrics["seconds"]["total"])
    return metrics


def build_all(build: Build) -> None:
    """Train both models and the SAEs, and write all else, with the seconds that each phase took."""
    started, seconds = time.monotonic(), dict[str, float]()

    def phase_ended(name: str) -> None:
        nonlocal started
        seconds[name], started = round(time.monotonic() - started, 1), time.monotonic()

    for name in (MODEL, REFERENCE):
        train_one_model(build, name)
        phase_ended(name)
    train_all_saes(build)
    phase_ended(SAES)
    metrics = finish(build)
    phase_ended("texts_oracle_and_measures")
    metrics["seconds"] = {**seconds, "total": round(sum(seconds.values()), 1)}
    write_json(build.folder / METRICS, metrics)


def train_one_model(build: Build, name: str) -> None:
    """Train and store the LM `name`; both see the same texts, each in its own order and from its own initial weights."""
    recipe = build.recipe.model
    model = train_model.new_model(recipe, len(build.tokenizer), build.seed, name)
    train_model.train(model, training_rows(build), recipe, build.seed, name)
    train_model.save_model(model, build.tokenizer, build.folder / name)


def training_rows(build: Build) -> UInt16[np.ndarray, "row context"]:
    """What both models are trained on."""
    recipe = build.recipe.model
    return corpus.training_rows(build.lexicon, build.tokenizer, build.seed, "train", recipe.steps * recipe.batch)


def train_all_saes(build: Build) -> None:
    """Train and store an SAE for each layer of the stored model, on texts of their own stream."""
    rows = corpus.training_rows(build.lexicon, build.tokenizer, build.seed, "saes", build.recipe.sae_documents)
    for layer, x in enumerate(train_saes.residuals(measure.load_model(build.folder / MODEL), rows)):
        weights = train_saes.train_sae(x, build.recipe.sae, build.seed, layer)
        train_saes.save_sae(weights, build.folder / SAES / f"layer_{layer:02d}", layer, MODEL_NAME)


def finish(build: Build) -> dict[str, Any]:
    """Write texts, topics and oracle beside the trained weights, using the tokenizer as stored; returns the metrics, without times."""
    folder, lexicon, seed, recipe = build.folder, build.lexicon, build.seed, build.recipe
    model, reference = measure.load_model(folder / MODEL), measure.load_model(folder / REFERENCE)
    corpus.write_texts(folder / TEXTS, model.tokenizer, corpus.fitted_corpus(lexicon, seed, "labelled", recipe.labelled_texts))
    (folder / TOPICS).write_text(json.dumps(lexicon.names, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    fitted, measured = oracle.fit_oracle(lexicon, reference, seed, recipe.oracle)
    oracle.save_oracle(fitted, measured, recipe.oracle, folder / ORACLE)
    held_out = corpus.fitted_corpus(lexicon, seed, "held_out", recipe.held_out_documents)
    rows = corpus.padded_rows(build.tokenizer, held_out.documents)
    model_loss = measure.held_out_loss(model, rows)
    language = {
        "parameters": sum(parameter.numel() for parameter in model.model.parameters()),
        "vocabulary": len(build.tokenizer),
        "training_tokens": int(corpus.is_content(training_rows(build)).sum()),
        "held_out_tokens": held_out.n_tokens,
        "entropy_bound": held_out.nats / held_out.n_tokens,
        "model_loss": model_loss,
        "reference_loss": measure.held_out_loss(reference, rows),
    }
    return {
        "seed": seed,
        "recipe": asdict(recipe),
        "language": language,
        "layers": measure.measures_of_saes(model, folder / SAES, rows, model_loss),
        "oracle": {**measured, "thresholds": asdict(fitted.thresholds)},
        "samples": measure.samples(model, seed),
    }


def adopt(builds: Path, shipped: Path) -> dict[str, Any]:
    """Copy seed 0, the first, over the shipped world, with the metrics of every seed found beside it."""
    source = builds / "seed_0"
    missing = [name for name in (*SHIPPED, METRICS) if not (source / name).exists()]
    if missing:
        raise FileNotFoundError(f"{source} lacks {', '.join(missing)}: build it with `make world SEED=0`")
    seeds = [json.loads(path.read_text(encoding="utf-8")) for path in builds.glob(f"seed_*/{METRICS}")]
    metrics = {"seeds": sorted(seeds, key=lambda seed: seed["seed"])}
    for name in SHIPPED:
        if (source / name).is_file():
            shutil.copyfile(source / name, shipped / name)
        else:
            shutil.rmtree(shipped / name, ignore_errors=True)
            shutil.copytree(source / name, shipped / name)
    write_json(shipped / METRICS, metrics)
    return metrics
